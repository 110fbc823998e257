package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/endstate-go/endstate/outbox"
)

// F39: the brokers write a batch, and the replies get lost. The client sends it again, and it is there once.
func TestAProduceRequestWhoseReplyIsLostIsWrittenOnce(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	p := c.publisher(&Config{AckTimeout: time.Minute})
	require.Empty(t, p.Publish(t.Context(), ofAggregates(1, "a", "b", "c", "d", "e")))
	const lost = 4
	c.wire.lose.Store(lost)
	batch := ofAggregates(50, "a", "b", "c", "d", "e")
	require.Empty(t, p.Publish(t.Context(), batch))
	require.GreaterOrEqual(t, c.wire.lost.Load(), int32(lost), "the fault fired")
	got := c.mustStored(DefaultTopic)
	require.Len(t, got, 5+len(batch), "each of them once")
	for _, a := range []string{"a", "b", "c", "d", "e"} {
		require.Equal(t, append([]int{0}, upTo(50)...), numbers(got, a))
	}
}

// F39: the call ends while a request is on its way. The client sends nothing of it later, and what comes next isn't taken for a
// repetition of it.
func TestNothingIsSentAfterTheReturn(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	p := c.publisher(nil, kgo.DisableClientMetrics()) // whose connection could hold up what is sent
	require.Empty(t, p.Publish(t.Context(), events(1)))
	var produced atomic.Int32
	arrived := make(chan struct{}, 100)
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		produced.Add(1)
		arrived <- struct{}{}
		return nil, nil, false
	})
	first := ofAggregates(3, "a")
	for round := range 3 {
		before := produced.Load()
		release := c.wire.hold()
		ctx, cancel := context.WithCancelCause(t.Context())
		given := errors.New("the relay stops")
		var waiting sync.WaitGroup
		waiting.Go(func() {
			<-arrived // and its answer doesn't
			cancel(given)
		})
		errs := p.Publish(ctx, first)
		require.Len(t, errs, len(first))
		for _, err := range errs {
			require.ErrorIs(t, err, given, "in round %d", round)
			require.NotErrorIs(t, err, outbox.ErrPermanent)
		}
		waiting.Wait()
		// The client counts a record until just after it has said what became of it. With the wire held, one on its way would stay.
		eventually(t, "nothing is buffered", func() bool { return p.client.BufferedProduceRecords() == 0 })
		release()
		next := event("b", 0)
		require.Empty(t, p.Publish(t.Context(), []outbox.Event{next}))
		<-arrived
		require.Equal(t, before+2, produced.Load(), "the one that was on its way, and the next one")
		got := c.mustStored(DefaultTopic)
		require.Equal(t, next.ID, got[len(got)-1].ID, "behind what was on its way")
	}
	require.Len(t, c.mustStored(DefaultTopic), 1+3*(len(first)+1))
	require.Equal(t, upTo(3), numbers(c.mustStored(DefaultTopic), "a"))
}

// F39: brokers are stopped, and leaders move, while events are published.
func TestBrokersStopAndLeadersMove(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	p := c.publisher(&Config{AckTimeout: 10 * time.Second})
	aggregates := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	n := 0
	publish := func() {
		batch := make([]outbox.Event, 0, 4*len(aggregates))
		for range 4 {
			for _, a := range aggregates {
				batch = append(batch, event(a, n))
			}
			n++
		}
		eventually(t, "the cluster takes it", func() bool { return errors.Join(p.Publish(t.Context(), batch)...) == nil })
	}
	publish()
	for round := range int32(6) {
		epochs := 0
		for _, info := range c.PartitionInfos(DefaultTopic) {
			epochs += int(info.Epoch)
		}
		switch round {
		case 2, 4:
			require.NoError(t, c.RemoveNode(round/2-1), "a broker is gone")
			_, _, err := c.AddNode(round/2-1+10, 0)
			require.NoError(t, err)
		default:
			c.ShufflePartitionLeaders()
		}
		moved := 0
		for _, info := range c.PartitionInfos(DefaultTopic) {
			moved += int(info.Epoch)
		}
		require.Greater(t, moved, epochs, "the fault fired")
		for range 3 {
			publish()
		}
	}
	got := c.mustStored(DefaultTopic)
	for _, a := range aggregates {
		require.Equal(t, upTo(n), numbers(got, a))
	}
}

// What the publisher's promises rest on can't be changed by a service's options.
func TestThePublishersOwnOptions(t *testing.T) {
	t.Parallel()
	p, err := New(nil, kgo.SeedBrokers("127.0.0.1:1"), kgo.RecordRetries(1), kgo.RecordDeliveryTimeout(time.Second), kgo.MaxBufferedRecords(1), kgo.ProducerBatchMaxBytes(2000))
	require.NoError(t, err)
	defer p.Close()
	require.Equal(t, true, p.client.OptValue(kgo.ManualFlushing), "else a batch's first record is sent before its last one is there, and its refusal comes too late for them")
	require.EqualValues(t, math.MaxInt, p.client.OptValue(kgo.RecordRetries))
	require.EqualValues(t, 0, p.client.OptValue(kgo.RecordDeliveryTimeout))
	require.EqualValues(t, math.MaxInt, p.client.OptValue(kgo.MaxBufferedRecords))
	require.EqualValues(t, 1_000_012, p.client.OptValue(kgo.ProducerBatchMaxBytes))
	require.Equal(t, kgo.AllISRAcks(), p.client.OptValue(kgo.RequiredAcks))
}

// What a broker says of a batch, and what becomes of it.
func TestWhatIsPermanent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err       *kerr.Error
		permanent bool
	}{
		{kerr.MessageTooLarge, true}, {kerr.RecordListTooLarge, true}, {kerr.InvalidRecord, true}, {kerr.InvalidTimestamp, true}, {kerr.PolicyViolation, true},
		{kerr.InvalidTopicException, true}, {kerr.UnsupportedForMessageFormat, true},
		{kerr.TopicAuthorizationFailed, false}, {kerr.ClusterAuthorizationFailed, false}, {kerr.UnknownTopicOrPartition, false}, {kerr.CorruptMessage, false},
		{kerr.NotEnoughReplicas, false}, {kerr.NotLeaderForPartition, false}, {kerr.KafkaStorageError, false}, {kerr.RequestTimedOut, false},
	} {
		t.Run(tt.err.Message, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
			p := c.publisher(&Config{AckTimeout: 2 * time.Second})
			fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: DefaultTopic, Err: tt.err, Count: -1})
			errs := p.Publish(t.Context(), events(1))
			require.Positive(t, fault.Hits(), "the fault fired")
			require.Len(t, errs, 1)
			require.ErrorContains(t, errs[0], `kafka: publish to "events": `)
			require.Equal(t, tt.permanent, errors.Is(errs[0], outbox.ErrPermanent), errs[0])
			fault.Remove()
			again := events(1)
			eventually(t, "it works again", func() bool { return p.Publish(t.Context(), again) == nil })
		})
	}
}

// A record for which a broker refuses a batch fails alone: the events that were with it are sent one by one.
func TestARefusedBatchIsSentOneByOne(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	p := c.publisher(nil)
	batch := events(20)
	fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: DefaultTopic, Err: kerr.InvalidRecord, Count: 4})
	errs := p.Publish(t.Context(), batch)
	require.Equal(t, 4, fault.Hits(), "the fault fired: for all, and then for the first three")
	for i, err := range errs {
		if i < 3 {
			require.ErrorIs(t, err, outbox.ErrPermanent)
		} else {
			require.NoError(t, err)
		}
	}
	got := c.mustStored(DefaultTopic)
	require.Len(t, got, 17)
}

// A client that can't connect, or sign in, says why, and without the password.
func TestSecuredClusters(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(nil) // for its certificate
	defer server.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Certificate())
	c := startCluster(t, kfake.TLS(&tls.Config{Certificates: server.TLS.Certificates}), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "relay", "plain-secret"), kfake.Superuser("SCRAM-SHA-256", "r256", "s256"), kfake.Superuser("SCRAM-SHA-512", "r512", "s512"))
	secure := kgo.DialTLSConfig(&tls.Config{RootCAs: trusted})
	c.dials = []kgo.Opt{secure, kgo.SASL(plain.Auth{User: "relay", Pass: "plain-secret"}.AsMechanism())}
	n := 0
	for name, opts := range map[string][]kgo.Opt{
		"plain":         {secure, kgo.SASL(plain.Auth{User: "relay", Pass: "plain-secret"}.AsMechanism())},
		"scram-sha-256": {secure, kgo.SASL(scram.Auth{User: "r256", Pass: "s256"}.AsSha256Mechanism())},
		"scram-sha-512": {secure, kgo.SASL(scram.Auth{User: "r512", Pass: "s512"}.AsSha512Mechanism())},
	} {
		p, err := New(nil, append(opts, kgo.SeedBrokers(c.ListenAddrs()...))...)
		require.NoError(t, err)
		require.NoError(t, p.Ping(t.Context()), name)
		require.Empty(t, p.Publish(t.Context(), events(2)), name)
		p.Close()
		n += 2
	}
	require.Len(t, c.mustStored(DefaultTopic), n)
	refused := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.SASLAuthenticate}, TopLevel: true, Err: kerr.SaslAuthenticationFailed, Count: -1}) // kfake hangs up, Kafka says why
	for says, opts := range map[string][]kgo.Opt{
		"the last connection to a broker failed: SASL_AUTHENTICATION_FAILED": {secure, kgo.SASL(plain.Auth{User: "relay", Pass: "another-secret"}.AsMechanism())},
		"unknown authority":                        {kgo.DialTLSConfig(&tls.Config{}), kgo.SASL(plain.Auth{User: "relay", Pass: "another-secret"}.AsMechanism())},
		"broker closed the connection immediately": {kgo.SASL(plain.Auth{User: "relay", Pass: "another-secret"}.AsMechanism())},
	} {
		p, err := New(&Config{AckTimeout: 2 * time.Second, Logger: silent}, append(opts, kgo.SeedBrokers(c.ListenAddrs()...))...)
		require.NoError(t, err)
		errs := p.Publish(t.Context(), events(1))
		require.Len(t, errs, 1)
		require.ErrorContains(t, errs[0], says)
		require.NotContains(t, errs[0].Error(), "secret")
		require.NotErrorIs(t, errs[0], outbox.ErrPermanent)
		p.Close()
	}
	require.Positive(t, refused.Hits(), "the fault fired")
}

// A broker that has lost what it acknowledged is noticed, since the events have to be replayed.
func TestLostDataIsLogged(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	log := &recorded{}
	p := c.publisher(&Config{Logger: log.logger(), AckTimeout: time.Minute})
	require.Empty(t, p.Publish(t.Context(), events(1)))
	fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: DefaultTopic, Err: kerr.OutOfOrderSequenceNumber})
	require.Empty(t, p.Publish(t.Context(), events(1)), "it is published all the same")
	require.Equal(t, 1, fault.Hits())
	eventually(t, "it is logged", func() bool { return log.has("a broker has lost events that it had acknowledged") })
}

// F39: relays that share a Publisher take turns: the end of one's call takes nothing of another's with it.
func TestACallThatEndsLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	p := c.publisher(nil)
	require.Empty(t, p.Publish(t.Context(), events(1)))
	arrived := make(chan struct{}, 100)
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		arrived <- struct{}{}
		return nil, nil, false
	})
	release := c.wire.hold()
	ctx, stop := context.WithCancel(t.Context())
	ended, others := make(chan []error, 1), make(chan []error, 1)
	go func() { ended <- p.Publish(ctx, ofAggregates(1, "a")) }()
	<-arrived
	go func() { others <- p.Publish(t.Context(), ofAggregates(1, "b")) }()
	for range 100 { // in which the other one would begin, if it didn't wait
		if p.client.BufferedProduceRecords() > 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	require.ErrorIs(t, errors.Join(<-ended...), context.Canceled)
	release()
	require.Empty(t, <-others)
}

// Relays that share a Publisher take turns, and one that hangs keeps no other beyond its context.
func TestCallsThatWaitForTheirTurnEndWithTheirContexts(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	p := c.publisher(nil)
	p.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	errs := p.Publish(ctx, []outbox.Event{{ID: uuid.New(), AggregateType: "batch", AggregateID: "1", Type: "t"}, event("2", 0)})
	require.Len(t, errs, 2)
	require.ErrorIs(t, errors.Join(errs...), context.Canceled)
	require.EqualError(t, errs[1], fmt.Sprintf("kafka: not sent: %v", context.Canceled))
	<-p.turn
}

// A Publisher is closed while a call is under way, and called once more.
func TestCloseEndsACall(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(1, DefaultTopic))
	p := c.publisher(&Config{AckTimeout: time.Hour})
	require.Empty(t, p.Publish(t.Context(), events(1)))
	arrived := make(chan struct{}, 100)
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		arrived <- struct{}{}
		return nil, nil, false
	})
	defer c.wire.hold()()
	ended := make(chan []error, 1)
	go func() { ended <- p.Publish(t.Context(), ofAggregates(2, "a", "b")) }()
	<-arrived
	p.Close()
	for _, err := range <-ended {
		require.ErrorIs(t, err, kgo.ErrClientClosed)
	}
	for _, err := range p.Publish(t.Context(), ofAggregates(2, "a", "b")) {
		require.ErrorIs(t, err, kgo.ErrClientClosed)
	}
}
