package finalize_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// F2: the connection is cut while the server works on a bulk, and hasn't come to one of its aggregates when that is looked at.
// Whichever of the bulk and the call's next attempt moves it, it is the call's own.
func TestABulkThatGoesOnAfterItsConnectionWasCut(t *testing.T) {
	for _, g := range []string{"status", "all"} {
		t.Run(g, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			proxy := pgfault.New(t, url)
			w := newWorld(t, "pgx", g, url)
			w.open("b1", "b2")
			w.exec("CREATE TABLE gate (opened boolean NOT NULL)")
			w.exec("INSERT INTO gate VALUES (false)")
			w.exec(`CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				WHILE new.id = 'b1' AND NOT (SELECT opened FROM gate) LOOP PERFORM pg_sleep(0.005); END LOOP;
				RETURN new;
			END $$`)
			w.exec("CREATE TRIGGER gate BEFORE UPDATE ON batches FOR EACH ROW EXECUTE FUNCTION gate()")
			w.exec("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
			w.exec("CREATE TRIGGER nothing AFTER UPDATE ON batches FOR EACH ROW EXECUTE FUNCTION nothing()") // so that calls claim first
			open := sync.OnceFunc(func() { w.exec("UPDATE gate SET opened = true") })
			t.Cleanup(open)
			second := func(c finalize.Call) bool { return c.Ref.Key == guard.Text("b2") }
			proxied := connect(t, "pgx", g, proxy.URL(), w.schema, configured(func(c *finalize.Config) {
				c.Trace.Retry = func(_ context.Context, call finalize.Call, _ error, _ time.Duration) {
					if second(call) {
						open()
						w.eventually("SELECT count(*) = 1 FROM batches WHERE id = 'b2' AND status LIKE 'COMPLETE%'")
					}
				}
				c.Trace.Won = func(_ context.Context, call finalize.Call, _ finalize.Receipt) {
					if second(call) {
						open()
					}
				}
			}))
			fault := proxy.Arm(&pgfault.Fault{SQL: "WITH endstate_patience", Do: pgfault.CutWhileWorking})
			results, err := proxied.many(t.Context(), "sweep", items([]string{"b1", "b2"}, completed()))
			fault.RequireFired(t)
			require.NoError(t, err)
			for i, id := range []string{"b1", "b2"} {
				require.True(t, results[i].Receipt.Won, "%s: %+v", id, results[i])
				w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
			}
		})
	}
}
