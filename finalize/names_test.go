package finalize_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/outbox"
)

// plainNames are names that a statement of ours might give its own relations and columns, if these didn't all begin with
// endstate_.
var plainNames = []string{"events", "settled", "claimed", "settle0", "settle1", "settle0_lock", "hold0", "one", "p0", "p1", "t", "r", "e", "i", "n",
	"calls", "call_key", "call_part0", "held", "entry", "mapped", "batch", "filled", "done", "at", "key", "state", "usable", "parts", "place", "owner", "row"}

// A service's table may be called anything, and so may its columns, also when tables of all these names are there.
func TestTablesOfAnyNameCanBeGuarded(t *testing.T) {
	t.Parallel()
	roles := map[string]struct {
		create string // with the name as %[1]s
		config func(name string) *finalize.Config
	}{
		"status": {`CREATE TABLE %[1]q (%[1]q bigint PRIMARY KEY, status text, touched timestamptz)`, func(name string) *finalize.Config {
			return &finalize.Config{Guard: guard.All(guard.Status{Table: name, Key: name, Column: "status", Touched: "touched", Terminal: guard.Names("DONE")}, guard.Ledger{})}
		}},
		"ledger": {"", func(name string) *finalize.Config { return &finalize.Config{Guard: guard.Ledger{Table: name}} }},
		"outbox": {"", func(name string) *finalize.Config {
			return &finalize.Config{Guard: guard.Ledger{}, Outbox: outbox.Writer{Table: name}}
		}},
		"columns": {`CREATE TABLE %[1]q (%[1]q uuid PRIMARY KEY, aggregate text, kind text, payload bytea, UNIQUE (aggregate, kind))`, func(name string) *finalize.Config {
			return &finalize.Config{Guard: guard.Ledger{}, Outbox: outbox.Writer{Table: name,
				Columns: &outbox.Columns{ID: name, AggregateID: "aggregate", Type: "kind", Payload: "payload"}}}
		}},
	}
	for role, r := range roles {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			pool, db := dbtest.PoolOn(t, url, func(c *pgxpool.Config) { c.MaxConns = 2 }), dbtest.SQLOn(t, url)
			for _, name := range plainNames {
				if r.create != "" {
					_, err := db.ExecContext(t.Context(), fmt.Sprintf(r.create, name))
					require.NoError(t, err)
				}
			}
			for _, name := range plainNames {
				cfg := r.config(name)
				cfg.Aggregate, cfg.Logger = "batch "+name, discard()
				if role == "status" {
					_, err := db.ExecContext(t.Context(), fmt.Sprintf(`INSERT INTO %q SELECT n, NULL, CASE WHEN n NOT IN (6, 12) THEN now() END FROM generate_series(1, 12) AS n`, name))
					require.NoError(t, err)
				}
				fin, err := finalize.New(pool, cfg)
				require.NoError(t, err)
				require.NoError(t, fin.Migrate(t.Context()), name)
				require.NoError(t, fin.Check(t.Context()), name)
				requireAllDoors(t, name, fin, 1, func(context.Context, pgx.Tx) error { return nil })
				finSQL, err := finalize.NewSQL(db, cfg)
				require.NoError(t, err)
				requireAllDoors(t, name, finSQL, 7, func(context.Context, *sql.Tx) error { return nil })
			}
		})
	}
}

// requireAllDoors finalizes the aggregates from first on in every way there is.
func requireAllDoors[Tx any](t *testing.T, name string, fin *finalize.Finalizer[Tx], first int64, work func(context.Context, Tx) error) {
	t.Helper()
	outcome := func(events int) finalize.Outcome {
		out := finalize.Outcome{State: "DONE"}
		for i := range events {
			out.Events = append(out.Events, outbox.Event{Type: fmt.Sprint("kind ", i), Payload: []byte(`{}`)})
		}
		return out
	}
	won := func(r finalize.Receipt, err error) {
		t.Helper()
		require.NoError(t, err, name)
		require.True(t, r.Won, name)
		require.Equal(t, "DONE", r.State, name)
	}
	ctx := t.Context()
	won(fin.Settle(ctx, guard.Int(first), "test", outcome(1)))
	won(fin.Settle(ctx, guard.Int(first+1), "test", outcome(sqlplan.FewEvents+1)))
	do := func(ctx context.Context, tx Tx) (finalize.Outcome, error) { return outcome(2), work(ctx, tx) }
	won(fin.Do(ctx, guard.Int(first+2), "test", do))
	results, err := fin.SettleMany(ctx, "test", []finalize.Item{
		{Key: guard.Int(first), Outcome: outcome(1)}, {Key: guard.Int(first + 3), Outcome: outcome(1)}, {Key: guard.Int(first + 4), Outcome: outcome(0)}})
	require.NoError(t, err, name)
	require.False(t, results[0].Receipt.Won, name)
	won(results[1].Receipt, nil)
	won(results[2].Receipt, nil)
	require.NoError(t, fin.Forget(t.Context(), guard.Int(first)))
	r, err := fin.Do(ctx, guard.Int(first), "test", do)
	require.NoError(t, err, name)
	require.False(t, r.Won, name)
	if sweeper, err := finalize.NewSweeper(fin, func(ctx context.Context, tx Tx, _ guard.Key) (finalize.Outcome, error) { return do(ctx, tx) }, &finalize.SweeperConfig{Idle: time.Hour}); err == nil {
		swept := sweeper.Sweep(ctx)
		require.NoError(t, swept.Err, name)
		require.Zero(t, swept.Failed, name)
	}
}
