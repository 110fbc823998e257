package finalize_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// counting is the library's guard with a method of a service's own.
type counting struct {
	guard.Status
	settled *atomic.Int32
}

func (c counting) Settle(ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
	c.settled.Add(1)
	return c.Status.Settle(ctx, tx, ref, to)
}

// What a guard overrides of one that it embeds isn't passed over by the statement that the embedded one would be joined into.
func TestEmbeddedGuardIsAskedByItsOwnMethods(t *testing.T) {
	t.Parallel()
	for name, kept := range map[string]func(guard.Guard) guard.Guard{
		"alone":         func(g guard.Guard) guard.Guard { return g },
		"with a ledger": func(g guard.Guard) guard.Guard { return guard.All(g, guard.Ledger{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.Pool(t)
			_, err := pool.Exec(t.Context(), "CREATE TABLE batches (id text PRIMARY KEY, status text); INSERT INTO batches VALUES ('a'), ('b'), ('c')")
			require.NoError(t, err)
			own := counting{guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Names("DONE")}, new(atomic.Int32)}
			fin, err := finalize.New(pool, &finalize.Config{Aggregate: "batch", Guard: kept(own)})
			require.NoError(t, err)
			require.NoError(t, fin.Migrate(t.Context()))
			done := finalize.Outcome{State: "DONE"}
			r, err := fin.Settle(t.Context(), guard.Text("a"), "test", done)
			require.NoError(t, err)
			require.True(t, r.Won)
			r, err = fin.Do(t.Context(), guard.Text("b"), "test", func(context.Context, pgx.Tx) (finalize.Outcome, error) { return done, nil })
			require.NoError(t, err)
			require.True(t, r.Won)
			require.EqualValues(t, 2, own.settled.Load())
		})
	}
}
