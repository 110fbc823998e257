package soak

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/testserver"
	"github.com/endstate-go/endstate/outbox/kafka"
	"github.com/endstate-go/endstate/outbox/natsjs"
	"github.com/endstate-go/endstate/outbox/redisstream"
)

// addresses are where the brokers are.
type addresses struct {
	NATS, Redis string
	Kafka       []string
}

// brokers are those of one round.
type brokers struct {
	t     *testing.T
	mu    sync.Mutex // held while a fault strikes one of them
	redis *testserver.Redis
	kafka *kfake.Cluster

	nats struct {
		dir  string
		port int
		mu   sync.Mutex
		kill func()
	}
	nodes int32 // how many Kafka has had
}

func startBrokers(t *testing.T) *brokers {
	t.Helper()
	b := &brokers{t: t, nodes: 3}
	b.redis = dbtest.StartRedis(t, "--appendonly", "yes", "--appendfsync", "no")
	var err error
	b.kafka, err = kfake.NewCluster(kfake.NumBrokers(int(b.nodes)), kfake.SeedTopics(16, kafka.DefaultTopic), kfake.GroupMinSessionTimeout(100*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(b.kafka.Close)
	port, claim, err := testserver.ClaimPort()
	require.NoError(t, err)
	t.Cleanup(func() { _ = claim.Close() })
	b.nats.port, b.nats.dir = port, filepath.Join(t.TempDir(), "nats")
	t.Cleanup(func() { b.nats.kill() })
	b.startNATS()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	js := b.jetstream()
	defer js.Conn().Close()
	for _, config := range []jetstream.StreamConfig{{Name: stream, Subjects: []string{"events.>"}}, {Name: "DEAD", Subjects: []string{dead}}} {
		_, err = js.CreateStream(ctx, config)
		require.NoError(t, err)
	}
	_, err = js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{Durable: readers, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 2 * time.Second, MaxAckPending: 1000})
	require.NoError(t, err)
	return b
}

func (b *brokers) addresses() addresses {
	return addresses{NATS: fmt.Sprintf("nats://127.0.0.1:%d", b.nats.port), Redis: b.redis.Addr(), Kafka: b.kafka.ListenAddrs()}
}

func (b *brokers) jetstream() jetstream.JetStream {
	b.t.Helper()
	conn, err := worker{addresses: b.addresses()}.nats()
	require.NoError(b.t, err)
	js, err := jetstream.New(conn)
	require.NoError(b.t, err)
	return js
}

// serve is the main function of the process that is NATS.
func serve(w worker) error {
	var port int
	if _, err := fmt.Sscan(w.Name, &port); err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: w.URL, NoLog: true, NoSigs: true})
	if err != nil {
		return err
	}
	s.Start()
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	return nil
}

func (b *brokers) startNATS() {
	b.nats.mu.Lock()
	defer b.nats.mu.Unlock()
	var stderr bytes.Buffer
	cmd, stdin, _ := command(b.t, worker{Role: serving, Name: fmt.Sprint(b.nats.port), URL: b.nats.dir}, &stderr)
	require.NoError(b.t, cmd.Start())
	b.nats.kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // says that it was killed
		_ = stdin.Close()
	})
	require.Eventually(b.t, func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", b.nats.port))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, time.Minute, 20*time.Millisecond, "NATS: %s", &stderr)
}

func (b *brokers) killNATS() {
	b.nats.kill()
	b.startNATS()
}

// replaceBroker removes a broker of Kafka's, whose partitions get other leaders, and adds another one.
func (b *brokers) replaceBroker() bool {
	oldest := max(1, b.nodes-2) // the first one stays, as whom clients know
	if err := b.kafka.RemoveNode(oldest); err != nil {
		return false
	}
	_, _, err := b.kafka.AddNode(b.nodes, 0)
	b.nodes++
	return err == nil
}

// published returns what each broker holds, in the order in which it came.
func (b *brokers) published(t *testing.T) map[string][]uuid.UUID {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	all := map[string][]uuid.UUID{}

	js := b.jetstream()
	defer js.Conn().Close()
	events, err := js.Stream(ctx, stream)
	require.NoError(t, err)
	reader, err := events.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	for missing := int(events.CachedInfo().State.Msgs); missing > 0; {
		batch, err := reader.Fetch(min(missing, 1000), jetstream.FetchMaxWait(10*time.Second))
		require.NoError(t, err)
		for m := range batch.Messages() {
			e, err := natsjs.Decode(m.Headers(), m.Data())
			require.NoError(t, err)
			all[toNATS] = append(all[toNATS], e.ID)
			missing--
		}
		require.NoError(t, batch.Error())
	}

	from, total := map[int32]kgo.Offset{}, int64(0)
	for _, p := range b.kafka.PartitionInfos(kafka.DefaultTopic) {
		if n := p.HighWatermark - p.LogStartOffset; n > 0 {
			from[p.Partition], total = kgo.NewOffset().AtStart(), total+n
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.kafka.ListenAddrs()...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{kafka.DefaultTopic: from}))
	require.NoError(t, err)
	defer client.Close()
	for int64(len(all[toKafka])) < total {
		fetches := client.PollFetches(ctx)
		require.NoError(t, ctx.Err(), "reading Kafka's topic")
		for _, r := range fetches.Records() {
			e, err := kafka.Decode(r.Headers, r.Value)
			require.NoError(t, err)
			all[toKafka] = append(all[toKafka], e.ID)
		}
	}

	entries, err := b.redisClient(t).XRange(ctx, redisstream.DefaultStream, "-", "+").Result()
	require.NoError(t, err)
	for _, entry := range entries {
		e, err := redisstream.Decode(entry.Values)
		require.NoError(t, err)
		all[toRedis] = append(all[toRedis], e.ID)
	}
	return all
}

func (b *brokers) redisClient(t *testing.T) *redis.Client { return dbtest.RedisOn(t, b.redis.URL()) }

// requireNothingHeld makes sure that no broker has dead letters, and Redis no lock.
func (b *brokers) requireNothingHeld(t *testing.T) {
	t.Helper()
	js := b.jetstream()
	defer js.Conn().Close()
	dead, err := js.Stream(t.Context(), "DEAD")
	require.NoError(t, err)
	require.Zero(t, dead.CachedInfo().State.Msgs, "dead letters in NATS")
	client := b.redisClient(t)
	require.Eventually(t, func() bool { // a killed process's lock lasts for its TTL
		keys, err := client.Keys(t.Context(), "*").Result()
		return err == nil && len(keys) == 1 && keys[0] == redisstream.DefaultStream
	}, 10*lockTTL, 50*time.Millisecond, "Redis holds the stream and nothing else")
}
