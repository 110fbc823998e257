package console_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
)

// An overview that stays open, as many as there are, costs the database one sample of the figures in Config.Every: at ten seconds,
// 42 queries a minute with one subscription, and 24 for each further one. What is looked at between two samples asks nothing.
func TestAnOpenConsoleCostsNextToNothing(t *testing.T) {
	t.Parallel()
	asked := &statements{settings: map[*pgx.Conn]string{}}
	w := newWorld(t, "pgx", func(c *pgxpool.Config) { c.ConnConfig.Tracer = asked })
	const minute = int(time.Minute / (10 * time.Second))
	for n, name := range []string{"default", "partner", "archive"} {
		w.relay(name)()
		s := w.console(console.Config{Every: time.Hour})
		asked.take()
		s.get("/")
		queries := len(asked.take())
		t.Logf("%d subscriptions: %d queries a sample, %d a minute", n+1, queries, minute*queries)
		require.Equal(t, 42+24*n, minute*queries)
		var people sync.WaitGroup
		for person := range 5 {
			people.Go(func() {
				for range 60 { // a minute, if they ask each second
					s.get([]string{"/", "/subscription?name=default"}[person%2])
				}
			})
		}
		people.Wait()
		require.Empty(t, asked.take())
	}
}

// A sample is taken for no more than a hundredth of the time, so that a database on which it takes long isn't burdened with more.
func TestASlowDatabaseIsLeftAlone(t *testing.T) {
	t.Parallel()
	asked := &statements{settings: map[*pgx.Conn]string{}}
	w := newWorld(t, "pgx", func(c *pgxpool.Config) { c.ConnConfig.Tracer = asked })
	w.relay("default")()
	s := w.console(console.Config{Every: time.Millisecond})
	// The figures wait for a lock for a while.
	hold := func(long time.Duration) {
		tx, err := w.pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
		_, err = tx.Exec(t.Context(), "LOCK TABLE endstate_outbox_subscriptions")
		require.NoError(t, err)
		var waiting sync.WaitGroup
		waiting.Go(func() { s.get("/") })
		w.eventually("the figures have waited", func() bool {
			return w.count(fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '%d ms'", long.Milliseconds())) > 0
		})
		require.NoError(t, tx.Rollback(t.Context()))
		waiting.Wait()
	}
	hold(600 * time.Millisecond) // so that a minute has to pass
	asked.take()
	for range 20 {
		require.Equal(t, 200, s.get("/").status)
	}
	require.Empty(t, asked.take())
}
