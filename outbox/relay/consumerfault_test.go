package relay_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// A consumer's COMMIT is cut off before the server sees it, while it works, and after it took effect; of a batch, and of a parked
// event. What became of it, the cursor and the parked row tell.
func TestConsumersCommitIsCut(t *testing.T) {
	t.Parallel()
	for _, do := range []pgfault.Action{pgfault.CutBefore, pgfault.CutWhileWorking, pgfault.CutAfterReply, pgfault.HalfOpen} {
		for _, kind := range []string{"pgx", "sql"} {
			if kind == "sql" && do == pgfault.HalfOpen && !dbtest.GivesUp() {
				continue
			}
			for _, parked := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v/%s/parked=%v", do, kind, parked), func(t *testing.T) {
					t.Parallel()
					direct := newDatabase(t, kind)
					direct.Migrate(t, *writer)
					direct.effects(t)
					proxy := pgfault.New(t, direct.URL)
					db := through(t, kind, proxy.URL())
					direct.aggregates(t, 10, 3)
					var fault *pgfault.Fault
					var once sync.Once
					armed := false
					var told atomic.Int64
					cfg := mortal()
					cfg.Trace = &relay.Trace{Reconnecting: func(context.Context, error, time.Duration) { told.Add(1) }}
					c := db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
						if parked && e.AggregateID == "a3" && !armed {
							armed = direct.parked(t, "aggregate_id = 'a3'") > 0
							if !armed {
								return errors.New("the first time")
							}
						}
						if !parked || armed && e.AggregateID == "a3" {
							once.Do(func() {
								fault = proxy.Arm(&pgfault.Fault{SQL: "commit", Match: func(string) bool { return true }, Do: do})
							})
						}
						return apply(ctx, tx, e)
					}, cfg)
					run(t, c)
					direct.settled(t)
					require.NotNil(t, fault)
					fault.RequireFired(t)
					eventually(t, "that the database failed is told", func() bool { return told.Load() > 0 })
					direct.requireOnce(t)
					require.Zero(t, direct.parked(t, "attempts > 1"), "it was nobody's fault")
				})
			}
		}
	}
}

// A lease that is lost while the handler works: the other consumer handles the event, and the first one's commit is refused.
func TestConsumerThatLostItsLeaseCommitsNothing(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, writer, func(t *testing.T, db *database) {
		db.effects(t)
		db.aggregates(t, 20, 3)
		entered, leave := make(chan struct{}), make(chan struct{})
		var first sync.Once
		ctx, cancel := context.WithCancel(t.Context())
		slow := quick()
		slow.LeaseTTL, slow.PublishTimeout = 20*time.Minute, 10*time.Minute // it lasts here, as the paused process thinks, and isn't renewed meanwhile
		c := db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
			first.Do(func() { close(entered); <-leave })
			return apply(ctx, tx, e)
		}, slow)
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		<-entered
		db.Exec(t, "DELETE FROM endstate_outbox_relays") // but not in the database
		run(t, db.consumer(t, apply, quick()))
		db.settled(t)
		db.requireOnce(t)
		close(leave)
		cancel()
		require.NoError(t, <-done)
		db.requireOnce(t)
		require.Zero(t, db.parked(t, "1 = 1"))
	})
}

// A process that stops between its move and its COMMIT has the cursors locked. Others go on with what it doesn't hold, and with its
// partitions when the server has ended its transaction.
func TestTakeOverWhileTheOldTransactionIsOpen(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"pgx", "sql"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			direct := newDatabase(t, kind)
			direct.Migrate(t, *writer)
			direct.effects(t)
			direct.aggregates(t, 20, 3)
			proxy := pgfault.New(t, direct.URL)
			db := through(t, kind, proxy.URL())
			var fault *pgfault.Fault
			var once sync.Once
			cfg := mortal()
			cfg.LeaseTTL = 20 * time.Minute
			ctx, cancel := context.WithCancel(t.Context())
			c := db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
				once.Do(func() { fault = proxy.Arm(&pgfault.Fault{SQL: "commit", Do: pgfault.Hold}) })
				return apply(ctx, tx, e)
			}, cfg)
			done := make(chan error, 1)
			go func() { done <- c.Run(ctx) }()
			const open = "FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction' AND query LIKE 'UPDATE \"endstate_outbox_cursors\" AS c SET token%'"
			eventually(t, "it is about to commit", func() bool { return outboxdbtest.One[int](t, direct, "SELECT count(*) "+open) == 1 })
			direct.Exec(t, "DELETE FROM endstate_outbox_relays") // its lease is over
			other := direct.consumer(t, apply, mortal())
			stop := run(t, other)
			eventually(t, "the other one isn't stopped by the locks", func() bool {
				return outboxdbtest.One[int](t, direct, "SELECT count(*) FROM endstate_outbox_relays WHERE expires_at > started_at + interval '2100 ms'") == 1
			})
			require.Equal(t, 1, outboxdbtest.One[int](t, direct, "SELECT count(pg_terminate_backend(pid)) "+open), "the locks were there all the time; the server ends them, as it does with idle_in_transaction_session_timeout")
			direct.settled(t)
			direct.requireOnce(t)
			fault.Release()
			cancel()
			require.NoError(t, <-done)
			stop()
			direct.requireOnce(t)
		})
	}
}

// A deferred constraint fails at COMMIT: only the event that breaks it is to blame, and not the one whose transaction it was found in.
func TestConsumersDeferredConstraint(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql", "sqlite-wal"}, writer, func(t *testing.T, db *database) {
		db.Exec(t, "CREATE TABLE owners (aggregate text PRIMARY KEY)")
		db.effects(t)
		db.Exec(t, "CREATE TABLE owned (aggregate text NOT NULL REFERENCES owners DEFERRABLE INITIALLY DEFERRED)")
		if db.SQLite {
			db.SQL = dbtest.SQLiteOn(t, db.URL+"&_pragma=foreign_keys(1)")
		}
		db.aggregates(t, 20, 3)
		cfg := quick()
		cfg.MaxAttempts = 3
		run(t, db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
			if _, err := tx.Exec(ctx, "INSERT INTO owned VALUES ($1)", e.AggregateID+e.Type); err != nil {
				return err
			}
			if e.AggregateID != "a3" || e.Type != "1" {
				if _, err := tx.Exec(ctx, "INSERT INTO owners VALUES ($1)", e.AggregateID+e.Type); err != nil {
					return err
				}
			}
			return apply(ctx, tx, e)
		}, cfg))
		db.settled(t)
		require.Equal(t, 1, db.parked(t, "dead_at IS NOT NULL AND attempts = 3"))
		require.Equal(t, 59, outboxdbtest.One[int](t, db, "SELECT count(*) FROM effects"))
		require.Equal(t, 59, outboxdbtest.One[int](t, db, "SELECT count(*) FROM owned"))
		db.requireOnce(t)
	})
}

// Serialization failures and deadlocks cost no attempt, however many there are.
func TestConsumersConflictsCostNoAttempt(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"40001", "40P01"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			each(t, []string{"pgx", "sql"}, writer, func(t *testing.T, db *database) {
				db.effects(t)
				db.aggregates(t, 10, 3)
				cfg := quick()
				cfg.MaxAttempts = 2
				cfg.Trace = &relay.Trace{Failed: func(_ context.Context, e outbox.Event, _ int, err error, _ time.Duration) { t.Error(e.ID, err) }}
				var fired atomic.Int64
				run(t, db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
					if err := apply(ctx, tx, e); err != nil {
						return err
					}
					if e.AggregateID == "a3" && fired.Add(1) < 50 {
						_, err := tx.Exec(ctx, "DO $$BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '"+state+"'; END$$")
						return fmt.Errorf("update: %w", err)
					}
					return nil
				}, cfg))
				db.settled(t)
				require.GreaterOrEqual(t, fired.Load(), int64(50))
				db.requireOnce(t)
				require.Zero(t, db.parked(t, "1 = 1"))
			})
		})
	}
}

// A handler can't end a pgx transaction by its methods.
func TestConsumersTransactionIsItsOwn(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.Migrate(t, *writer)
	db.effects(t)
	db.aggregates(t, 10, 3)
	var kept pgx.Tx
	c, err := relay.NewConsumer(db.Pool, func(ctx context.Context, tx pgx.Tx, e outbox.Event) error {
		kept = tx
		if err := tx.Commit(ctx); !errors.Is(err, relay.ErrTxOwned) {
			return errors.Join(errors.New("it commits"), outbox.Permanent(err))
		}
		if err := tx.Rollback(ctx); !errors.Is(err, relay.ErrTxOwned) {
			return errors.New("it rolls back")
		}
		return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return apply(ctx, tx, e) }) // a savepoint
	}, &relay.Config{Subscription: "default", Logger: quick().Logger})
	require.NoError(t, err)
	stop := run(t, c)
	db.settled(t)
	stop()
	db.requireOnce(t)
	_, err = kept.Exec(t.Context(), "SELECT 1")
	require.ErrorIs(t, err, pgx.ErrTxClosed)
}

// A handler that ends its transaction in another way is found out: the event is parked, and the cursor doesn't pass it otherwise.
func TestHandlerThatEndsItsTransactionIsFoundOut(t *testing.T) {
	t.Parallel()
	statement := func(sql string) effect {
		return func(ctx context.Context, tx endstate.Tx, _ outbox.Event) error {
			_, err := tx.Exec(ctx, sql)
			return err
		}
	}
	for name, end := range map[string]effect{
		"by a method":         func(ctx context.Context, tx endstate.Tx, _ outbox.Event) error { _ = tx.Commit(ctx); return nil },
		"by COMMIT":           statement("COMMIT"),
		"by ROLLBACK":         statement("ROLLBACK"),
		"by COMMIT AND CHAIN": statement("COMMIT AND CHAIN"),
		"by leaving rows unread": func(ctx context.Context, tx endstate.Tx, _ outbox.Event) error {
			_, err := tx.Query(ctx, "SELECT generate_series(1, 3)")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, []string{"pgx", "sql"}, writer, func(t *testing.T, db *database) {
				switch {
				case name == "by a method" && db.Pool != nil:
					return // it can't: TestConsumersTransactionIsItsOwn
				case name == "by COMMIT AND CHAIN" && db.Pool != nil, name == "by leaving rows unread" && db.Pool == nil:
					return // outside of the promise: documented
				}
				db.effects(t)
				db.aggregates(t, 20, 3)
				cfg := quick()
				cfg.MaxAttempts = 2
				run(t, db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
					if e.AggregateID == "a3" && e.Type == "1" {
						return end(ctx, tx, e)
					}
					return apply(ctx, tx, e)
				}, cfg))
				db.settled(t)
				require.Equal(t, 1, db.parked(t, "dead_at IS NOT NULL AND attempts = 2 AND last_error LIKE 'relay: the handler %'"))
				require.Zero(t, outboxdbtest.One[int](t, db, "SELECT count(*) FROM effects WHERE aggregate = 'a3' AND kind = '1'"))
				require.Equal(t, 59, outboxdbtest.One[int](t, db, "SELECT count(DISTINCT event) FROM effects"))
			})
		})
	}
}

// The move's transaction takes its id after the reading's snapshot. What would take one before is noticed.
func TestConsumersReadingComesFirst(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.Migrate(t, *writer)
	db.effects(t)
	db.aggregates(t, 10, 1)
	var wrong atomic.Bool
	wrong.Store(true)
	through := on(t, db.URL, func(c *pgxpool.Config) { c.ConnConfig.Tracer = writing{&wrong} })
	cfg := quick()
	said := make(chan error, 1000)
	cfg.Trace = &relay.Trace{Reconnecting: func(_ context.Context, err error, _ time.Duration) { said <- err }}
	run(t, through.consumer(t, apply, cfg))
	require.ErrorContains(t, <-said, "the reading's transaction has an id")
	require.Zero(t, outboxdbtest.One[int](t, db, "SELECT count(*) FROM effects"))
	wrong.Store(false)
	db.settled(t)
	db.requireOnce(t)
}

// writing is a tracer that writes in transactions that have just begun.
type writing struct{ on *atomic.Bool }

func (w writing) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (w writing) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	if w.on.Load() && data.Err == nil && data.CommandTag == pgconn.NewCommandTag("BEGIN") {
		_, _ = conn.PgConn().Exec(ctx, "SELECT pg_current_xact_id()").ReadAll()
	}
}
