package finalize_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// requireEventRefused checks that every door ends with an error that check accepts, once, and that nothing is written for bad1.
func requireEventRefused(t *testing.T, w *world, check func(error)) {
	t.Helper()
	key := w.open("bad1")
	w.open("good1", "good2", "good3", "good4", "good5", "good6", "good7", "good8", "good9")
	refused := func(r finalize.Receipt, err error) {
		t.Helper()
		require.Error(t, err)
		require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
		require.NotErrorIs(t, err, finalize.ErrEventConflict)
		check(err)
		require.Zero(t, r)
		w.requireOpen("bad1")
	}
	refused(w.do(t.Context(), key, "threshold", complete("bad1")))
	refused(w.settle(t.Context(), key, "threshold", completed()))
	tx, err := w.begin(t.Context(), "")
	require.NoError(t, err)
	refused(tx.doTx(t.Context(), key, "threshold", complete("bad1")))
	require.NoError(t, tx.Commit(t.Context()), "the caller's transaction stays usable")
	w.requireOpen("bad1")
	large := completed()
	for i := range 17 { // which go in pieces
		large.Events = append(large.Events, outbox.Event{Type: fmt.Sprintf("batch.described%d", i), ContentType: "text/plain", Payload: make([]byte, 1<<20)})
	}
	refused(w.settle(t.Context(), key, "threshold", large))
	var items []finalize.Item
	for _, id := range strings.Split("good1 good2 good3 good4 bad1 good5 good6 good7 good8 good9", " ") {
		items = append(items, finalize.Item{Key: guard.Text(id), Outcome: completed()})
	}
	results, err := w.many(t.Context(), "sweep", items)
	require.Error(t, err)
	for i, r := range results {
		if i == 4 {
			refused(r.Receipt, r.Err)
			continue
		}
		require.NoError(t, r.Err)
		require.True(t, r.Receipt.Won)
	}
	require.Zero(t, w.trace.retries())
}

// F32: the outbox's table takes an event for nothing: there is no state without its events.
func TestAnEventThatTheTableDoesNotTake(t *testing.T) {
	t.Parallel()
	const function = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.aggregate_id = 'bad1' THEN RETURN NULL; END IF; RETURN NEW; END $$; "
	for name, m := range map[string]struct{ postgres, sqlite string }{
		"a trigger": {function + "CREATE TRIGGER refuse BEFORE INSERT ON endstate_outbox FOR EACH ROW EXECUTE FUNCTION refuse()",
			"CREATE TRIGGER refuse BEFORE INSERT ON endstate_outbox WHEN NEW.aggregate_id = 'bad1' BEGIN SELECT RAISE(IGNORE); END"},
		"a rule": {"CREATE RULE refuse AS ON INSERT TO endstate_outbox WHERE NEW.aggregate_id = 'bad1' DO INSTEAD NOTHING", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databases := []string{"pgx", "sql"}
			if m.sqlite != "" {
				databases = append(databases, "sqlite")
			}
			each(t, func(t *testing.T, w *world) {
				if w.sqlite() {
					w.exec(m.sqlite)
				} else {
					w.exec(m.postgres)
				}
				requireEventRefused(t, w, func(err error) { require.ErrorIs(t, err, outbox.ErrRefused) })
			}, on(databases...))
		})
	}
}

// A trigger may put events somewhere else, where they are found: partitions that are made by hand.
func TestAnEventThatATriggerPutsIntoAChildTable(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.exec(`CREATE TABLE child () INHERITS (endstate_outbox);
			CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO child SELECT NEW.*; RETURN NULL; END $$;
			CREATE TRIGGER route BEFORE INSERT ON endstate_outbox FOR EACH ROW EXECUTE FUNCTION route()`)
		r, err := w.do(t.Context(), w.open("b1"), "threshold", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
	}, on("pgx", "sql"), guardedBy("status"))
}

// A unique index of the service's own, or one that its trigger meets, is no event conflict: no event is in the way.
func TestAUniqueIndexOfTheServicesIsNoEventConflict(t *testing.T) {
	t.Parallel()
	const seen = "CREATE TABLE seen (n int UNIQUE); INSERT INTO seen VALUES (1); "
	for name, m := range map[string]struct{ postgres, sqlite string }{
		"on the outbox": {"CREATE UNIQUE INDEX own ON endstate_outbox (aggregate_type) WHERE aggregate_id LIKE 'bad%'", "CREATE UNIQUE INDEX own ON endstate_outbox (aggregate_type) WHERE aggregate_id LIKE 'bad%'"},
		"in a trigger": {seen + `CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.aggregate_id = 'bad1' THEN INSERT INTO seen VALUES (1); END IF; RETURN NEW; END $$;
			CREATE TRIGGER note AFTER INSERT ON endstate_outbox FOR EACH ROW EXECUTE FUNCTION note()`,
			seen + "CREATE TRIGGER note AFTER INSERT ON endstate_outbox WHEN NEW.aggregate_id = 'bad1' BEGIN INSERT INTO seen VALUES (1); END"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				w.open("bad0")
				r, err := w.settle(t.Context(), guard.Text("bad0"), "threshold", completed())
				require.NoError(t, err)
				require.True(t, r.Won)
				if w.sqlite() {
					w.exec(m.sqlite)
				} else {
					w.exec(m.postgres)
				}
				requireEventRefused(t, w, func(err error) { require.ErrorContains(t, err, "constraint") })
			})
		})
	}
}
