package relay_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// faultyRelay is a relay whose way to the database can be cut.
type faultyRelay struct {
	*switched
	proxy *pgfault.Proxy
}

// arm has something happen at the relay's next moves, each after their batch was published.
func (f *faultyRelay) arm(do pgfault.Action) *pgfault.Fault {
	return f.proxy.Arm(&pgfault.Fault{SQL: `UPDATE "endstate_outbox_cursors" AS c SET token`, Do: do})
}

// fired waits longer than RequireFired: a relay may have to get partitions first.
func fired(t *testing.T, f *pgfault.Fault) {
	t.Helper()
	eventually(t, f.String(), f.HasFired)
}

// crash cuts a relay off between publishing and moving, until another one has taken its partitions over.
func (f *faultyRelay) crash(t *testing.T, db *database) {
	t.Helper()
	var over atomic.Bool
	fault := f.proxy.Arm(&pgfault.Fault{SQL: `UPDATE "endstate_outbox_cursors" AS c SET token`, Match: func(string) bool { return !over.Load() }, Do: pgfault.CutBefore, Times: math.MaxInt})
	fired(t, fault)
	f.proxy.Refuse(true)
	f.proxy.CutAll()
	eventually(t, "another relay takes over", func() bool {
		return outboxdbtest.One[bool](t, db, "SELECT (SELECT count(*) = 1 FROM endstate_outbox_relays) AND (SELECT count(owner) = 8 AND count(DISTINCT owner) = 1 FROM endstate_outbox_cursors)")
	})
	over.Store(true)
	f.proxy.Refuse(false)
}

// resolve commits what was prepared that long ago, as the manager of transactions in two phases does when it is back, and reports
// whether there is nothing of it.
func (db *database) resolve(ctx context.Context, age string) (none bool) {
	rows, err := db.Pool.Query(ctx, "SELECT gid FROM pg_prepared_xacts WHERE prepared <= clock_timestamp() - $1::text::interval", age)
	if err != nil {
		return false
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range names {
		_, _ = db.Pool.Exec(ctx, "COMMIT PREPARED '"+name+"'") // unless its writer came first
	}
	return err == nil && len(names) == 0
}

// F2, F13, F35, F49: random transactions, also in two phases, beside faults at random: a relay is cut off between publishing and its
// move, for longer than its lease; a move's COMMIT is cut before, while and after it takes effect; and in the middle a standby that
// lacks the last commits takes over. Each event that survived is published, those of an aggregate in commit order, first publications
// considered.
func TestRandomTransactionsUnderFaults(t *testing.T) {
	t.Parallel()
	primary := dbtest.StartPostgres(t)
	db := newSwitched(t, primary.URL())
	db.Migrate(t, *writer)
	db.counters(t)
	standby := dbtest.StartStandby(t, primary)
	there := on(t, standby.URL())

	r := &recorder{}
	cfg := mortal()
	cfg.BatchSize, cfg.MaxCrashes = 7, 1000
	relays := make([]*faultyRelay, 2)
	for i := range relays {
		proxy := pgfault.New(t, primary.URL())
		relays[i] = &faultyRelay{newSwitched(t, proxy.URL()), proxy}
		run(t, relays[i].relay(t, r, cfg))
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	writing, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	var committed, prepared atomic.Int64
	for w := range 4 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(w+1)))
			for writing.Err() == nil {
				ctx, cancel := context.WithTimeout(writing, 10*time.Second)
				if randomTransaction(ctx, db.Pool, random, &prepared) == nil { // the server may be away
					committed.Add(1)
				}
				cancel()
				time.Sleep(time.Duration(random.IntN(10)) * time.Millisecond)
			}
		})
	}
	group.Go(func() {
		for writing.Err() == nil {
			ctx, cancel := context.WithTimeout(writing, 10*time.Second)
			_ = db.resolve(ctx, "1 s") // the server may be away
			cancel()
			time.Sleep(100 * time.Millisecond)
		}
	})
	happened := map[string]int{}
	faults := func(now *database) {
		const crash = pgfault.Action(-1)
		kinds := []pgfault.Action{pgfault.CutBefore, pgfault.CutWhileWorking, pgfault.CutAfterReply, pgfault.HalfOpen, crash}
		random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
		for _, do := range kinds {
			eventually(t, "both relays have partitions", func() bool {
				return outboxdbtest.One[int](t, now, "SELECT count(DISTINCT owner) FROM endstate_outbox_cursors WHERE careful = 0") == 2
			})
			f := relays[random.IntN(len(relays))]
			if do == crash {
				f.crash(t, now)
				happened["crash"]++
			} else {
				fired(t, f.arm(do))
				happened[do.String()]++
			}
		}
	}
	faults(db.database)

	// The fail-over: the standby gets nothing any more, and some commits, publications and moves later the primary is gone.
	for _, statement := range []string{"ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"} {
		_, err := there.Pool.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	eventually(t, "the standby is cut off", func() bool { return outboxdbtest.One[int](t, there, "SELECT count(*) FROM pg_stat_wal_receiver") == 0 })
	commits, published := committed.Load(), len(r.published())
	eventually(t, "commits and publications that will be lost", func() bool { return committed.Load() > commits+20 && len(r.published()) > published+20 })
	before := db.Count(t)
	primary.Kill()
	require.True(t, outboxdbtest.One[bool](t, there, "SELECT pg_promote()"))
	require.Less(t, there.Count(t), before, "the last commits are lost")
	db.lead(t, standby.URL())
	for _, f := range relays {
		f.proxy = pgfault.New(t, standby.URL())
		f.lead(t, f.proxy.URL())
	}
	happened["fail-over"]++
	earlier := prepared.Load()
	faults(there)
	stop()
	group.Wait()
	eventually(t, "nothing is prepared", func() bool { return there.resolve(t.Context(), "0 s") })
	there.settled(t)

	require.Greater(t, prepared.Load(), earlier, "in two phases, also after the fail-over")
	require.Equal(t, map[string]int{"CutBefore": 2, "CutWhileWorking": 2, "CutAfterReply": 2, "HalfOpen": 2, "crash": 2, "fail-over": 1}, happened)
	stored, survived := map[string][]uuid.UUID{}, map[uuid.UUID]bool{}
	for _, e := range there.Stored(t, *writer) {
		stored[e.AggregateID] = append(stored[e.AggregateID], e.ID)
		survived[e.ID] = true
	}
	first, seen := map[string][]uuid.UUID{}, map[uuid.UUID]bool{}
	for _, e := range r.published() {
		if survived[e.ID] && !seen[e.ID] {
			first[e.AggregateID] = append(first[e.AggregateID], e.ID)
			seen[e.ID] = true
		}
	}
	require.Zero(t, outboxdbtest.One[int](t, there, "SELECT count(*) FROM endstate_outbox_parked"), "nothing is dead or waits")
	for id := range stored {
		require.Equal(t, stored[id], first[id], fmt.Sprintf("aggregate %s, seed %d", id, seed))
	}
}
