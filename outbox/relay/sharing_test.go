package relay_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// Relays share the partitions, take over from those that leave, and keep the order while they do.
func TestRelaysShareTheWork(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		r := &recorder{}
		cfg := mortal()
		var mishaps atomic.Int64 // a busy machine may take a lease away
		cfg.Trace = &relay.Trace{LeaseLost: func(context.Context) { mishaps.Add(1) },
			Reconnecting: func(context.Context, error, time.Duration) { mishaps.Add(1) }}
		stop := db.writing(t)
		owned := func() map[string]int {
			stats, err := db.admin(t).Stats(t.Context())
			if err != nil || len(stats) == 0 {
				return nil // SQLite is busy, or no relay has begun
			}
			shares := map[string]int{}
			for _, r := range stats[0].Relays {
				shares[r.ID.String()] = r.Partitions
			}
			return shares
		}
		var stops []func()
		for n := 1; n <= 3; n++ {
			stops = append(stops, run(t, db.relay(t, r, cfg)))
			share := (outbox.Partitions + n - 1) / n
			eventually(t, fmt.Sprint("a fair share for ", n), func() bool {
				total := 0
				shares := owned()
				for _, n := range shares {
					if n > share {
						return false
					}
					total += n
				}
				return len(shares) == n && total == outbox.Partitions
			})
		}
		stops[0]()
		stops[1]()
		eventually(t, "all for one", func() bool { return len(owned()) == 1 && assert.ObjectsAreEqual(outbox.Partitions, one64(owned())) })
		counts := stop()
		db.settled(t)
		requireAll(t, r, counts)
		if n := len(r.published()); mishaps.Load() == 0 {
			require.Equal(t, db.Count(t), n, "nothing went wrong, so each once")
		}
	})
}

// Whoever joins gets its share with the others' next batch, or look, and not when they count again.
func TestSharesAreThereAtOnce(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, writer, func(t *testing.T, db *database) {
		cfg := quick()
		cfg.LeaseTTL = time.Hour
		relay.SetBalance(cfg, time.Hour)
		const relays = 4
		for range relays {
			run(t, db.relay(t, &recorder{}, cfg))
		}
		eventually(t, "equal shares", func() bool {
			return relays == outboxdbtest.One[int](t, db, fmt.Sprintf("SELECT count(*) FROM (SELECT 1 FROM endstate_outbox_cursors WHERE owner IS NOT NULL GROUP BY owner HAVING count(*) = %d) o", outbox.Partitions/relays))
		})
	})
}

func one64(m map[string]int) (n int) {
	for _, v := range m {
		n = v
	}
	return n
}

// Duplicates race the relay, and purges race both: each event once, none lost, a repeat stays out while its event is there.
func TestDuplicatesAndPurgesRaceTheRelay(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		r := &recorder{}
		run(t, db.relay(t, r, quick()))
		cfg := quick()
		cfg.Retention = time.Hour // and nothing is that old
		run(t, db.relay(t, r, cfg))
		var group sync.WaitGroup
		const n = 100
		var inserted atomic.Int64
		for range 4 {
			group.Go(func() {
				for i := range n {
					var results []outbox.Result
					for {
						err := db.Try(func(ctx context.Context, tx endstate.Tx) (err error) {
							results, err = outbox.Put(ctx, tx, event("completed", fmt.Sprint("k", i)))
							return err
						})
						if err == nil {
							break
						}
						if !assert.True(t, db.SQLite, "%v", err) {
							return
						}
					}
					if results[0].Inserted {
						inserted.Add(1)
					}
				}
			})
		}
		purging, end := context.WithCancel(t.Context())
		var purger sync.WaitGroup
		admin := db.admin(t)
		purger.Go(func() {
			for purging.Err() == nil {
				if n, err := admin.Purge(purging, time.Hour); err == nil {
					assert.Zero(t, n)
				}
			}
		})
		group.Wait()
		db.settled(t)
		end()
		purger.Wait()
		require.EqualValues(t, n, inserted.Load())
		seen := map[uuid.UUID]bool{}
		for _, e := range r.published() {
			seen[e.ID] = true
		}
		require.Len(t, seen, n, "each event, and only one for a key")
		for {
			deleted, err := admin.Purge(t.Context(), 0)
			if err == nil {
				require.EqualValues(t, n, deleted)
				break
			}
			require.True(t, db.SQLite, "%v", err)
		}
	})
}

func TestRetention(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		for _, retention := range []time.Duration{relay.DeleteOnPublish, 200 * time.Millisecond} {
			db.aggregates(t, 20, 2)
			failing := event("refused", "")
			failing.AggregateID = "dead"
			db.Put(t, failing)
			r := &recorder{fail: func(e outbox.Event) error {
				if e.Type == "refused" {
					return outbox.Permanent(errors.New("refused"))
				}
				return nil
			}}
			cfg := quick()
			cfg.Retention = retention
			relay.SetSampling(cfg, time.Hour) // what goes at once needs no samples
			stop := run(t, db.relay(t, r, cfg))
			eventually(t, "only the dead letter stays", func() bool { return db.Count(t) == 1 })
			require.Len(t, r.published(), 40)
			stop()
			db.Exec(t, "DELETE FROM endstate_outbox_parked")
			db.Exec(t, "DELETE FROM endstate_outbox")
		}
	})
}

// Where sessions are SERIALIZABLE unless told otherwise, PostgreSQL may break off any statement that is a transaction by itself. It is
// sent again.
func TestStatementsThatAreBrokenOff(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 3, 1)
		r := &recorder{}
		stop := run(t, db.relay(t, r, quick()))
		eventually(t, "all out", func() bool { return len(r.published()) == 3 })
		db.settled(t)
		stop()
		db.Exec(t, "CREATE SEQUENCE deletes")
		db.Exec(t, `CREATE FUNCTION break_off() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF nextval('deletes') = 1 THEN RAISE SQLSTATE '40001'; END IF; RETURN NULL; END $$`)
		db.Exec(t, "CREATE TRIGGER break_off BEFORE DELETE ON endstate_outbox FOR EACH STATEMENT EXECUTE FUNCTION break_off()")
		deleted, err := db.admin(t).Purge(t.Context(), 0)
		require.NoError(t, err)
		require.EqualValues(t, 3, deleted)
		require.Greater(t, outboxdbtest.One[int64](t, db, "SELECT last_value FROM deletes"), int64(1), "one was broken off")
	})
}
