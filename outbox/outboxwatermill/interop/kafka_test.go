package interop

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
	"github.com/endstate-go/endstate/outbox/outboxwatermill"
)

const (
	topic      = "events"
	partitions = 4
)

// toKafka is a publisher that waits for all replicas, and keeps an aggregate in a partition.
func toKafka(t *testing.T, cluster *kfake.Cluster) *outboxwatermill.Publisher {
	t.Helper()
	c := wkafka.DefaultSaramaSyncPublisherConfig()
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.MaxMessageBytes = 300_000
	c.Metadata.Retry.Backoff, c.Producer.Retry.Backoff = 20*time.Millisecond, 20*time.Millisecond
	c.Version = sarama.V2_1_0_0
	to, err := wkafka.NewPublisher(wkafka.PublisherConfig{Brokers: cluster.ListenAddrs(), Marshaler: wkafka.NewWithPartitioningMarshaler(outboxwatermill.PartitionKey), OverwriteSaramaConfig: c}, watermill.NopLogger{})
	require.NoError(t, err)
	p, err := outboxwatermill.New(to, &outboxwatermill.Config{Topic: topic, Permanent: func(err error) bool {
		_, config := errors.AsType[sarama.ConfigurationError](err) // a message that is too large for the producer
		return config || errors.Is(err, sarama.ErrMessageSizeTooLarge)
	}})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, to.Close())
		p.Wait()
	})
	return p
}

func startKafka(t *testing.T) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	return cluster
}

// inKafka reads the topic from its start, by Watermill's own unmarshalling.
func inKafka(cluster *kfake.Cluster) func(context.Context) ([]outbox.Event, error) {
	return func(ctx context.Context) (got []outbox.Event, err error) {
		client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			return nil, err
		}
		defer client.Close()
		ends := kmsg.NewPtrListOffsetsRequest()
		of := kmsg.NewListOffsetsRequestTopic()
		of.Topic = topic
		for n := range int32(partitions) {
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition, p.Timestamp = n, -1
			of.Partitions = append(of.Partitions, p)
		}
		ends.Topics = append(ends.Topics, of)
		var total int64
		for _, shard := range client.RequestSharded(ctx, ends) {
			if shard.Err != nil {
				return nil, shard.Err
			}
			for _, p := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions {
				total += p.Offset
			}
		}
		for int64(len(got)) < total {
			fetches := client.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				return nil, err
			}
			for _, r := range fetches.Records() {
				m := &sarama.ConsumerMessage{Value: r.Value}
				for _, h := range r.Headers {
					m.Headers = append(m.Headers, &sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
				}
				msg, err := wkafka.DefaultMarshaler{}.Unmarshal(m)
				if err != nil {
					return nil, err
				}
				e, err := outboxwatermill.Decode(msg)
				if err != nil {
					return nil, err
				}
				got = append(got, e)
			}
		}
		return got, nil
	}
}

func TestKafkaKeepsTheContract(t *testing.T) {
	outboxtest.Publisher(t, func(t *testing.T) outboxtest.Subject {
		cluster := startKafka(t)
		return outboxtest.Subject{
			Publisher: toKafka(t, cluster), Received: inKafka(cluster),
			Refused: func(e outbox.Event) outbox.Event {
				e.Payload = make([]byte, 400_000)
				return e
			},
			Patience: time.Minute,
		}
	})
}

// F47: a broker that refuses for a while costs nothing: the failure is its event's, and a repeat gets through.
func TestKafkaRefusesForAWhile(t *testing.T) {
	cluster := startKafka(t)
	p := toKafka(t, cluster)
	require.Empty(t, p.Publish(t.Context(), events(1)))
	var refused atomic.Int64
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if refused.Add(1) > 20 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.(*kmsg.ProduceRequest).Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, 29 // TOPIC_AUTHORIZATION_FAILED
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	batch := events(8)
	errs := p.Publish(t.Context(), batch)
	require.Len(t, errs, 8)
	require.ErrorIs(t, errs[0], sarama.ErrTopicAuthorizationFailed)
	require.NotErrorIs(t, errs[0], outbox.ErrPermanent)
	require.Eventually(t, func() bool { return p.Publish(t.Context(), batch) == nil }, time.Minute, 10*time.Millisecond)
	require.Greater(t, refused.Load(), int64(20))
	got, err := inKafka(cluster)(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(got), 9)
}
