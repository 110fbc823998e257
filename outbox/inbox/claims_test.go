package inbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/inbox/inboxredis"
)

// recorder counts the calls of a Func.
type recorder struct{ calls int }

func (r *recorder) count(context.Context, outbox.Event) error {
	r.calls++
	return nil
}

func newClaims(t *testing.T, client redis.UniversalClient, configure ...func(*inbox.ClaimsConfig)) *inbox.Claims {
	t.Helper()
	cfg := &inbox.ClaimsConfig{Consumer: "entitlements", Logger: discard()}
	for _, f := range configure {
		f(cfg)
	}
	store, err := inboxredis.New(client, "")
	require.NoError(t, err)
	way, err := inbox.NewClaims(store, cfg)
	require.NoError(t, err)
	return way
}

func TestTheResultIsKeptInRedis(t *testing.T) {
	t.Parallel()
	way := newClaims(t, dbtest.Redis(t))
	e := event()
	for _, value := range [][]byte{{'r', 0, 0xff}, {}, nil} {
		e.ID[0]++
		for range 2 {
			r, err := inbox.Handle(way.Results(), func(context.Context, outbox.Event) ([]byte, error) { return value, nil })(t.Context(), e)
			require.NoError(t, err)
			require.Equal(t, value, r.Value)
		}
	}
}

// While the function runs, the claim is renewed: nobody else gets it, although its lease has passed several times.
func TestTheClaimIsRenewed(t *testing.T) {
	t.Parallel()
	client := dbtest.Redis(t)
	way := newClaims(t, client, func(cfg *inbox.ClaimsConfig) { cfg.Lease, cfg.Wait = 3*time.Second, -1 })
	e := event()
	var r recorder
	_, err := inbox.Handle(way, func(ctx context.Context, event outbox.Event) error {
		key := client.Keys(ctx, "*").Val()[0]
		renewed, last := 0, time.Duration(0)
		eventually(t, "it is renewed for longer than the lease", func() bool {
			_, err := inbox.Handle(way, r.count)(ctx, e)
			require.ErrorIs(t, err, inbox.ErrInProgress)
			left := client.PTTL(ctx, key).Val()
			if left > last {
				renewed++
			}
			last = left
			return renewed > 4
		})
		return ctx.Err()
	})(t.Context(), e)
	require.NoError(t, err)
	require.Zero(t, r.calls)
}

// Redis flushed between deliveries: what was handled is forgotten, and a repeat is applied again. That is what "usually" means.
func TestAFlushForgetsWhatWasHandled(t *testing.T) {
	t.Parallel()
	client := dbtest.Redis(t)
	way := newClaims(t, client)
	e := event()
	var rec recorder
	for range 2 {
		r, err := inbox.Handle(way, rec.count)(t.Context(), e)
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, r.Outcome)
		require.NoError(t, client.FlushDB(t.Context()).Err())
	}
	require.Equal(t, 2, rec.calls)
}

// Redis flushed while the function runs: the claim is made anew, and the event is marked as handled.
func TestAFlushWhileTheFunctionRunsIsFixed(t *testing.T) {
	t.Parallel()
	client := dbtest.Redis(t)
	way := newClaims(t, client, func(cfg *inbox.ClaimsConfig) { cfg.Lease = 3 * time.Second })
	e := event()
	_, err := inbox.Handle(way, func(ctx context.Context, event outbox.Event) error {
		require.NoError(t, client.FlushDB(ctx).Err())
		eventually(t, "the claim is made anew", func() bool { return client.DBSize(ctx).Val() == 1 })
		return nil
	})(t.Context(), e)
	require.NoError(t, err)
	r, err := inbox.Handle(way, func(context.Context, outbox.Event) error { return errors.New("called") })(t.Context(), e)
	require.NoError(t, err)
	require.Equal(t, inbox.Repeated, r.Outcome)
}

// Flushed, and claimed by another delivery before it could be renewed: the first function's context ends, and its end leaves
// the other's claim alone.
func TestALostClaimEndsTheFunctionsContext(t *testing.T) {
	t.Parallel()
	client := dbtest.Redis(t)
	slow := newClaims(t, client, func(cfg *inbox.ClaimsConfig) { cfg.Lease = 9 * time.Second })
	e := event()
	_, err := inbox.Handle(slow, func(ctx context.Context, event outbox.Event) error {
		require.NoError(t, client.FlushDB(ctx).Err())
		r, err := inbox.Handle(slow, new(recorder).count)(context.Background(), e)
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, r.Outcome)
		<-ctx.Done()
		require.ErrorIs(t, context.Cause(ctx), inbox.ErrClaimLost)
		return ctx.Err()
	})(t.Context(), e)
	require.ErrorIs(t, err, inbox.ErrClaimLost)
	r, err := inbox.Handle(slow, new(recorder).count)(t.Context(), e)
	require.NoError(t, err)
	require.Equal(t, inbox.Repeated, r.Outcome)
}

// The end of a delivery that has lost its claim, whether it succeeded or failed, leaves the claim of the one that has it.
func TestAnotherDeliverysClaimIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, outcome := range []error{nil, errPoison} {
		client := dbtest.Redis(t)
		way := newClaims(t, client, func(cfg *inbox.ClaimsConfig) { cfg.Wait = -1 })
		e := event()
		inside, finish, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		_, err := inbox.Handle(way, func(ctx context.Context, event outbox.Event) error {
			require.NoError(t, client.FlushDB(ctx).Err())
			go func() {
				_, err := inbox.Handle(way, func(context.Context, outbox.Event) error {
					close(inside)
					<-finish
					return nil
				})(context.Background(), e)
				done <- err
			}()
			<-inside
			return outcome
		})(t.Context(), e)
		require.ErrorIs(t, err, outcome)
		_, err = inbox.Handle(way, new(recorder).count)(t.Context(), e)
		require.ErrorIs(t, err, inbox.ErrInProgress)
		close(finish)
		require.NoError(t, <-done)
	}
}

// A process that stops for longer than its lease: another delivery handles the event, the first one notices when it goes on.
// Both had the effect: the documented exception.
func TestAPauseBeyondTheLeaseRepeats(t *testing.T) {
	t.Parallel()
	client := dbtest.Redis(t)
	way := newClaims(t, client, func(cfg *inbox.ClaimsConfig) { cfg.Lease = time.Minute })
	e := event()
	key := "endstate:inbox:entitlements:" + e.ID.String()
	var second recorder
	r, err := inbox.Handle(way, func(ctx context.Context, event outbox.Event) error {
		require.NoError(t, client.PExpire(ctx, key, time.Millisecond).Err()) // the lease passes, as it does for a stopped process
		eventually(t, "the lease passes", func() bool { return client.Exists(ctx, key).Val() == 0 })
		r, err := inbox.Handle(way, second.count)(ctx, e)
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, r.Outcome)
		return nil
	})(t.Context(), e)
	require.NoError(t, err)
	require.Equal(t, inbox.Applied, r.Outcome)
	require.Equal(t, 1, second.calls)
}

func TestRedisDownFailsClosedOrOpen(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	closed := newClaims(t, client)
	open := newClaims(t, client, func(cfg *inbox.ClaimsConfig) { cfg.FailOpen = true })
	e := event()
	server.Kill()

	var rec recorder
	_, err := inbox.Handle(closed, rec.count)(t.Context(), e)
	require.ErrorIs(t, err, inbox.ErrUnavailable)
	require.False(t, inbox.Permanent(err))
	require.Zero(t, rec.calls)
	for range 2 { // nothing remembers the first time
		r, err := inbox.Handle(open, rec.count)(t.Context(), e)
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, r.Outcome)
	}
	require.Equal(t, 2, rec.calls)
	require.NoError(t, server.Start())
	r, err := inbox.Handle(closed, rec.count)(t.Context(), e)
	require.NoError(t, err)
	require.Equal(t, inbox.Applied, r.Outcome)
}

// Redis goes away while the function runs: closed, its context ends when the lease has passed; open, it doesn't.
func TestRedisGoneWhileTheFunctionRuns(t *testing.T) {
	t.Parallel()
	for _, failOpen := range []bool{false, true} {
		server := dbtest.StartRedis(t)
		client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1})
		way := newClaims(t, client, func(cfg *inbox.ClaimsConfig) { cfg.Lease, cfg.FailOpen = 300*time.Millisecond, failOpen })
		_, err := inbox.Handle(way, func(ctx context.Context, event outbox.Event) error {
			server.Kill()
			if failOpen {
				select {
				case <-ctx.Done():
				case <-time.After(900 * time.Millisecond): // three leases
				}
				return ctx.Err()
			}
			<-ctx.Done()
			return ctx.Err()
		})(t.Context(), event())
		if failOpen {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, inbox.ErrClaimLost)
		}
		require.NoError(t, client.Close())
	}
}

func TestClaimsConfigSaysWhatIsWrong(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	store, err := inboxredis.New(client, "")
	require.NoError(t, err)
	for want, cfg := range map[string]*inbox.ClaimsConfig{
		"ClaimsConfig is nil":                              nil,
		"ClaimsConfig.Consumer is empty":                   {},
		"ClaimsConfig.Consumer is 201 bytes long":          {Consumer: strings.Repeat("c", 201)},
		"ClaimsConfig.Lease is 1µs":                        {Consumer: "c", Lease: time.Microsecond},
		"ClaimsConfig.Retention is 1s, shorter than Lease": {Consumer: "c", Retention: time.Second},
	} {
		_, err := inbox.NewClaims(store, cfg)
		require.ErrorIs(t, err, inbox.ErrConfig)
		require.ErrorContains(t, err, want)
	}
	_, err = inbox.NewClaims(nil, &inbox.ClaimsConfig{Consumer: "c"})
	require.ErrorContains(t, err, "the ClaimStore is nil")
}
