package redisstream

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

func goesOn(t *testing.T, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, 3*time.Minute, 20*time.Millisecond, what)
}

// F49: the inbox's database goes silent while a member handles an event, which it keeps from all others meanwhile.
func TestASilentDatabaseHoldsUpNoMember(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	publish(t, rdb, events(3))
	url := dbtest.Postgres(t)
	direct := dbtest.PoolOn(t, url)
	proxy := pgfault.New(t, url)
	pool := dbtest.PoolOn(t, proxy.URL(), func(cfg *pgxpool.Config) {
		cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "2s"
	})
	table, err := inbox.NewTable(pool, &inbox.TableConfig{Consumer: "results", MaxAttempts: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, table.Migrate(t.Context()))
	_, err = direct.Exec(t.Context(), "CREATE TABLE effects (id uuid)")
	require.NoError(t, err)
	fault := proxy.Arm(&pgfault.Fault{SQL: "INSERT INTO effects", Do: pgfault.HalfOpen})
	var log dbtest.Log
	running(t, member(t, rdb, inbox.Handle(table, func(ctx context.Context, tx pgx.Tx, e outbox.Event) error {
		_, err := tx.Exec(ctx, "INSERT INTO effects VALUES ($1)", e.ID)
		return err
	}), func(cfg *ConsumerConfig) {
		cfg.Concurrency, cfg.HandlerTimeout, cfg.MaxDeliveries = 1, 2*time.Second, 10_000
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	}))
	fault.RequireFired(t)
	goesOn(t, "all is acknowledged", func() bool {
		var n int
		require.NoError(t, direct.QueryRow(t.Context(), "SELECT count(DISTINCT id) FROM effects").Scan(&n))
		return n == 3 && pending(rdb) == 0
	})
	require.Contains(t, log.String(), "inbox: the handler took longer than 2s")
}

// F49: Redis's answers stop, on connections that stay. The member says so, and goes on over others.
func TestASilentRedisHoldsUpNoMember(t *testing.T) {
	t.Parallel()
	server := dbtest.StartRedis(t)
	proxy := dbtest.NewProxy(t, server.Addr())
	direct := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { require.NoError(t, direct.Close()) })
	client := redis.NewClient(&redis.Options{Addr: proxy.Addr(), ReadTimeout: time.Second, MaxRetries: -1})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	publish(t, direct, events(1))
	var s sink
	var log dbtest.Log
	running(t, member(t, client, s.handle, func(cfg *ConsumerConfig) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) }))
	goesOn(t, "the first is acknowledged", func() bool { return s.total.Load() == 1 && pending(direct) == 0 })
	proxy.NoReplies.Store(true)
	lost := proxy.LostReplies.Load()
	goesOn(t, "an answer is lost", func() bool { return proxy.LostReplies.Load() > lost })
	later := events(3)[1:]
	publish(t, direct, later)
	goesOn(t, "it says so", func() bool { return log.String() != "" })
	proxy.NoReplies.Store(false)
	goesOn(t, "the others are acknowledged", func() bool { return s.total.Load() >= 3 && pending(direct) == 0 })
}
