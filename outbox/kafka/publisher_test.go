package kafka

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
)

func TestPublisherKeepsTheContract(t *testing.T) {
	outboxtest.Publisher(t, func(t *testing.T) outboxtest.Subject {
		opts := []kfake.Opt{kfake.DataDir(t.TempDir()), kfake.SyncWrites()}
		c := startCluster(t, opts...)
		ports := kfake.Ports(portsOf(t, c.ListenAddrs())...)
		p := c.publisher(&Config{AckTimeout: 5 * time.Second})
		return outboxtest.Subject{
			Publisher: p,
			Received:  func(ctx context.Context) ([]outbox.Event, error) { return c.stored(ctx, DefaultTopic) },
			Refused: func(e outbox.Event) outbox.Event {
				e.Payload = make([]byte, 1_000_013)
				return e
			},
			Hang:     c.wire.hold,
			Restart:  func() { c.Close(); c.start(append(opts, ports)...) },
			Patience: time.Minute,
		}
	})
}

func TestConfigSaysWhereEventsGo(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "events"},
		{Config{Topic: "shop"}, "shop"},
		{Config{Topic: "shop.{aggregatetype}"}, "shop.batch"},
		{Config{Topic: "{aggregatetype}_{type}"}, "batch_assessment.completed"},
		{Config{TopicFor: func(e outbox.Event) string { return "for-" + e.AggregateID }}, "for-7"},
	} {
		c := startCluster(t, kfake.SeedTopics(3, "shop", "shop.batch", "batch_assessment.completed", "for-7"))
		p := c.publisher(&tt.cfg)
		e := event("7", 0)
		e.Headers = map[string]string{"traceparent": "00-ab-cd-01", "Two words": "é"}
		require.Empty(t, p.Publish(t.Context(), []outbox.Event{e}))
		records, err := c.records(t.Context(), tt.want)
		require.NoError(t, err)
		require.Len(t, records, 1)
		require.Equal(t, "7", string(records[0].Key))
		require.Equal(t, "0", string(records[0].Value))
		headers := map[string]string{}
		for _, h := range records[0].Headers {
			headers[h.Key] = string(h.Value)
		}
		require.Equal(t, map[string]string{
			"ce_specversion": "1.0", "ce_id": e.ID.String(), "ce_source": "endstate", "ce_type": "assessment.completed", "ce_subject": "7",
			"ce_time": e.OccurredAt.Format(time.RFC3339Nano), "ce_aggregatetype": "batch", "ce_schemaversion": "1", "content-type": "application/json",
			"ce_traceparent": "00-ab-cd-01", "ce_headers": `{"Two words":"\u00e9"}`,
		}, headers)
		got, err := Decode(records[0].Headers, records[0].Value)
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
}

func TestATopicsNameThatIsNoneIsRefused(t *testing.T) {
	c := startCluster(t)
	p := c.publisher(&Config{Topic: "{type}"})
	for _, eventType := range []string{"a b", "é", "a/b", strings.Repeat("x", 200) + strings.Repeat("y", 50), ".", ".."} {
		e := event("7", 0)
		e.Type = eventType
		errs := p.Publish(t.Context(), []outbox.Event{e})
		require.Len(t, errs, 1)
		require.ErrorIs(t, errs[0], outbox.ErrPermanent)
		require.ErrorContains(t, errs[0], "which Kafka doesn't take as a name")
	}
}

func TestConfigIsChecked(t *testing.T) {
	for message, cfg := range map[string]*Config{
		"Config.Topic and Config.TopicFor are both set": {Topic: "a", TopicFor: func(outbox.Event) string { return "a" }},
		`Config.Topic is "a b"`:                         {Topic: "a b"},
		`Config.Topic is "{id}"`:                        {Topic: "{id}"},
		"Config.Source is not a URI reference":          {Source: ":"},
		"Config.AckTimeout is -1s":                      {AckTimeout: -time.Second},
		"Config.MaxBatchBytes is 5, it goes from":       {MaxBatchBytes: 5},
	} {
		_, err := New(cfg, kgo.SeedBrokers("127.0.0.1:1"))
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, message)
	}
	for name, opt := range map[string]kgo.Opt{
		"DisableIdempotentWrite": kgo.DisableIdempotentWrite(), "AllowIdempotentProduceCancellation": kgo.AllowIdempotentProduceCancellation(),
		"DefaultProduceTopicAlways": kgo.DefaultProduceTopicAlways(), "TransactionalID": kgo.TransactionalID("x"),
		"StopProducerOnDataLossDetected": kgo.StopProducerOnDataLossDetected(),
	} {
		_, err := New(nil, kgo.SeedBrokers("127.0.0.1:1"), opt)
		require.ErrorIs(t, err, ErrConfig, name)
		require.ErrorContains(t, err, "kafka: invalid configuration: ")
	}
	_, err := New(nil, kgo.SeedBrokers())
	require.ErrorIs(t, err, ErrConfig)
	p, err := New(nil, kgo.SeedBrokers("b.example:9092", "a.example:9092"), kgo.RequiredAcks(kgo.LeaderAck()))
	require.NoError(t, err)
	defer p.Close()
	require.Equal(t, kgo.AllISRAcks(), p.client.OptValue(kgo.RequiredAcks), "it can't be changed")
	require.Equal(t, "kafka://a.example:9092,b.example:9092", p.Destination())
}

func TestDecode(t *testing.T) {
	e := event("7", 1)
	for message, headers := range map[string][]kgo.RecordHeader{
		`specversion is "", not 1.0`:       {{Key: "other", Value: []byte("x")}},
		`header "ce_id" appears twice`:     {{Key: "ce_id"}, {Key: "ce_id"}},
		`its content type is "application`: {{Key: "content-type", Value: []byte("application/cloudevents-batch+json")}},
	} {
		_, err := Decode(headers, nil)
		require.ErrorIs(t, err, ErrNotEvent)
		require.ErrorContains(t, err, message)
	}
	got, err := Decode([]kgo.RecordHeader{{Key: "Content-Type", Value: []byte("application/cloudevents+json; charset=utf-8")}},
		[]byte(`{"specversion":"1.0","id":"`+e.ID.String()+`","source":"/shop","type":"assessment.completed","data":{"a":1}}`))
	require.NoError(t, err)
	require.Equal(t, e.ID, got.ID)
	require.JSONEq(t, `{"a":1}`, string(got.Payload))
}
