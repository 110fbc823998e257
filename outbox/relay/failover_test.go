package relay_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
)

// switched is a database whose name leads to another server after a fail-over.
type switched struct {
	*database
	addr atomic.Pointer[string]
}

func newSwitched(t *testing.T, target string) *switched {
	t.Helper()
	s := &switched{}
	s.lead(t, target)
	s.database = on(t, target, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.DialFunc = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, *s.addr.Load())
		}
	})
	return s
}

func (s *switched) lead(t *testing.T, target string) {
	t.Helper()
	u, err := url.Parse(target)
	require.NoError(t, err)
	s.addr.Store(&u.Host)
}

// held is a publisher that can be made to hold a batch.
type held struct {
	recorder
	armed   atomic.Bool
	reached chan struct{}
	release func()
}

func newHeld(t *testing.T) *held {
	h := &held{reached: make(chan struct{})}
	released := make(chan struct{})
	h.release = sync.OnceFunc(func() { close(released) })
	t.Cleanup(h.release)
	h.block = func(context.Context) {
		if h.armed.CompareAndSwap(true, false) {
			close(h.reached)
			<-released
		}
	}
	return h
}

// kinds puts n events of one aggregate, whose types are numbered under a prefix.
func (db *database) kinds(t *testing.T, aggregate, prefix string, n int) {
	t.Helper()
	events := make([]outbox.Event, n)
	for i := range events {
		events[i] = event(fmt.Sprint(prefix, i), "")
		events[i].AggregateID = aggregate
	}
	db.Put(t, events...)
}

// ofKind are the types with a prefix among an aggregate's first publications, in their order.
func (r *recorder) ofKind(aggregate, prefix string) (list []string) {
	for _, kind := range r.first(aggregate) {
		if strings.HasPrefix(kind, prefix) {
			list = append(list, kind)
		}
	}
	return list
}

func prefixed(prefix string, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint(prefix, i))
	}
	return list
}

// still waits until the cursors have made the move after the last batch, so that nobody moves them without new events.
func (db *database) still(t *testing.T) {
	t.Helper()
	db.settled(t)
	eventually(t, "cursors at rest", func() bool {
		return outboxdbtest.One[bool](t, db, "SELECT bool_and(prior_position = position AND owner IS NOT NULL) AND max(position) > 0 FROM endstate_outbox_cursors")
	})
}

// F35: a standby that lacks the last commits takes over, while a batch is out that the primary's relay read. New events get the
// numbers and transaction ids of those that are lost, and the cursors the tokens that they had when the batch was read.
func TestPromotionThatLosesCommits(t *testing.T) {
	t.Parallel()
	primary := dbtest.StartPostgres(t)
	db := newSwitched(t, primary.URL())
	db.Migrate(t, *writer)
	h := newHeld(t)
	run(t, db.relay(t, h, quick()))
	db.kinds(t, "b1", "before", 5)
	db.kinds(t, "b2", "before", 5)
	db.still(t)

	standby := dbtest.StartStandby(t, primary)
	there := on(t, standby.URL())
	lsn := outboxdbtest.One[string](t, db.database, "SELECT pg_current_wal_lsn()::text")
	eventually(t, "the standby has all", func() bool {
		return outboxdbtest.One[bool](t, there, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", lsn)
	})
	for _, statement := range []string{"ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"} {
		_, err := there.Pool.Exec(context.Background(), statement)
		require.NoError(t, err)
	}
	eventually(t, "the standby is cut off", func() bool { return outboxdbtest.One[int](t, there, "SELECT count(*) FROM pg_stat_wal_receiver") == 0 })

	const n = 100 // more than a sequence is ahead of itself in the log
	h.armed.Store(true)
	db.kinds(t, "b1", "lost", n)
	<-h.reached
	lost := outboxdbtest.One[int64](t, db.database, "SELECT max(seq) FROM endstate_outbox")
	primary.Kill()
	require.True(t, outboxdbtest.One[bool](t, there, "SELECT pg_promote()"))
	require.Equal(t, 10, there.Count(t), "the last commits are lost")
	db.lead(t, standby.URL())
	there.kinds(t, "b1", "new", n/2)
	there.kinds(t, "b2", "new", n/2)
	require.Less(t, outboxdbtest.One[int64](t, there, "SELECT min(seq) FROM endstate_outbox WHERE type = 'new0'"), lost, "numbers are given out twice")

	h.release()
	eventually(t, "all that survived is published", func() bool { return there.pending(t) == 0 })
	for _, aggregate := range []string{"b1", "b2"} {
		require.Equal(t, prefixed("before", 5), h.ofKind(aggregate, "before"))
		require.Equal(t, prefixed("new", n/2), h.ofKind(aggregate, "new"))
	}
	h.requireOnce(t, "")
}

// requireOnce makes sure that nothing whose type has the prefix came twice.
func (r *recorder) requireOnce(t *testing.T, prefix string) {
	t.Helper()
	seen := map[string]bool{}
	for _, e := range r.published() {
		if strings.HasPrefix(e.Type, prefix) {
			require.False(t, seen[e.ID.String()], "%s of %s came twice", e.Type, e.AggregateID)
			seen[e.ID.String()] = true
		}
	}
}

// F35: a database is replaced by a copy of it, as a template makes one, while a batch is out. The copy has got events under the same
// numbers, and it has the tokens and the incarnation's row that were read.
func TestDatabaseThatIsReplacedByItsCopy(t *testing.T) {
	t.Parallel()
	server := dbtest.StartPostgres(t)
	admin := dbtest.PoolOn(t, server.URL())
	do := func(statements ...string) {
		t.Helper()
		for _, s := range statements {
			_, err := admin.Exec(context.Background(), s)
			require.NoError(t, err, s)
		}
	}
	const alone = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'service'"
	gone := func() {
		t.Helper()
		do("ALTER DATABASE service ALLOW_CONNECTIONS false")
		eventually(t, "nobody is in the database", func() bool {
			do(alone)
			var n int
			require.NoError(t, admin.QueryRow(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE datname = 'service'").Scan(&n))
			return n == 0
		})
	}
	do("CREATE DATABASE service")
	u, err := url.Parse(server.URL())
	require.NoError(t, err)
	u.Path = "/service"
	db := on(t, u.String())
	db.Migrate(t, *writer)
	h := newHeld(t)
	run(t, db.relay(t, h, quick()))
	db.kinds(t, "b1", "before", 5)
	db.still(t)
	gone()
	do("CREATE DATABASE copy TEMPLATE service", "ALTER DATABASE service ALLOW_CONNECTIONS true")

	const n = 20
	u.Path = "/copy"
	there := on(t, u.String())
	there.kinds(t, "b1", "new", n) // in transactions that the reading below takes for its own database's
	there.Pool.Reset()
	h.armed.Store(true)
	db.reconnected(t)
	db.kinds(t, "b1", "lost", n)
	<-h.reached
	require.Equal(t, outboxdbtest.One[int64](t, db, "SELECT max(seq) FROM endstate_outbox"), outboxdbtest.One[int64](t, there, "SELECT max(seq) FROM endstate_outbox"), "numbers are given out twice")
	gone()
	there.Pool.Close()
	do("ALTER DATABASE service RENAME TO away", "ALTER DATABASE copy RENAME TO service")
	db.reconnected(t)

	h.release()
	db.settled(t)
	require.Equal(t, prefixed("new", n), h.ofKind("b1", "new"))
	h.requireOnce(t, "")
}

// reconnected waits until the pool has only connections that work.
func (db *database) reconnected(t *testing.T) {
	t.Helper()
	db.Pool.Reset()
	eventually(t, "the database is back", func() bool {
		return pgx.BeginFunc(context.Background(), db.Pool, func(tx pgx.Tx) error { return tx.Conn().Ping(context.Background()) }) == nil
	})
}
