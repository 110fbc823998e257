package redisstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/testserver"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
)

// client connects to one or several servers, as a relay's would.
func client(t *testing.T, addrs ...string) redis.UniversalClient {
	t.Helper()
	c := redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: addrs, IsClusterMode: len(addrs) > 1, ContextTimeoutEnabled: true, ReadTimeout: time.Second, MaxRetries: -1,
	})
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// publisher is one on a server of the test's own.
func publisher(t *testing.T, cfg *Config, args ...string) (*Publisher, *testserver.Redis) {
	t.Helper()
	server := dbtest.StartRedis(t, args...)
	p, err := New(client(t, server.Addr()), cfg)
	require.NoError(t, err)
	return p, server
}

// entries returns the events of streams.
func entries(ctx context.Context, client redis.UniversalClient, streams ...string) ([]outbox.Event, error) {
	var events []outbox.Event
	for _, stream := range streams {
		messages, err := client.XRange(ctx, stream, "-", "+").Result()
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			e, err := Decode(m.Values)
			if err != nil {
				return nil, err
			}
			events = append(events, e)
		}
	}
	return events, nil
}

func events(n int) []outbox.Event {
	all := make([]outbox.Event, n)
	for i := range all {
		all[i] = outbox.Event{ID: uuid.New(), AggregateType: "batch", AggregateID: fmt.Sprint(i), Type: "assessment.completed", Payload: []byte("{}"), SchemaVersion: 1}
	}
	return all
}

const maxPayload = 300_000

func TestPublisherKeepsTheContract(t *testing.T) {
	outboxtest.Publisher(t, func(t *testing.T) outboxtest.Subject {
		p, server := publisher(t, &Config{MaxPayload: maxPayload}, "--appendonly", "yes", "--appendfsync", "always")
		return outboxtest.Subject{
			Publisher: p,
			Received:  func(ctx context.Context) ([]outbox.Event, error) { return entries(ctx, p.client, DefaultStream) },
			Refused: func(e outbox.Event) outbox.Event {
				e.Payload = make([]byte, maxPayload+1)
				return e
			},
			Hang: func() func() {
				server.Pause()
				return server.Resume
			},
			Restart: func() {
				server.Kill()
				require.NoError(t, server.Start())
			},
		}
	})
}

// Every event that the outbox allows can be carried.
func TestNoEventIsRefusedForItsContents(t *testing.T) {
	p, err := New(dbtest.Redis(t), nil)
	require.NoError(t, err)
	e := outbox.Event{
		ID: uuid.New(), AggregateType: `batch "x" *`, AggregateID: "i:1\r\n$5", Type: " a ", ContentType: "application/octet-stream",
		Payload: []byte("\x00\xff\r\n"), Headers: map[string]string{"": "\r\n", "two words": "é"}, SchemaVersion: 3,
	}
	require.Empty(t, p.Publish(t.Context(), []outbox.Event{e}))
	got, err := entries(t.Context(), p.client, DefaultStream)
	require.NoError(t, err)
	require.Equal(t, []outbox.Event{e}, got)
}

func TestABatchIsFewRoundTrips(t *testing.T) {
	rdb := dbtest.Redis(t)
	var trips pipelines
	rdb.AddHook(&trips)
	p, err := New(rdb, nil)
	require.NoError(t, err)
	require.Empty(t, p.Publish(t.Context(), events(500)))
	require.Equal(t, pipelines{500}, trips)

	trips = nil
	large := events(8)
	for i, size := range []int{0, maxPipeline, 1, maxPipeline + 1, maxPipeline / 2, maxPipeline / 2, 1, 0} {
		large[i].Payload = make([]byte, size)
	}
	require.Empty(t, p.Publish(t.Context(), large))
	require.Equal(t, pipelines{2, 1, 1, 2, 2}, trips)
	require.EqualValues(t, 508, rdb.XLen(t.Context(), DefaultStream).Val())
}

// pipelines records how many commands each pipeline has.
type pipelines []int

func (*pipelines) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*pipelines) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (p *pipelines) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "xadd" { // a new connection's greeting is a pipeline, too
			*p = append(*p, len(cmds))
		}
		return next(ctx, cmds)
	}
}

// A client may fail a pipeline without a word on its commands.
func TestACommandWithoutAnAnswerIsNotTaken(t *testing.T) {
	for _, failure := range []error{errors.New("cut"), nil} {
		rdb := dbtest.Redis(t)
		rdb.AddHook(silent{failure})
		p, err := New(rdb, nil)
		require.NoError(t, err)
		errs := p.Publish(t.Context(), events(2))
		require.Len(t, errs, 2)
		for _, err := range errs {
			require.Error(t, err)
			require.ErrorIs(t, err, cmp.Or(failure, errNoAnswer))
		}
	}
}

// silent ends pipelines before they are sent.
type silent struct{ failure error }

func (silent) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (silent) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (s silent) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(context.Context, []redis.Cmder) error { return s.failure }
}

func TestStreamFor(t *testing.T) {
	p, err := New(dbtest.Redis(t), &Config{StreamFor: func(e outbox.Event) string {
		if e.Type == "nowhere" {
			return ""
		}
		return "events:" + e.AggregateType
	}})
	require.NoError(t, err)
	batch := events(3)
	batch[1].AggregateType, batch[2].Type = "order", "nowhere"
	errs := p.Publish(t.Context(), batch)
	require.Len(t, errs, 3)
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
	require.ErrorIs(t, errs[2], outbox.ErrPermanent)
	for stream, want := range map[string]uuid.UUID{"events:batch": batch[0].ID, "events:order": batch[1].ID} {
		got, err := entries(t.Context(), p.client, stream)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Equal(t, want, got[0].ID)
	}
}

func TestTrimmingByLength(t *testing.T) {
	p, err := New(dbtest.Redis(t), &Config{MaxLen: 1000})
	require.NoError(t, err)
	for _, n := range []int{500, 500, 500, 500, 37} {
		require.Empty(t, p.Publish(t.Context(), events(n)))
	}
	n := p.client.XLen(t.Context(), DefaultStream).Val()
	require.Greater(t, n, int64(1000), "by whole nodes of the stream, of which each has 100 entries by default")
	require.Less(t, n, int64(1200))
}

func TestTrimmingByAgeGoesByRedisClock(t *testing.T) {
	rdb := dbtest.Redis(t)
	p, err := New(rdb, &Config{MaxAge: time.Hour})
	require.NoError(t, err)
	now := rdb.Time(t.Context()).Val().UnixMilli()
	for i := range 1000 { // two hours ago
		id := fmt.Sprintf("%d-%d", now-2*time.Hour.Milliseconds(), i)
		require.NoError(t, rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: DefaultStream, ID: id, Values: []string{"a", "b"}}).Err())
	}
	require.Empty(t, p.Publish(t.Context(), events(1)))
	require.EqualValues(t, 1001, rdb.XLen(t.Context(), DefaultStream).Val(), "the clock isn't known before the first entry")
	require.Empty(t, p.Publish(t.Context(), events(1)))
	require.Less(t, rdb.XLen(t.Context(), DefaultStream).Val(), int64(200))
	require.Len(t, rdb.XRevRangeN(t.Context(), DefaultStream, "+", fmt.Sprint(now), 10).Val(), 2, "what is younger stays")
}

func TestWhatRedisRefusesForNowIsNotPermanent(t *testing.T) {
	for name, args := range map[string][]string{
		"OOM":        {"--maxmemory", "1mb", "--maxmemory-policy", "noeviction"},
		"READONLY":   {"--replicaof", "127.0.0.1 1"},
		"NOREPLICAS": {"--min-replicas-to-write", "1"},
		"ERR":        {"--requirepass", "secret"}, // which doesn't say NOAUTH of a command as long as this
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _ := publisher(t, nil, args...)
			batch := events(1)
			if name == "OOM" {
				batch[0].Payload = make([]byte, 600_000) // of which it takes one or two
			}
			var errs []error
			for range 20 {
				errs = p.Publish(t.Context(), batch)
				if name == "OOM" && len(errs) == 0 {
					continue
				}
				require.Len(t, errs, 1)
				require.ErrorContains(t, errs[0], `redisstream: XADD to "endstate:events": `+name)
				require.NotErrorIs(t, errs[0], outbox.ErrPermanent)
			}
			require.NotEmpty(t, errs)
		})
	}
}

func TestAKeyOfAnotherKindFailsItsEventsOnly(t *testing.T) {
	rdb := dbtest.Redis(t)
	p, err := New(rdb, &Config{StreamFor: func(e outbox.Event) string { return e.AggregateID }})
	require.NoError(t, err)
	require.NoError(t, rdb.Set(t.Context(), "1", "text", 0).Err())
	errs := p.Publish(t.Context(), events(3))
	require.Len(t, errs, 3)
	require.NoError(t, errs[0])
	require.ErrorContains(t, errs[1], `redisstream: XADD to "1": WRONGTYPE`)
	require.NotErrorIs(t, errs[1], outbox.ErrPermanent, "who fixes the key fixes it")
	require.NoError(t, errs[2])
}

// The server ends the connection of who sends too much. The other events of the batch don't suffer from it.
func TestAPayloadThatIsTooLargeForTheServer(t *testing.T) {
	p, _ := publisher(t, nil, "--proto-max-bulk-len", "1mb")
	for range 20 {
		batch := events(3)
		batch[1].Payload = make([]byte, 2<<20)
		errs := p.Publish(t.Context(), batch)
		require.Len(t, errs, 3)
		require.NoError(t, errs[0])
		require.Error(t, errs[1])
		require.NoError(t, errs[2])
	}
	require.ErrorIs(t, refused("s", redisError("ERR Protocol error: invalid bulk length")), outbox.ErrPermanent)
	require.NotErrorIs(t, refused("s", errors.New("connection reset by peer")), outbox.ErrPermanent)
}

type redisError string

func (e redisError) Error() string { return string(e) }
func (redisError) RedisError()     {}

// Kills under load: what Publish said was taken is there after each.
func TestNothingIsLostWhenRedisIsKilled(t *testing.T) {
	p, server := publisher(t, nil, "--appendonly", "yes", "--appendfsync", "always")
	var taken []outbox.Event
	failures := 0
	publish := func() {
		batch := events(20)
		errs := p.Publish(t.Context(), batch)
		for i, e := range batch {
			if len(errs) == 0 || errs[i] == nil {
				taken = append(taken, e)
			} else {
				failures++
				require.NotErrorIs(t, errs[i], outbox.ErrPermanent)
			}
		}
	}
	for range 3 {
		killed := make(chan struct{})
		start := len(taken)
		for len(taken) < start+100 {
			publish()
		}
		go func() { defer close(killed); server.Kill() }()
		for before := failures; failures == before; {
			publish()
		}
		<-killed
		require.NoError(t, server.Start())
	}
	for before := len(taken); len(taken) == before; {
		publish()
	}
	require.Positive(t, failures, "no kill hit a call")
	got, err := entries(t.Context(), p.client, DefaultStream)
	require.NoError(t, err)
	there := map[uuid.UUID]bool{}
	for _, e := range got {
		there[e.ID] = true
	}
	for _, e := range taken {
		require.True(t, there[e.ID], "an event that was taken is lost")
	}
}

func TestConfigIsChecked(t *testing.T) {
	rdb := dbtest.Redis(t)
	stream := func(outbox.Event) string { return "s" }
	for message, cfg := range map[string]*Config{
		"Config.Stream and Config.StreamFor are both set":                  {Stream: "s", StreamFor: stream},
		"Config.MaxLen is -1":                                              {MaxLen: -1},
		"Config.MaxAge is -1ns":                                            {MaxAge: -1},
		"Config.MaxAge is 1µs":                                             {MaxAge: time.Microsecond},
		"Config.MaxLen and Config.MaxAge are both set, and XADD takes one": {MaxLen: 1, MaxAge: time.Hour},
		"Config.MaxPayload is -1":                                          {MaxPayload: -1},
	} {
		_, err := New(rdb, cfg)
		require.ErrorIs(t, err, ErrConfig)
		require.EqualError(t, err, "redisstream: invalid configuration: "+message)
	}
	_, err := New(nil, nil)
	require.ErrorIs(t, err, ErrConfig)
	patient := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", ReadTimeout: -1})
	defer patient.Close()
	_, err = New(patient, nil)
	require.ErrorIs(t, err, ErrConfig)
	require.True(t, strings.Contains(err.Error(), "ReadTimeout"), err)
}
