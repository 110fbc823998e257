package relay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// writing puts numbered events for a few aggregates from several goroutines until it is stopped, through faults, and
// returns how many of each aggregate were committed. A failed commit may have been one: its event has a dedup key, and is
// put again.
func (db *database) writing(t *testing.T) (stop func() []int) {
	t.Helper()
	const writers = 4
	counts := make([]int, writers)
	var ended atomic.Bool
	var group sync.WaitGroup
	for a := range writers {
		group.Go(func() {
			for !ended.Load() {
				e := event(fmt.Sprint(counts[a]), fmt.Sprint(a, "/", counts[a]))
				e.AggregateID = fmt.Sprint("a", a)
				if err := db.Try(func(ctx context.Context, tx endstate.Tx) error {
					_, err := outbox.Put(ctx, tx, e)
					return err
				}); err == nil {
					counts[a]++
				}
				time.Sleep(2 * time.Millisecond) // load, not a race for the processor
			}
		})
	}
	return sync.OnceValue(func() []int {
		ended.Store(true)
		group.Wait()
		return counts
	})
}

func requireAll(t *testing.T, r *recorder, counts []int) {
	t.Helper()
	for a, n := range counts {
		require.Positive(t, n)
		require.Equal(t, numbered(n), r.first(fmt.Sprint("a", a)))
	}
}

// F4: PostgreSQL is stopped without a shutdown under load, and started again.
func TestRelaySurvivesPostgres(t *testing.T) {
	t.Parallel()
	server := dbtest.StartPostgres(t)
	db := on(t, server.URL())
	db.Migrate(t, *writer)
	r := &recorder{}
	cfg := mortal()
	cfg.MaxCrashes = 1000 // on a busy machine leases are lost in other ways, too, while events are tried one by one
	var away atomic.Int64
	cfg.Trace = &relay.Trace{Reconnecting: func(context.Context, error, time.Duration) { away.Add(1) }}
	run(t, db.relay(t, r, cfg))
	run(t, db.relay(t, r, cfg))
	stop := db.writing(t)
	defer stop()
	for _, outage := range []time.Duration{0, 3 * time.Second} { // within and beyond the lease
		before, failures := len(r.published()), away.Load()
		eventually(t, "publications", func() bool { return len(r.published()) > before+50 })
		server.Stop(true)
		eventually(t, "the relays notice", func() bool { return away.Load() > failures })
		time.Sleep(outage) // the fault itself
		require.NoError(t, server.Start())
		before = len(r.published())
		eventually(t, "publications go on", func() bool { return len(r.published()) > before+50 })
	}
	counts := stop()
	db.settled(t)
	requireAll(t, r, counts)
}

// The mark's connection is cut before, at and after its commit, and the lease's renewal likewise.
func TestRelaySurvivesCutConnections(t *testing.T) {
	t.Parallel()
	for _, do := range []pgfault.Action{pgfault.CutBefore, pgfault.CutWhileWorking, pgfault.CutAfterReply, pgfault.HalfOpen} {
		t.Run(do.String(), func(t *testing.T) {
			t.Parallel()
			proxy := pgfault.New(t, dbtest.Postgres(t))
			db := on(t, proxy.URL())
			db.Migrate(t, *writer)
			db.aggregates(t, 10, 3)
			fault := proxy.Arm(&pgfault.Fault{SQL: `UPDATE "endstate_outbox_cursors" AS c SET token`, Do: do})
			renewal := proxy.Arm(&pgfault.Fault{SQL: `UPDATE "endstate_outbox_relays" SET expires_at`, Do: do})
			read := proxy.Arm(&pgfault.Fault{SQL: "WITH endstate_cursor AS", Skip: 1, Do: do})
			r := &recorder{}
			run(t, db.relay(t, r, mortal()))
			for _, f := range []*pgfault.Fault{fault, renewal, read} {
				fired(t, f)
			}
			db.settled(t)
			for a := range 10 {
				require.Equal(t, numbered(3), r.first(fmt.Sprint("a", a)))
			}
		})
	}
}

// A publication is broken off before another relay could own its shard, when the lease can't be renewed.
func TestPublishEndsWithTheLease(t *testing.T) {
	t.Parallel()
	proxy := pgfault.New(t, dbtest.Postgres(t))
	db := on(t, proxy.URL())
	db.Migrate(t, *writer)
	db.aggregates(t, 10, 1)
	broken := make(chan time.Duration, 1)
	var hung atomic.Bool
	r := &recorder{block: func(ctx context.Context) {
		if hung.CompareAndSwap(false, true) {
			proxy.Refuse(true)
			proxy.CutAll()
			start := time.Now()
			<-ctx.Done()
			broken <- time.Since(start)
			proxy.Refuse(false)
		}
	}}
	cfg := quick()
	cfg.LeaseTTL, cfg.PublishTimeout = 20*time.Second, time.Hour // of which a twentieth is for a busy machine
	lost := make(chan struct{}, 1)
	cfg.Trace = &relay.Trace{LeaseLost: func(context.Context) { lost <- struct{}{} }}
	run(t, db.relay(t, r, cfg))
	require.Less(t, <-broken, cfg.LeaseTTL)
	<-lost
	db.settled(t)
	require.Zero(t, db.parked(t, "attempts > 0"), "it wasn't the events' fault")
}

// Every way that pgx has to send a statement does for a relay.
func TestRelayInEveryExecMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			url += map[bool]string{true: "&", false: "?"}[strings.Contains(url, "?")] + "default_query_exec_mode=" + mode
			db := on(t, url)
			db.Migrate(t, *writer)
			db.aggregates(t, 10, 3)
			failed := false
			r := &recorder{fail: func(e outbox.Event) error {
				if !failed && e.Type == "1" {
					failed = true
					return errors.New("the first time")
				}
				return nil
			}}
			for _, db := range []*database{db, through(t, "sql", url)} {
				stop := run(t, db.relay(t, r, quick()))
				eventually(t, "all", func() bool { return len(r.published()) >= 30 })
				stop()
			}
			db.settled(t)
			for a := range 10 {
				require.Equal(t, numbered(3), r.first(fmt.Sprint("a", a)))
			}
		})
	}
}

// F16, F35: what commits late under a lower number is neither skipped, nor does anything wait for it.
func TestLateCommitIsNeitherSkippedNorWaitedFor(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, writer, func(t *testing.T, db *database) {
		r := &recorder{}
		rel := db.relay(t, r, quick())
		run(t, rel)
		ctx := t.Context()
		late, err := db.Begin(ctx)
		require.NoError(t, err)
		defer func() { _ = late.Rollback(context.WithoutCancel(ctx)) }()
		_, err = outbox.Put(ctx, late, event("late", ""))
		require.NoError(t, err)
		for i := range 20 {
			db.Put(t, event(fmt.Sprint(i), ""))
			eventually(t, "the later one first", func() bool { return len(r.published()) == i+1 })
		}
		require.NoError(t, late.Commit(ctx))
		require.Equal(t, "late", outboxdbtest.One[string](t, db, "SELECT type FROM endstate_outbox ORDER BY seq LIMIT 1"), "the fault fired: its number is the lowest")
		eventually(t, "the late one", func() bool { return len(r.published()) == 21 })
		require.Equal(t, "late", r.published()[20].Type)
	})
}

// F17: a snapshot that keeps every dead row: what is published is passed over all the same, and what the relay itself leaves behind
// stays small. It logs how fast events go out, and how large the tables are.
func TestRelayBesideAnOldSnapshot(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.Migrate(t, *writer)
	ctx := t.Context()
	r := &recorder{}
	cfg := quick()
	cfg.Retention = relay.DeleteOnPublish
	run(t, db.relay(t, r, cfg))
	const rounds = 10
	done := 0
	drain := func(what string) (cursors int64) {
		began := time.Now()
		for range rounds {
			db.aggregates(t, 500, 2)
			done += 1000
			eventually(t, "all", func() bool { return len(r.published()) == done })
		}
		took := time.Since(began)
		eventually(t, "all is deleted", func() bool { return db.Count(t) == 0 })
		cursors = outboxdbtest.One[int64](t, db, "SELECT pg_relation_size('endstate_outbox_cursors')")
		t.Logf("%s: %.0f events a second, put and published; %d kB of events, %d kB of cursors", what, rounds*1000/took.Seconds(),
			outboxdbtest.One[int64](t, db, "SELECT pg_total_relation_size('endstate_outbox') / 1024"), cursors/1024)
		return cursors
	}
	drain("with nobody beside")
	tx, err := db.Pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var n int
	require.NoError(t, tx.QueryRow(ctx, "SELECT count(*) FROM endstate_outbox").Scan(&n))
	require.Zero(t, n)
	cursors := drain("beside an old snapshot")
	require.True(t, outboxdbtest.One[bool](t, db, "SELECT coalesce(bool_or(age(backend_xmin) > $1), false) FROM pg_stat_activity WHERE pid = $2", rounds, int64(tx.Conn().PgConn().PID())), "the fault fired: no row that is dead since may be removed")
	require.Less(t, cursors, int64(rounds*1000*100), "bytes of cursors: fewer than a hundred for each event")
	require.NoError(t, tx.QueryRow(ctx, "SELECT count(*) FROM endstate_outbox").Scan(&n))
	require.Zero(t, n, "the snapshot is as old as before")
}

// F22: through PgBouncer in transaction mode, with LISTEN on a direct connection; and through it, which is noticed.
func TestRelayThroughPgBouncer(t *testing.T) {
	t.Parallel()
	direct := dbtest.Postgres(t)
	bouncer := dbtest.StartPgBouncer(t, direct, "default_pool_size=3")
	exec := func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec }
	db := on(t, bouncer.URL(), exec)
	db.Migrate(t, *writer)
	err := on(t, bouncer.URL()).relay(t, &recorder{}, quick()).Run(t.Context())
	require.ErrorIs(t, err, outbox.ErrConfig)
	require.ErrorContains(t, err, "default_query_exec_mode=cache_describe")
	var failures int
	r := &recorder{}
	r.fail = func(e outbox.Event) error {
		if e.AggregateID == "a3" && failures < 2 {
			failures++
			return errors.New("refused")
		}
		return nil
	}
	log := &dbtest.Log{}
	cfg := quick()
	cfg.ListenURL = direct
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	run(t, db.relay(t, r, cfg))
	stop := db.writing(t)
	eventually(t, "publications", func() bool { return len(r.published()) > 100 })
	counts := stop()
	db.settled(t)
	requireAll(t, r, counts)
	require.Contains(t, log.String(), "outbox relay: started")
	require.NotContains(t, log.String(), "notifications don't arrive")

	wrong := quick()
	wrong.ListenURL = bouncer.URL()
	wrong.Logger = slog.New(slog.NewTextHandler(log, nil))
	run(t, db.relay(t, r, wrong))
	eventually(t, "the relay notices", func() bool { return strings.Contains(log.String(), "notifications don't arrive") })
}

// F20: sessions that began on a server that was read-only stay so. The relay drops them, and goes on when the server is writable.
func TestSessionsThatAreReadOnlyAreDropped(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 5, 2)
		settings := dbtest.PoolOn(t, db.URL)
		name := outboxdbtest.One[string](t, db, "SELECT quote_ident(current_database())")
		set := func(change string) {
			_, err := settings.Exec(t.Context(), "ALTER DATABASE "+name+change)
			require.NoError(t, err)
		}
		_, err := settings.Exec(t.Context(), "SELECT 1")
		require.NoError(t, err)
		set(" SET default_transaction_read_only = on")
		again := on(t, db.URL)
		if db.Pool == nil {
			again = through(t, "sql", db.URL)
		}
		cfg := quick()
		tries := make(chan error, 100)
		cfg.Trace = &relay.Trace{Reconnecting: func(_ context.Context, err error, _ time.Duration) {
			select {
			case tries <- err:
			default:
			}
		}}
		r := &recorder{}
		run(t, again.relay(t, r, cfg))
		require.ErrorContains(t, <-tries, "25006")
		set(" RESET default_transaction_read_only")
		eventually(t, "all out", func() bool { return len(r.published()) == 10 })
	})
}

func TestRelaySaysWhatIsWrongWithItsSchema(t *testing.T) {
	t.Parallel()
	each(t, databases, nil, func(t *testing.T, db *database) {
		rel := db.relay(t, &recorder{}, quick())
		err := rel.Run(t.Context())
		require.ErrorIs(t, err, outbox.ErrSchema)
		require.ErrorContains(t, err, "endstate_relay")
		db.Migrate(t, *writer)
		db.Exec(t, "ALTER TABLE endstate_outbox RENAME COLUMN created_at TO gone")
		err = rel.Run(t.Context())
		require.ErrorIs(t, err, outbox.ErrSchema)
		require.ErrorContains(t, err, `no column "created_at"`)
	})
}

// A database that is away when the relay begins isn't one that lacks something; nor is a Run that ends meanwhile an error.
func TestTheDatabaseIsAwayAtTheStart(t *testing.T) {
	t.Parallel()
	proxy := pgfault.New(t, dbtest.Postgres(t))
	db := on(t, proxy.URL())
	db.Migrate(t, *writer)
	db.aggregates(t, 3, 1)
	proxy.Refuse(true)
	proxy.CutAll()
	away := make(chan struct{}, 100)
	cfg := quick()
	cfg.Trace = &relay.Trace{Reconnecting: func(context.Context, error, time.Duration) { away <- struct{}{} }}
	r := &recorder{}
	run(t, db.relay(t, r, cfg))
	<-away
	<-away
	proxy.Refuse(false)
	eventually(t, "all", func() bool { return len(r.published()) == 3 })

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, db.relay(t, r, quick()).Run(ended))
}
