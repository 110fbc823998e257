package finalize_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// bulks is a tracer that notes the statements for many: whether each was the careful one, and its SQLSTATE.
type bulks struct {
	mu   sync.Mutex
	sent []string
}

func (b *bulks) note(sql string, err error) {
	if !strings.HasPrefix(sql, "WITH endstate_patience") {
		return
	}
	what := "at once"
	if strings.Contains(sql, "SKIP LOCKED") {
		what = "carefully"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = append(b.sent, strings.TrimSpace(what+" "+sqltx.State(err)))
}

func (b *bulks) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, b, data.SQL)
}

func (b *bulks) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	b.note(ctx.Value(b).(string), data.Err)
}

func (b *bulks) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (b *bulks) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	b.note(data.SQL, data.Err)
}

func (b *bulks) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// One row that is held elsewhere delays the others by one wait, which the statement itself bounds. The bound is the statement's
// alone.
func TestALockedRowDelaysTheOthersByOneShortWait(t *testing.T) {
	t.Parallel()
	tracer := new(bulks)
	w := newWorld(t, "pgx", "all", dbtest.Postgres(t), func(s *setup) { s.tracer = tracer }, conns(3))
	keys := ids(20)
	w.open(keys...)
	undo := w.meddle("BEFORE UPDATE", "batches", "INSERT INTO writes VALUES (NEW.id, current_setting('lock_timeout'));", "")
	tx, err := w.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(t.Context(), "SELECT FROM batches WHERE id = $1 FOR UPDATE", keys[7])
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		results, err := w.many(t.Context(), "sweep", items(keys, completed()))
		for _, r := range results {
			if !r.Receipt.Won {
				t.Error("not won")
			}
		}
		done <- err
	}()
	w.eventually("SELECT count(*) = $1 FROM endstate_outbox", len(keys)-1)
	require.Empty(t, done)
	require.NoError(t, tx.Rollback())
	require.NoError(t, <-done)
	w.requireFinal(keys[7], "COMPLETE_STABLE", "batch.completed")
	require.Equal(t, []string{"at once 55P03", "carefully"}, tracer.sent)
	require.Equal(t, []string{"0", "10ms"}, w.text("SELECT DISTINCT note FROM writes ORDER BY note"), "alone it waits as long as it takes")
	undo()
	for range 3 { // each connection
		conn, err := w.pool.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		var timeout string
		require.NoError(t, conn.QueryRow(t.Context(), "SHOW lock_timeout").Scan(&timeout))
		require.Equal(t, "0", timeout)
	}
}

// Somebody who locks two rows in the other order than a bulk does is not broken off: the bulk gives way.
func TestABulkGivesWayInADeadlock(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(8)
		w.open(keys...)
		tx, err := w.db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		defer func() { _ = tx.Rollback() }()
		lock := func(id string) {
			_, err := tx.ExecContext(t.Context(), "SELECT FROM batches WHERE id = $1 FOR UPDATE", id)
			require.NoError(t, err)
		}
		lock(keys[7])
		done := make(chan error, 1)
		go func() {
			_, err := w.many(t.Context(), "sweep", items(keys, completed()))
			done <- err
		}()
		w.waiting(1) // in the bulk, or alone after it
		lock(keys[0])
		require.NoError(t, tx.Rollback())
		require.NoError(t, <-done)
		for _, id := range keys {
			w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
		}
	}, on("pgx"), guardedBy("status", "all"))
}

// Two finalizers that know the same rows by their keys in opposite orders: nobody is broken off, and each row is won once.
func TestBulksOverTheSameRowsInOppositeOrders(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	const n, rounds = 300, 10
	_, err := pool.Exec(t.Context(), `CREATE TABLE pairs (a int, b int, status text, PRIMARY KEY (a, b), UNIQUE (b, a))`)
	require.NoError(t, err)
	finalizer := func(keys ...string) *finalize.Finalizer[pgx.Tx] {
		fin, err := finalize.New(pool, &finalize.Config{Aggregate: "pair", Logger: discard(), Cache: finalize.CacheConfig{Off: true}, Group: finalize.GroupConfig{From: 1},
			Guard: guard.Status{Table: "pairs", Keys: keys, Column: "status", Terminal: guard.Names("DONE")}})
		require.NoError(t, err)
		require.NoError(t, fin.Migrate(t.Context()))
		return fin
	}
	there, back := finalizer("a", "b"), finalizer("b", "a")
	out := finalize.Outcome{State: "DONE", Events: []outbox.Event{{Type: "done", Payload: []byte("1")}}}
	for round := range rounds {
		_, err := pool.Exec(t.Context(), "TRUNCATE pairs, endstate_outbox; INSERT INTO pairs SELECT n, 1000 - n FROM generate_series(1, 300) n")
		require.NoError(t, err)
		var won sync.Map
		wins := func(i int, r finalize.Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			if _, twice := won.LoadOrStore(i, true); r.Won && twice {
				t.Errorf("%d was won twice", i)
			} else if !r.Won && !twice {
				won.Delete(i)
			}
		}
		var group sync.WaitGroup
		for _, of := range []struct {
			fin *finalize.Finalizer[pgx.Tx]
			key func(i int) guard.Key
		}{
			{there, func(i int) guard.Key { return guard.Composite(guard.Int(int64(i)), guard.Int(int64(1000-i))) }},
			{back, func(i int) guard.Key { return guard.Composite(guard.Int(int64(1000-i)), guard.Int(int64(i))) }},
		} {
			if round%2 == 0 {
				group.Go(func() {
					var items []finalize.Item
					for i := range n {
						items = append(items, finalize.Item{Key: of.key(i + 1), Outcome: out})
					}
					results, _ := of.fin.SettleMany(t.Context(), "sweep", items)
					for i, r := range results {
						wins(i, r.Receipt, r.Err)
					}
				})
				continue
			}
			for i := range n { // the same in groups
				group.Go(func() {
					r, err := of.fin.Settle(t.Context(), of.key(i+1), "caller", out)
					wins(i, r, err)
				})
			}
		}
		group.Wait()
		var open, events int
		require.NoError(t, pool.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM pairs WHERE status IS DISTINCT FROM 'DONE'), (SELECT count(*) FROM endstate_outbox)").Scan(&open, &events))
		require.Zero(t, open)
		require.Equal(t, n, events)
	}
}

// A row that another call finalizes after a bulk's statement began, before that comes to it, is lost with the winner's receipt,
// among those that are won, and those that were final before.
func TestLosersAmongABulksWinners(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(6)
		w.open(keys...)
		before, err := w.another().settle(t.Context(), guard.Text(keys[3]), "before", quietly())
		require.NoError(t, err)
		// The first row's trigger says that the statement is under way, and waits to be let go.
		w.exec("CREATE TABLE go (go int)")
		undo := w.meddle("BEFORE UPDATE", "batches", fmt.Sprintf(`IF NEW.id = '%s' THEN PERFORM pg_advisory_xact_lock(hashtext('%s'));
			WHILE NOT EXISTS (SELECT FROM go) LOOP PERFORM pg_sleep(0.001); END LOOP; END IF;`, keys[0], w.schema), "")
		var results []finalize.Result
		done := make(chan error, 1)
		go func() {
			var err error
			results, err = w.many(t.Context(), "sweep", items(keys, completed()))
			done <- err
		}()
		w.eventually("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = (hashtext($1)::bigint & 4294967295)::oid)", w.schema)
		during, err := w.another().settle(t.Context(), guard.Text(keys[4]), "during", quietly())
		require.NoError(t, err)
		require.True(t, during.Won)
		w.exec("INSERT INTO go VALUES (1)")
		require.NoError(t, <-done)
		for i, r := range results {
			switch i {
			case 3:
				r.Receipt.Differs = false
				requireSameReceipt(t, w, before, r.Receipt)
			case 4:
				require.True(t, r.Receipt.Differs)
				r.Receipt.Differs = false
				requireSameReceipt(t, w, during, r.Receipt)
			default:
				require.True(t, r.Receipt.Won)
				w.requireFinal(keys[i], "COMPLETE_STABLE", "batch.completed")
			}
		}
		w.requireFinal(keys[4], "ERROR_QUIET")
		undo()
	}, on("pgx"), guardedBy("status", "all"))
}

// F32: the BEFORE trigger of one row takes back what the same statement has written to another. Neither says that it won while
// it didn't.
func TestATriggerThatReopensAnotherRowOfTheBulk(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(12)
		w.open(keys...)
		w.exec("CREATE SEQUENCE reopened")
		undo := w.meddle("BEFORE UPDATE", "batches", fmt.Sprintf(`IF NEW.id = '%s' AND NEW.status = 'COMPLETE_STABLE' THEN
			UPDATE batches SET status = 'PENDING' WHERE id = '%s' AND status = 'COMPLETE_STABLE' AND xmin = pg_current_xact_id()::xid;
			IF FOUND THEN PERFORM nextval('reopened'); END IF; END IF;`, keys[9], keys[2]), "")
		results, err := w.many(t.Context(), "sweep", items(keys, completed()))
		require.NoError(t, err)
		require.Equal(t, []string{"true"}, w.text("SELECT is_called FROM reopened"), "the fault fired")
		for i, r := range results {
			require.True(t, r.Receipt.Won)
			require.Equal(t, "COMPLETE_STABLE", w.state(keys[i]), keys[i])
		}
		undo()
	}, on("pgx"), guardedBy("status", "all"))
}

// A deferred constraint refuses one row of a bulk at the COMMIT: nothing is believed before that, and the others win without it.
func TestABulkThatADeferredConstraintRefuses(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(20)
		w.open(keys...)
		w.exec(fmt.Sprintf(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = '%s' THEN RAISE 'refused' USING ERRCODE = 'check_violation'; END IF; RETURN NULL; END $$;
			CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON batches DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`, keys[5]))
		results, err := w.many(t.Context(), "sweep", items(keys, completed()))
		require.Error(t, err)
		for i, r := range results {
			if i == 5 {
				require.Equal(t, "23514", sqltx.State(r.Err))
				w.requireOpen(keys[i])
				continue
			}
			require.NoError(t, r.Err)
			require.True(t, r.Receipt.Won)
			w.requireFinal(keys[i], "COMPLETE_STABLE", "batch.completed")
		}
	}, on("pgx"), guardedBy("status", "all"))
}

// Two keys of one row, as a column may have them that ignores case, are one aggregate to a status: one wins.
func TestTwoKeysOfOneRowInABulk(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	_, err := pool.Exec(t.Context(), `CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE TABLE jobs (id text COLLATE nocase PRIMARY KEY, status text); INSERT INTO jobs VALUES ('a'), ('b')`)
	require.NoError(t, err)
	fin, err := finalize.New(pool, &finalize.Config{Aggregate: "job", Logger: discard(), Guard: guard.Status{Table: "jobs", Key: "id", Column: "status", Terminal: guard.Names("DONE")}})
	require.NoError(t, err)
	require.NoError(t, fin.Migrate(t.Context()))
	var list []finalize.Item
	for _, id := range []string{"a", "A", "b"} {
		list = append(list, finalize.Item{Key: guard.Text(id), Outcome: finalize.Outcome{State: "DONE", Events: []outbox.Event{{Type: "done", Payload: []byte("1")}}}})
	}
	results, err := fin.SettleMany(t.Context(), "sweep", list)
	require.NoError(t, err)
	require.NotEqual(t, results[0].Receipt.Won, results[1].Receipt.Won)
	require.True(t, results[2].Receipt.Won)
	var events int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM endstate_outbox").Scan(&events))
	require.Equal(t, 2, events)
}
