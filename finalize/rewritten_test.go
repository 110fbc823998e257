package finalize_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// meddle makes a trigger on a table whose body is run for rows of batches whose id begins with "bad".
func (w *world) meddle(when, table, postgres, sqlite string) (undo func()) {
	w.t.Helper()
	if w.sqlite() {
		w.exec(fmt.Sprintf("CREATE TRIGGER meddler %s ON %s BEGIN %s END", when, table, sqlite))
		return func() { w.exec("DROP TRIGGER meddler") }
	}
	w.exec("CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN " + postgres + " RETURN NEW; END $$")
	w.exec(fmt.Sprintf("CREATE TRIGGER meddler %s ON %s FOR EACH ROW EXECUTE FUNCTION meddle()", when, table))
	return func() { w.exec("DROP TRIGGER meddler ON " + table + "; DROP FUNCTION meddle()") }
}

// F32: a trigger writes another status than the one asked for. No way to finalize says that it won, nothing is written, and
// the error names what the row says.
func TestAWinIsWhatTheRowSays(t *testing.T) {
	t.Parallel()
	own := func(got string) string { return "IF NEW.id LIKE 'bad%' THEN NEW.status := " + got + "; END IF;" }
	const later = "UPDATE batches SET status = '%s' WHERE id LIKE 'bad%%' AND status = 'COMPLETE_STABLE';"
	const gone = "DELETE FROM batches WHERE id LIKE 'bad%' AND status = 'COMPLETE_STABLE';"
	for name, m := range map[string]struct{ when, table, postgres, sqlite, got string }{
		"keeps the old":     {when: "BEFORE UPDATE", table: "batches", postgres: own("OLD.status"), got: "PENDING"},
		"needs review":      {when: "BEFORE UPDATE", table: "batches", postgres: own("'NEEDS_REVIEW'"), got: "NEEDS_REVIEW"},
		"lower case":        {when: "BEFORE UPDATE", table: "batches", postgres: own("lower(NEW.status)"), got: "complete_stable"},
		"another terminal":  {when: "BEFORE UPDATE", table: "batches", postgres: own("'ERROR_OTHER'"), got: "ERROR_OTHER"},
		"null":              {when: "BEFORE UPDATE", table: "batches", postgres: own("NULL"), got: ""},
		"afterwards":        {when: "AFTER UPDATE", table: "batches", postgres: fmt.Sprintf(later, "NEEDS_REVIEW"), sqlite: fmt.Sprintf(later, "NEEDS_REVIEW"), got: "NEEDS_REVIEW"},
		"after, a terminal": {when: "AFTER UPDATE", table: "batches", postgres: fmt.Sprintf(later, "ERROR_OTHER"), sqlite: fmt.Sprintf(later, "ERROR_OTHER"), got: "ERROR_OTHER"},
		"with its event":    {when: "BEFORE INSERT", table: "endstate_outbox", postgres: fmt.Sprintf(later, "PENDING"), sqlite: fmt.Sprintf(later, "PENDING"), got: "PENDING"},
		"gone":              {when: "AFTER UPDATE", table: "batches", postgres: gone, sqlite: gone, got: ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databases := []string{"pgx", "sql"}
			if m.sqlite != "" {
				databases = append(databases, "sqlite")
			}
			each(t, func(t *testing.T, w *world) {
				key := w.open("bad1")
				w.open("bad2", "good1", "good2", "good3", "good4", "good5", "good6", "good7", "good8", "good9", "good10", "good11")
				undo := w.meddle(m.when, m.table, m.postgres, m.sqlite)
				runs := 0
				counted := func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
					runs++
					return complete("bad1")(ctx, tx)
				}
				rewritten := func(r finalize.Receipt, err error) {
					t.Helper()
					require.ErrorIs(t, err, guard.ErrRewritten)
					require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
					var e *guard.TransitionError
					require.ErrorAs(t, err, &e)
					require.Equal(t, "COMPLETE_STABLE", e.Want)
					require.Equal(t, m.got, e.State)
					require.Zero(t, r)
					w.requireOpen("bad1")
				}
				rewritten(w.do(t.Context(), key, "threshold", counted))
				rewritten(w.settle(t.Context(), key, "threshold", completed()))
				tx, err := w.begin(t.Context(), "")
				require.NoError(t, err)
				rewritten(tx.doTx(t.Context(), key, "threshold", counted))
				require.NoError(t, tx.Commit(t.Context()), "the caller's transaction stays usable")
				w.requireOpen("bad1")
				require.Equal(t, 2, runs)
				require.Zero(t, w.trace.retries())

				var items []finalize.Item
				for _, id := range []string{"bad1", "good1", "good2", "good3", "good4", "good5", "good6", "good7", "good8", "good9", "good10", "good11", "bad2"} {
					items = append(items, finalize.Item{Key: guard.Text(id), Outcome: completed()})
				}
				results, err := w.many(t.Context(), "sweep", items)
				require.ErrorIs(t, err, guard.ErrRewritten)
				for i, item := range items {
					if id := item.Key.String(); strings.HasPrefix(id, "bad") {
						require.ErrorIs(t, results[i].Err, guard.ErrRewritten, id)
						w.requireOpen(id)
					} else {
						require.NoError(t, results[i].Err, id)
						require.True(t, results[i].Receipt.Won, id)
					}
				}

				undo()
				r, err := w.do(t.Context(), key, "sweep", complete("bad1"))
				require.NoError(t, err)
				require.True(t, r.Won)
				w.requireFinal("bad1", "COMPLETE_STABLE", "batch.completed")
			}, on(databases...), guardedBy("status", "all"))
		})
	}
}

// F32: the same for the ledger's own table.
func TestAWinIsWhatTheLedgerSays(t *testing.T) {
	t.Parallel()
	const later = "UPDATE endstate_ledger SET state = 'ERROR_OTHER' WHERE \"key\" LIKE 't:bad%';"
	for name, m := range map[string]struct{ when, postgres, sqlite string }{
		"before": {"BEFORE INSERT", "IF NEW.key LIKE 't:bad%' THEN NEW.state := 'ERROR_OTHER'; END IF;", ""},
		"after":  {"AFTER INSERT", later, later},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databases := []string{"pgx", "sql"}
			if m.sqlite != "" {
				databases = append(databases, "sqlite")
			}
			each(t, func(t *testing.T, w *world) {
				key := w.open("bad1")
				w.open("good1")
				undo := w.meddle(m.when, "endstate_ledger", m.postgres, m.sqlite)
				_, err := w.do(t.Context(), key, "threshold", complete("bad1"))
				require.ErrorIs(t, err, guard.ErrRewritten)
				_, err = w.settle(t.Context(), key, "threshold", completed())
				require.ErrorIs(t, err, guard.ErrRewritten)
				results, err := w.many(t.Context(), "sweep", []finalize.Item{{Key: key, Outcome: completed()}, {Key: guard.Text("good1"), Outcome: completed()}})
				require.ErrorIs(t, err, guard.ErrRewritten)
				require.ErrorIs(t, results[0].Err, guard.ErrRewritten)
				require.True(t, results[1].Receipt.Won)
				w.requireOpen("bad1")
				require.Zero(t, w.trace.retries())
				undo()
				r, err := w.do(t.Context(), key, "sweep", complete("bad1"))
				require.NoError(t, err)
				require.True(t, r.Won)
			}, on(databases...), guardedBy("ledger", "all"))
		})
	}
}

// A table with triggers that change nothing, or with rules, finalizes as any other, on every way.
func TestTablesWithTriggersAndRules(t *testing.T) {
	t.Parallel()
	for name, statement := range map[string]string{
		"an AFTER trigger": `CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NULL; END $$;
			CREATE TRIGGER note AFTER UPDATE ON batches FOR EACH ROW EXECUTE FUNCTION note()`,
		"a statement's trigger": `CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit SELECT id FROM changed; RETURN NULL; END $$;
			CREATE TRIGGER note AFTER UPDATE ON batches REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note()`,
		"a rule":               `CREATE RULE note AS ON UPDATE TO batches DO ALSO INSERT INTO audit VALUES (NEW.id)`,
		"a rule on the outbox": `CREATE RULE note AS ON INSERT TO endstate_outbox DO ALSO INSERT INTO audit VALUES (NEW.aggregate_id)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				w.exec("CREATE TABLE audit (id text)")
				w.exec(statement)
				key := w.open("b1")
				w.open("b2", "b3", "b4", "b5")
				r, err := w.do(t.Context(), key, "threshold", complete("b1"))
				require.NoError(t, err)
				require.True(t, r.Won)
				r, err = w.do(t.Context(), key, "threshold", never(t))
				require.NoError(t, err)
				require.False(t, r.Won)
				r, err = w.settle(t.Context(), guard.Text("b2"), "threshold", completed())
				require.NoError(t, err)
				require.True(t, r.Won)
				r, err = w.settle(t.Context(), guard.Text("b2"), "threshold", completed())
				require.NoError(t, err)
				require.False(t, r.Won)
				tx, err := w.begin(t.Context(), "")
				require.NoError(t, err)
				r, err = tx.doTx(t.Context(), guard.Text("b3"), "threshold", complete("b3"))
				require.NoError(t, err)
				require.True(t, r.Won)
				require.NoError(t, tx.Commit(t.Context()))
				results, err := w.many(t.Context(), "sweep", []finalize.Item{
					{Key: guard.Text("b3"), Outcome: completed()}, {Key: guard.Text("b4"), Outcome: completed()}, {Key: guard.Text("b5"), Outcome: completed()},
				})
				require.NoError(t, err)
				require.False(t, results[0].Receipt.Won)
				require.True(t, results[1].Receipt.Won)
				require.True(t, results[2].Receipt.Won)
				require.Equal(t, []string{"b1", "b2", "b3", "b4", "b5"}, w.text("SELECT id FROM audit ORDER BY id"))
				require.Zero(t, w.trace.retries())
				for _, id := range []string{"b1", "b2", "b3", "b4", "b5"} {
					w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
				}
			}, on("pgx", "sql"), guardedBy("status", "all"))
		})
	}
}

// A trigger that is created while the finalizer is at work is seen once the catalog is looked at again.
func TestATriggerIsSeenLater(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.open("b1", "bad1")
		_, err := w.settle(t.Context(), guard.Text("b1"), "threshold", completed())
		require.NoError(t, err)
		w.meddle("AFTER UPDATE", "batches", "UPDATE batches SET status = 'NEEDS_REVIEW' WHERE id LIKE 'bad%' AND status = 'COMPLETE_STABLE';", "")
		w.lookAgain()
		_, err = w.settle(t.Context(), guard.Text("bad1"), "threshold", completed())
		require.ErrorIs(t, err, guard.ErrRewritten)
		w.requireOpen("bad1")
	}, on("pgx", "sql"), guardedBy("status"))
}

// F32: a foreign key that follows the status updates another table, whose trigger changes the status.
func TestAWinBehindAForeignKeyThatFollows(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("bad1")
		w.open("bad2", "good1")
		w.exec(`ALTER TABLE batches ADD UNIQUE (id, status);
			CREATE TABLE essays (id text, status text, FOREIGN KEY (id, status) REFERENCES batches (id, status) ON UPDATE CASCADE);
			INSERT INTO essays SELECT id, status FROM batches WHERE id LIKE 'bad%'`)
		w.meddle("AFTER UPDATE", "essays", "UPDATE batches SET status = 'NEEDS_REVIEW' WHERE id = NEW.id AND status = 'COMPLETE_STABLE';", "")
		_, err := w.do(t.Context(), key, "threshold", complete("bad1"))
		require.ErrorIs(t, err, guard.ErrRewritten)
		_, err = w.settle(t.Context(), key, "threshold", completed())
		require.ErrorIs(t, err, guard.ErrRewritten)
		results, err := w.many(t.Context(), "sweep", []finalize.Item{{Key: key, Outcome: completed()}, {Key: guard.Text("bad2"), Outcome: completed()}, {Key: guard.Text("good1"), Outcome: completed()}})
		require.ErrorIs(t, err, guard.ErrRewritten)
		require.ErrorIs(t, results[0].Err, guard.ErrRewritten)
		require.ErrorIs(t, results[1].Err, guard.ErrRewritten)
		require.True(t, results[2].Receipt.Won)
		w.requireOpen("bad1")
		w.requireOpen("bad2")
	}, on("pgx", "sql"), guardedBy("status", "all"))
}
