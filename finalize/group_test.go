package finalize_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// grouped makes every Settle wait for the others of its group, so that a test knows who is in it.
func grouped(c *finalize.Config) {
	c.Group = finalize.GroupConfig{Writers: 1, Wait: 500 * time.Millisecond}
}

// settleAll settles all batches at once and returns what each call got, and how long it took.
func (w *world) settleAll(ids []string, outcome func(id string) finalize.Outcome) (receipts []finalize.Receipt, errs []error, took []time.Duration) {
	w.t.Helper()
	receipts, errs, took = make([]finalize.Receipt, len(ids)), make([]error, len(ids)), make([]time.Duration, len(ids))
	var group sync.WaitGroup
	for i, id := range ids {
		group.Go(func() {
			start := time.Now()
			receipts[i], errs[i] = w.settle(w.t.Context(), guard.Text(id), finalize.Trigger("trigger "+id), outcome(id))
			took[i] = time.Since(start)
		})
	}
	group.Wait()
	return receipts, errs, took
}

func always(out finalize.Outcome) func(string) finalize.Outcome {
	return func(string) finalize.Outcome { return out }
}

// Sixty-four calls at once are one statement, and each gets its own receipt.
func TestAGroupIsOneStatement(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(64)
		w.open(keys...)
		before := w.pool.Stat().AcquireCount()
		receipts, errs, _ := w.settleAll(keys, func(id string) finalize.Outcome {
			if id == keys[7] {
				return quietly()
			}
			return completed()
		})
		require.Less(t, w.pool.Stat().AcquireCount()-before, int64(len(keys)/4), "statements: one, and one for who came late")
		for i, r := range receipts {
			require.NoError(t, errs[i])
			require.True(t, r.Won)
			if i == 7 {
				w.requireFinal(keys[i], "ERROR_QUIET")
			} else {
				w.requireFinal(keys[i], "COMPLETE_STABLE", "batch.completed")
			}
			require.Equal(t, w.hasLedger(), r.Provenance)
			if r.Provenance {
				require.Equal(t, finalize.Trigger("trigger "+keys[i]), r.Trigger)
			}
			lost, err := w.settle(t.Context(), guard.Text(keys[i]), "loser", completed())
			require.NoError(t, err)
			lost.Differs = false
			requireSameReceipt(t, w, r, lost)
		}
	}, on("pgx"), guardedBy("status", "ledger", "all"), configured(grouped))
}

// Whoever can't be settled with the others is settled, or fails, alone: a taken dedup key, a key without a row, one that is
// final already, one of which the guards disagree.
func TestOneBadCallOfAGroupFailsAlone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for _, with := range []string{"conflict", "absent", "final", "anomaly"} {
			keys := make([]string, 8)
			for i := range keys {
				keys[i] = fmt.Sprintf("%s-%d", with, i)
			}
			bad := keys[3]
			w.open(keys...)
			switch with {
			case "conflict":
				w.putElsewhere(outbox.Event{DedupKey: "batch/t:" + bad + "#batch.completed"})
			case "absent":
				w.exec("DELETE FROM batches WHERE id = $1", bad)
			case "final":
				_, err := w.another().settle(t.Context(), guard.Text(bad), "elsewhere", quietly())
				require.NoError(t, err)
			case "anomaly":
				w.exec("UPDATE batches SET status = 'ERROR_QUIET' WHERE id = $1", bad)
			}
			receipts, errs, _ := w.settleAll(keys, always(completed()))
			for i, id := range keys {
				if id != bad {
					require.NoError(t, errs[i], id)
					require.True(t, receipts[i].Won, id)
					w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
				}
			}
			switch {
			case with == "conflict":
				var conflict *finalize.EventConflictError
				require.ErrorAs(t, errs[3], &conflict)
				require.Equal(t, "batch "+bad, conflict.Ref.String())
				w.requireSettledByNobody(bad)
			case with == "absent" && w.hasStatus():
				require.ErrorIs(t, errs[3], guard.ErrNotFound)
				require.Empty(t, w.events(bad))
			case with == "final":
				require.NoError(t, errs[3])
				require.False(t, receipts[3].Won)
				require.True(t, receipts[3].Differs)
				require.Equal(t, "ERROR_QUIET", receipts[3].State)
			case with == "anomaly" && w.guard == "all":
				require.ErrorIs(t, errs[3], guard.ErrAnomaly)
				require.Empty(t, w.events(bad))
			}
		}
	}, on("pgx"), guardedBy("status", "ledger", "all"), configured(grouped), tampered())
}

// requireSettledByNobody is requireOpen for an aggregate whose event was put elsewhere.
func (w *world) requireSettledByNobody(id string) {
	w.t.Helper()
	require.Empty(w.t, w.state(id), "state of %s", id)
	require.NotContains(w.t, w.events(id), "batch.completed")
}

// With one aggregate held by another session, in each way in which it can be, the others of its group don't wait for it.
func TestAGroupDoesNotWaitForOne(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"another call's claim", "an uncommitted call", "a row lock", "an uncommitted entry", "an uncommitted event"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				if how == "a row lock" && !w.hasStatus() || how == "an uncommitted entry" && !w.hasLedger() {
					return
				}
				keys := ids(64)
				w.open(keys...)
				bad := keys[20]
				tx, err := w.db.BeginTx(t.Context(), nil)
				require.NoError(t, err)
				defer func() { _ = tx.Rollback() }()
				exec := func(query string, args ...any) {
					_, err := tx.ExecContext(t.Context(), query, args...)
					require.NoError(t, err)
				}
				release := func() { require.NoError(t, tx.Rollback()) }
				switch how {
				case "another call's claim", "an uncommitted call":
					callers, err := w.another().begin(t.Context(), "")
					require.NoError(t, err)
					_, err = callers.doTx(t.Context(), guard.Text(bad), "elsewhere", func(context.Context, endstate.Tx) (finalize.Outcome, error) {
						return completed(), nil
					})
					require.NoError(t, err)
					release = func() { require.NoError(t, callers.Rollback(t.Context())) }
					if how == "another call's claim" {
						require.NoError(t, callers.Rollback(t.Context()))
						claims, err := w.another().begin(t.Context(), "")
						require.NoError(t, err)
						_, err = guardNamed(w.guard, false).Claim(t.Context(), claims, guard.Ref{Aggregate: aggregate, Key: guard.Text(bad)})
						require.NoError(t, err)
						release = func() { require.NoError(t, claims.Rollback(t.Context())) }
					}
				case "a row lock":
					exec("SELECT FROM batches WHERE id = $1 FOR UPDATE", bad)
				case "an uncommitted entry":
					exec(`INSERT INTO endstate_ledger (aggregate, "key", state, "trigger", token, at) VALUES ('batch', $1, 'X', 'x', gen_random_uuid(), now())`, guard.Text(bad).Encode())
				case "an uncommitted event":
					_, err := outbox.Put(t.Context(), endstate.PostgresTx(tx), outbox.Event{AggregateType: "elsewhere", AggregateID: "1", Type: "elsewhere", Payload: []byte("1"), DedupKey: "batch/t:" + bad + "#batch.completed"})
					require.NoError(t, err)
				}
				var group sync.WaitGroup
				defer group.Wait()
				blocked := make(chan error, 1)
				others := make(chan time.Duration, len(keys))
				start := time.Now()
				for _, id := range keys {
					group.Go(func() {
						r, err := w.settle(t.Context(), guard.Text(id), "sweep", completed())
						if id == bad {
							blocked <- err
							return
						}
						if err != nil || !r.Won {
							t.Errorf("%s: %v, %v", id, r, err)
						}
						others <- time.Since(start)
					})
				}
				var last time.Duration
				for range len(keys) - 1 { // all of them, while the one is still held
					last = max(last, <-others)
				}
				t.Logf("the last of the others took %v, of which 500ms gathering", last)
				require.Less(t, last, 20*time.Second, "a tenth of a second on an idle machine; it must not be a lock's usual wait")
				require.Empty(t, blocked)
				release()
				require.NoError(t, <-blocked)
				w.requireFinal(bad, "COMPLETE_STABLE", "batch.completed")
			}, on("pgx"), guardedBy("status", "ledger", "all"), configured(grouped), conns(10))
		})
	}
}

// A call that comes alone and has to wait keeps others waiting for an instant only.
func TestABlockedCallGivesItsPlaceAway(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.open("b1", "b2", "b3")
		blocked := make(chan error, 1)
		w.held("b1", func() {
			go func() {
				_, err := w.settle(t.Context(), guard.Text("b1"), "sweep", completed())
				blocked <- err
			}()
			w.waiting(1)
			for _, id := range []string{"b2", "b3"} {
				r, err := w.settle(t.Context(), guard.Text(id), "sweep", completed())
				require.NoError(t, err)
				require.True(t, r.Won)
			}
			require.Empty(t, blocked)
		})
		require.NoError(t, <-blocked)
	}, on("pgx"), guardedBy("status", "ledger", "all"), configured(func(c *finalize.Config) {
		c.Group.Wait, c.Group.Writers = time.Millisecond, 1
	}))
}

// Groups of several finalizers, as of several processes, meet on the same keys.
func TestRaceOfGroups(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(300)
		w.open(keys...)
		var mu sync.Mutex
		var all []called
		var group sync.WaitGroup
		for range 4 {
			d := w.another()
			for i := range 64 {
				group.Go(func() {
					for k := range len(keys) / 4 {
						id := keys[(i*7+k)%len(keys)]
						r, err := d.settle(t.Context(), guard.Text(id), "racer", completed())
						c := called{Key: id, Receipt: r}
						if err != nil {
							c.Err = err.Error()
						}
						mu.Lock()
						all = append(all, c)
						mu.Unlock()
					}
				})
			}
		}
		group.Wait()
		requireOneWinnerEach(t, w, keys, all)
	}, on("pgx"), guardedBy("status", "ledger", "all"), conns(16))
}

// Whatever the table is called and its columns are: an enum, composite keys, a status that is NULL, further columns to set, several events in order.
func TestAGroupOnAnyTable(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	ctx := t.Context()
	_, err := pool.Exec(ctx, `CREATE TYPE state AS ENUM ('OPEN', 'COMPLETE "a, b\c"', 'ERROR');
CREATE TABLE item (tenant uuid, id int, state state, by varchar(20), at timestamptz, tag text, PRIMARY KEY (tenant, id)) PARTITION BY HASH (id);
CREATE TABLE item_0 PARTITION OF item FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE item_1 PARTITION OF item FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO item SELECT '6ba7b810-9dad-11d1-80b4-00c04fd430c8', n, CASE WHEN n % 3 > 0 THEN 'OPEN'::state END FROM generate_series(1, 20) n`)
	require.NoError(t, err)
	cfg := &finalize.Config{Aggregate: "job", Logger: discard(), Guard: guard.All(guard.Ledger{}, guard.Status{
		Table: "item", Keys: []string{"tenant", "id"}, Column: "state", Terminal: guard.Names(`COMPLETE "a, b\c"`, "ERROR"),
		Set: map[string]any{"by": guard.By, "at": guard.Now, "tag": "x"},
	})}
	grouped(cfg)
	fin, err := finalize.New(pool, cfg)
	require.NoError(t, err)
	require.NoError(t, fin.Migrate(ctx))
	tenant, err := guard.ParseUUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	require.NoError(t, err)
	before := pool.Stat().AcquireCount()
	var group sync.WaitGroup
	for n := range int64(20) {
		group.Go(func() {
			out := finalize.Outcome{State: "ERROR"}
			if n%2 == 0 {
				out.State = `COMPLETE "a, b\c"`
				for i := range n {
					out.Events = append(out.Events, outbox.Event{Type: fmt.Sprintf("e%02d", i), Payload: []byte("1"), Headers: map[string]string{"h": "v"}})
				}
			}
			r, err := fin.Settle(ctx, guard.Composite(tenant, guard.Int(n+1)), finalize.Trigger(fmt.Sprint("t", n+1)), out)
			if err != nil || !r.Won {
				t.Error(n, r, err)
			}
		})
	}
	group.Wait()
	require.Less(t, pool.Stat().AcquireCount()-before, int64(5))
	var n int
	require.NoError(t, pool.QueryRow(ctx, `SELECT count(*) FROM item JOIN endstate_ledger ON "key" = 'u:' || tenant || '/i:' || id AND endstate_ledger.state = item.state::text AND trigger = by
		WHERE by = 't' || id AND item.at <= clock_timestamp() AND tag = 'x' AND item.state = CASE WHEN id % 2 = 1 THEN 'COMPLETE "a, b\c"' ELSE 'ERROR' END::state`).Scan(&n))
	require.Equal(t, 20, n)
	require.NoError(t, pool.QueryRow(ctx, `SELECT count(*) FROM (SELECT type, 'e' || lpad((row_number() OVER (PARTITION BY aggregate_id ORDER BY seq) - 1)::text, 2, '0') AS want FROM endstate_outbox) AS e WHERE type = want`).Scan(&n))
	require.Equal(t, 90, n, "events in their order")
}

// Whatever the connection's default isolation level and way to run statements.
func TestGroupsOfAnyConnection(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]option{
		"repeatable read": param("default_transaction_isolation", "repeatable read"),
		"serializable":    param("default_transaction_isolation", "serializable"),
		"exec":            func(s *setup) { s.mode = pgx.QueryExecModeExec },
		"simple protocol": func(s *setup) { s.mode = pgx.QueryExecModeSimpleProtocol },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				keys := ids(40)
				w.open(keys...)
				before := w.pool.Stat().AcquireCount()
				receipts, errs, _ := w.settleAll(keys, always(completed()))
				require.Less(t, w.pool.Stat().AcquireCount()-before, int64(len(keys)/4))
				for i, id := range keys {
					require.NoError(t, errs[i])
					require.True(t, receipts[i].Won)
					w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
				}
			}, on("pgx"), guardedBy("status", "ledger", "all"), o, configured(grouped))
		})
	}
}
