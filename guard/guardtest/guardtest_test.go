package guardtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/guard/guardtest"
	"github.com/endstate-go/endstate/internal/dbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// defect is a promise that a guard breaks, and the test that must notice.
type defect struct {
	name, database, caughtBy string
	claim                    func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error)
	settle                   func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error)
}

const (
	update = "UPDATE batches SET status = $1 WHERE id = $2"
	lock   = "SELECT FROM batches WHERE id = $1 FOR UPDATE"
)

var defects = []defect{
	{name: "looks without a lock", caughtBy: "a second claim waits and sees the commit",
		claim: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
			return g.Read(ctx, tx, ref)
		}},
	{name: "returns what it saw before it waited", database: "postgres", caughtBy: "a second claim waits and sees the commit",
		claim: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
			rec, err := g.Read(ctx, tx, ref)
			if err == nil && !rec.Final {
				_, err = tx.Exec(ctx, lock, ref.Key.Args()...)
			}
			return rec, err
		}},
	{name: "settles without looking", caughtBy: "settle compares and sets",
		settle: func(_ guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
			_, err := tx.Exec(ctx, update, to.State, ref.Key.String())
			return guard.Record{Final: true, State: to.State}, err
		}},
	{name: "looks before it settles, and settles anyway", database: "postgres", caughtBy: "a settle that waited is refused",
		settle: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
			rec, err := g.Read(ctx, tx, ref)
			if err != nil || rec.Final {
				return rec, errors.Join(err, guard.ErrNotOpen)
			}
			_, err = tx.Exec(ctx, update, to.State, ref.Key.String())
			return guard.Record{Final: true, State: to.State}, err
		}},
	{name: "locks what is final", database: "postgres", caughtBy: "a claim of a final aggregate writes and locks nothing",
		claim: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
			if _, err := tx.Exec(ctx, lock, ref.Key.Args()...); err != nil {
				return guard.Record{}, err
			}
			return g.Claim(ctx, tx, ref)
		}},
	{name: "asks for a transaction id", database: "postgres", caughtBy: "a claim of a final aggregate writes and locks nothing",
		claim: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
			if _, err := tx.Exec(ctx, "SELECT pg_current_xact_id()"); err != nil {
				return guard.Record{}, err
			}
			return g.Claim(ctx, tx, ref)
		}},
	{name: "keeps an advisory lock", database: "postgres", caughtBy: "a settle that comes too late writes nothing",
		settle: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock_shared(1)"); err != nil {
				return guard.Record{}, err
			}
			return g.Settle(ctx, tx, ref, to)
		}},
	{name: "writes what is final", caughtBy: "a claim of a final aggregate writes and locks nothing",
		claim: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
			if _, err := tx.Exec(ctx, "UPDATE batches SET status = status WHERE id = $1", ref.Key.Args()...); err != nil {
				return guard.Record{}, err
			}
			return g.Claim(ctx, tx, ref)
		}},
	{name: "takes a missing row for open", caughtBy: "an absent aggregate is never won",
		claim: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
			rec, err := g.Claim(ctx, tx, ref)
			if errors.Is(err, guard.ErrNotFound) {
				err = nil
			}
			return rec, err
		}},
	{name: "takes any state", caughtBy: "settle refuses a state that is not terminal",
		settle: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
			g.Terminal = guard.Func(func(state string) bool { return state != "OPEN" })
			return g.Settle(ctx, tx, ref, to)
		}},
	{name: "says that it settled", caughtBy: "settle moves it and says who did",
		settle: func(_ guard.Status, _ context.Context, _ endstate.Tx, _ guard.Ref, to guard.Transition) (guard.Record, error) {
			return guard.Record{Final: true, State: to.State}, nil
		}},
	{name: "settles by claiming", caughtBy: "a claim without settle leaves it open",
		claim: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
			rec, err := g.Claim(ctx, tx, ref)
			if err == nil && !rec.Final {
				_, err = tx.Exec(ctx, update, "COMPLETE_STABLE", ref.Key.String())
			}
			return rec, err
		}},
	{name: "says open of what is final", caughtBy: "exactly one racer settles",
		claim: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
			rec, err := g.Claim(ctx, tx, ref)
			return guard.Record{State: rec.State}, err
		}},
	{name: "invents who did it", caughtBy: "settle moves it and says who did",
		settle: func(g guard.Status, ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
			rec, err := g.Settle(ctx, tx, ref, to)
			rec.Provenance = &guard.Provenance{Trigger: "somebody"}
			return rec, err
		}},
}

// defective is a guard over the table batches that breaks one promise.
type defective struct {
	guard.Status
	defect
}

func (d defective) Claim(ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
	if d.claim != nil {
		return d.claim(d.Status, ctx, tx, ref)
	}
	return d.Status.Claim(ctx, tx, ref)
}

func (d defective) Settle(ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
	if d.settle != nil {
		return d.settle(d.Status, ctx, tx, ref, to)
	}
	return d.Status.Settle(ctx, tx, ref, to)
}

// harness is that of a guard over a new table batches.
func harness(t *testing.T, database string, g guard.Guard) guardtest.Harness {
	t.Helper()
	h := guardtest.Harness{
		Guard:  g,
		Absent: func(testing.TB) guard.Ref { return guard.Ref{Aggregate: "batch", Key: guard.Text("none")} },
		States: [2]string{"COMPLETE_STABLE", "ERROR_PROCESSING"},
	}
	if database == "sqlite" {
		h.Begin = guardtest.SQL(dbtest.SQLiteOn(t, dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), "wal")), endstate.SQLiteTx)
	} else {
		h.Begin = guardtest.Pgx(dbtest.Pool(t))
	}
	exec := func(t testing.TB, query string, args ...any) {
		ctx := context.Background()
		tx, err := h.Begin(ctx)
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(ctx) }()
		_, err = tx.Exec(ctx, query, args...)
		require.NoError(t, err)
		require.NoError(t, tx.Commit(ctx))
	}
	exec(t, "CREATE TABLE batches (id text PRIMARY KEY, status text)")
	var n atomic.Int64
	h.Open = func(t testing.TB) guard.Ref {
		key := guard.Text(fmt.Sprint(n.Add(1)))
		exec(t, "INSERT INTO batches VALUES ($1, 'OPEN')", key.Args()...)
		return guard.Ref{Aggregate: "batch", Key: key}
	}
	return h
}

var status = guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")}

// runDefective asks this test program to test the defective guards, instead of what it otherwise does.
const runDefective = "GUARDTEST_RUN_DEFECTIVE"

func TestSuiteNoticesEachBrokenPromise(t *testing.T) {
	for _, database := range []string{"postgres", "sqlite"} {
		t.Run(database, func(t *testing.T) {
			if os.Getenv(runDefective) == "1" {
				for _, d := range defects {
					if d.database == "" || d.database == database {
						t.Run(d.name, func(t *testing.T) { guardtest.Run(t, harness(t, database, defective{status, d})) })
					}
				}
				return
			}
			if database == "postgres" {
				dbtest.Postgres(t) // is there one?
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$/")
			cmd.Env = append(os.Environ(), runDefective+"=1")
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "%s", out)
			for _, d := range defects {
				if d.database == "" || d.database == database {
					failed := fmt.Sprintf("--- FAIL: %s/%s/%s ", t.Name(), strings.ReplaceAll(d.name, " ", "_"), strings.ReplaceAll(d.caughtBy, " ", "_"))
					require.Contains(t, string(out), failed, "a guard that %s passed", d.name)
				}
			}
		})
	}
}

func TestSuitePassesASoundGuard(t *testing.T) {
	for _, database := range []string{"postgres", "sqlite"} {
		t.Run(database, func(t *testing.T) { guardtest.Run(t, harness(t, database, status)) })
	}
}
