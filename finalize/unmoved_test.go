package finalize_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// F32: the row takes no update although the aggregate is open and held. That is no race: one run, and an error that says so.
func TestARefusalIsNoRace(t *testing.T) {
	t.Parallel()
	for name, statements := range map[string]string{
		"a trigger returns NULL": `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
			CREATE TRIGGER refuse BEFORE UPDATE ON batches FOR EACH ROW WHEN (NEW.status = 'COMPLETE_STABLE') EXECUTE FUNCTION refuse()`,
		"a rule does nothing":          `CREATE RULE refuse AS ON UPDATE TO batches DO INSTEAD NOTHING`,
		"a rule does nothing at times": `CREATE RULE refuse AS ON UPDATE TO batches WHERE NEW.status = 'COMPLETE_STABLE' DO INSTEAD NOTHING`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				key := w.open("b1")
				w.exec(statements)
				requireRefused(t, w, w, key, guard.ErrRefused, 2)
			}, on("pgx", "sql"), guardedBy("status", "all"))
		})
	}
}

// requireRefused checks that every door ends with the error at once: Do and DoTx after so many runs of their callbacks.
func requireRefused(t *testing.T, w, through *world, key guard.Key, want error, runs int) {
	t.Helper()
	ran := 0
	counted := func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
		ran++
		return complete(key.String())(ctx, tx)
	}
	check := func(r finalize.Receipt, err error) {
		t.Helper()
		require.ErrorIs(t, err, want)
		require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
		require.NotErrorIs(t, err, finalize.ErrBusy)
		require.Zero(t, r)
		w.requireOpen(key.String())
	}
	check(through.do(t.Context(), key, "threshold", counted))
	tx, err := through.begin(t.Context(), "")
	require.NoError(t, err)
	check(tx.doTx(t.Context(), key, "threshold", counted))
	require.NoError(t, tx.Commit(t.Context()), "the caller's transaction stays usable")
	require.Equal(t, runs, ran)
	check(through.settle(t.Context(), key, "threshold", completed()))
	results, err := through.many(t.Context(), "sweep", []finalize.Item{{Key: key, Outcome: completed()}})
	require.ErrorIs(t, err, want)
	check(results[0].Receipt, results[0].Err)
}

// F32: a row that row security shows, and doesn't let change.
func TestARowThatRowSecurityKeeps(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		role := "role_" + w.schema
		w.exec("CREATE ROLE " + role + "; GRANT USAGE ON SCHEMA " + w.schema + " TO " + role + "; GRANT ALL ON ALL TABLES IN SCHEMA " + w.schema + " TO " + role + "; GRANT ALL ON ALL SEQUENCES IN SCHEMA " + w.schema + " TO " + role)
		t.Cleanup(func() { w.exec("DROP OWNED BY " + role + "; DROP ROLE " + role) })
		w.exec("ALTER TABLE batches ENABLE ROW LEVEL SECURITY; CREATE POLICY seen ON batches FOR SELECT USING (true); CREATE POLICY changed ON batches FOR UPDATE USING (id LIKE 'mine%')")
		limited := connect(t, w.database, w.guard, w.dsn, w.schema, param("role", role))
		w.open("mine1", "others")
		requireRefused(t, w, limited, guard.Text("others"), guard.ErrRefused, 0)
		r, err := limited.do(t.Context(), guard.Text("mine1"), "threshold", complete("mine1"))
		require.NoError(t, err)
		require.True(t, r.Won)
	}, on("pgx", "sql"), guardedBy("status", "all"))
}

// A callback that sets the status, deletes the row, or finalizes the key by itself: one run, and what to do.
func TestACallbackThatSettlesRunsOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for id, statement := range map[string]string{
			"set":     "UPDATE batches SET status = 'COMPLETE_BY_HAND' WHERE id = 'set'",
			"same":    "UPDATE batches SET status = 'COMPLETE_STABLE' WHERE id = 'same'",
			"deleted": "DELETE FROM batches WHERE id = 'deleted'",
		} {
			key, runs := w.open(id), 0
			_, err := w.do(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				runs++
				_, err := tx.Exec(ctx, statement)
				return completed(), err
			})
			require.ErrorIs(t, err, guard.ErrNotOpen)
			require.ErrorContains(t, err, "callback", "what to do")
			var unmoved *guard.TransitionError
			if w.guard != "own" {
				require.ErrorAs(t, err, &unmoved)
				require.Equal(t, id != "deleted", unmoved.Found)
			}
			require.Equal(t, 1, runs)
			require.Zero(t, w.trace.retries())
			w.requireOpen(id)
		}
	}, guardedBy("status", "all"))
}

func TestDoTxForItsOwnKeyInsideDo(t *testing.T) {
	t.Parallel()
	for name, g := range map[string]guard.Guard{"status": statusGuard(), "ledger": guard.Ledger{}, "all": guard.All(statusGuard(), guard.Ledger{})} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.Pool(t)
			_, err := pool.Exec(t.Context(), `CREATE TABLE batches (id text PRIMARY KEY, status text); INSERT INTO batches VALUES ('b1', 'PENDING')`)
			require.NoError(t, err)
			fin, err := finalize.New(pool, &finalize.Config{Aggregate: aggregate, Guard: g, Logger: discard()})
			require.NoError(t, err)
			require.NoError(t, fin.Migrate(t.Context()))
			runs := 0
			_, err = fin.Do(t.Context(), guard.Text("b1"), "outer", func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) {
				runs++
				_, err := fin.DoTx(ctx, tx, guard.Text("b1"), "inner", func(context.Context, pgx.Tx) (finalize.Outcome, error) {
					return completed(), nil
				})
				return completed(), err
			})
			require.Error(t, err)
			require.Equal(t, 1, runs)
			var n int
			require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM endstate_outbox").Scan(&n))
			require.Zero(t, n)
		})
	}
}

// What a trigger raises is the trigger's, whatever its SQLSTATE, even those that the library's own statements could raise.
func TestAnErrorOfTheServicesIsNoSignal(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		for _, code := range []string{"22012", "22P02", "23505", "P0001", "08006", "57P01", "25006"} {
			key := w.open("bad" + code)
			undo := w.meddle("BEFORE UPDATE", "batches", fmt.Sprintf("RAISE EXCEPTION 'refused' USING ERRCODE = '%s', DETAIL = 'Token \"endstate_X_u\" is invalid.';", code), "")
			runs := 0
			_, err := w.do(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
				runs++
				return completed(), nil
			})
			require.Equal(t, code, sqlState(err))
			require.NotErrorIs(t, err, guard.ErrRefused)
			require.NotErrorIs(t, err, finalize.ErrEventConflict)
			_, err = w.settle(t.Context(), key, "threshold", completed())
			require.Equal(t, code, sqlState(err))
			require.Equal(t, 1, runs)
			require.Zero(t, w.trace.retries())
			undo()
		}
	}, on("pgx", "sql"), guardedBy("status", "all"))
}

// One row of many is refused: with the class of an SQLSTATE that could be the table's, by a trigger, as another constraint.
func TestOneRefusalOfMany(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"42501", "42P01", "23514", "22012"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				var ids []string
				var items []finalize.Item
				for i := range 1000 {
					id := fmt.Sprintf("b%03d", i)
					if i == 617 {
						id = "bad617"
					}
					ids = append(ids, id)
					items = append(items, finalize.Item{Key: guard.Text(id), Outcome: completed()})
				}
				w.open(ids...)
				w.meddle("BEFORE UPDATE", "batches", "IF NEW.id LIKE 'bad%' THEN RAISE EXCEPTION 'refused' USING ERRCODE = '"+code+"'; END IF;",
					"SELECT RAISE(ABORT, 'refused') WHERE NEW.id LIKE 'bad%';")
				results, err := w.many(t.Context(), "sweep", items)
				require.ErrorContains(t, err, "1 of 1000 items failed")
				for i, r := range results {
					if i == 617 {
						require.ErrorContains(t, r.Err, "refused")
						continue
					}
					require.NoError(t, r.Err)
					require.True(t, r.Receipt.Won)
				}
				w.requireOpen("bad617")
			}, on("pgx", "sqlite"), guardedBy("status", "all"))
		})
	}
}

// A Settle that is refused doesn't take those with it that it was gathered with.
func TestOneRefusalOfAGroup(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		var ids []string
		for i := range 40 {
			ids = append(ids, fmt.Sprintf("b%02d", i))
		}
		w.open(append(ids, "bad1", "bad2")...)
		w.meddle("BEFORE UPDATE", "batches", "IF NEW.id = 'bad1' THEN RAISE EXCEPTION 'refused' USING ERRCODE = '42501'; END IF; IF NEW.id = 'bad2' THEN NEW.status := 'NEEDS_REVIEW'; END IF;", "")
		errs := make([]error, len(ids)+2)
		var group sync.WaitGroup
		for i, id := range append(ids, "bad1", "bad2") {
			group.Go(func() {
				r, err := w.settle(t.Context(), guard.Text(id), "threshold", completed())
				if err == nil && !r.Won {
					err = errors.New("lost")
				}
				errs[i] = err
			})
		}
		group.Wait()
		for i := range ids {
			require.NoError(t, errs[i])
		}
		require.Equal(t, "42501", sqlState(errs[len(ids)]))
		require.ErrorIs(t, errs[len(ids)+1], guard.ErrRewritten)
	}, on("pgx"), guardedBy("status", "all"), configured(func(c *finalize.Config) { c.Group = finalize.GroupConfig{From: 1, Wait: 1e6} }))
}

// A key that is two rows' isn't one aggregate's: neither is moved.
func TestTwoRowsOfOneKeyAreRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		w.open("b2")
		_, err := w.settle(t.Context(), guard.Text("b2"), "threshold", quietly())
		require.NoError(t, err)
		w.exec("ALTER TABLE batches DROP CONSTRAINT batches_pkey CASCADE")
		w.open("b1")
		_, err = w.settle(t.Context(), key, "threshold", completed())
		require.Error(t, err)
		_, err = w.do(t.Context(), key, "threshold", complete("b1"))
		require.Error(t, err)
		// Without events, whose ids would tell; and as many rows are moved as there are items.
		results, err := w.many(t.Context(), "sweep", []finalize.Item{{Key: key, Outcome: quietly()}, {Key: guard.Text("b2"), Outcome: quietly()}})
		require.Error(t, err)
		require.Error(t, results[0].Err)
		require.NoError(t, results[1].Err)
		require.False(t, results[1].Receipt.Won)
		require.Equal(t, []string{"PENDING", "PENDING"}, w.text("SELECT status FROM batches WHERE id = 'b1'"))
		require.Empty(t, w.text("SELECT type FROM endstate_outbox"))
	}, on("pgx", "sql"), guardedBy("status", "all"))
}
