package finalize_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// The events of a finalization may go into a table of the service's own.
func TestAnAdoptedOutbox(t *testing.T) {
	t.Parallel()
	cfg := func() *finalize.Config {
		return &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}, Logger: discard(), Outbox: outbox.Writer{Table: "event_outbox", Columns: &outbox.Columns{
			ID: "event_id", AggregateID: "aggregate_id", Type: "event_type", Payload: "event_data", PayloadType: "json", Set: map[string]string{"topic": "batches"}}}}
	}
	t.Run("pgx", func(t *testing.T) {
		t.Parallel()
		url := dbtest.Postgres(t)
		fin, err := finalize.New(dbtest.PoolOn(t, url), cfg())
		require.NoError(t, err)
		testAdopted(t, fin, dbtest.SQLOn(t, url), func(f func() (finalize.Outcome, error)) func(context.Context, pgx.Tx) (finalize.Outcome, error) {
			return func(context.Context, pgx.Tx) (finalize.Outcome, error) { return f() }
		})
	})
	t.Run("sql", func(t *testing.T) {
		t.Parallel()
		db := dbtest.SQL(t)
		fin, err := finalize.NewSQL(db, cfg())
		require.NoError(t, err)
		testAdopted(t, fin, db, func(f func() (finalize.Outcome, error)) func(context.Context, *sql.Tx) (finalize.Outcome, error) {
			return func(context.Context, *sql.Tx) (finalize.Outcome, error) { return f() }
		})
	})
}

func testAdopted[Tx any](t *testing.T, fin *finalize.Finalizer[Tx], db *sql.DB, work func(func() (finalize.Outcome, error)) func(context.Context, Tx) (finalize.Outcome, error)) {
	ctx := t.Context()
	_, err := db.Exec(`CREATE TABLE event_outbox (event_id uuid PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL, event_data json NOT NULL, topic text NOT NULL, published_at timestamptz)`)
	require.NoError(t, err)
	require.NoError(t, fin.Migrate(ctx))
	require.ErrorIs(t, fin.Check(ctx), outbox.ErrSchema, "nothing keeps a second event out")
	_, err = db.Exec("CREATE UNIQUE INDEX ON event_outbox (aggregate_id, event_type)")
	require.NoError(t, err)
	require.NoError(t, fin.Check(ctx))

	outcome := func(types ...string) finalize.Outcome {
		o := finalize.Outcome{State: "COMPLETE"}
		for _, kind := range types {
			o.Events = append(o.Events, outbox.Event{Type: kind, Payload: []byte(`{"b": 1, "a": 2}`)})
		}
		return o
	}
	calls := 0
	for _, won := range []bool{true, false} {
		receipt, err := fin.Do(ctx, guard.Int(1), "loop", work(func() (finalize.Outcome, error) { calls++; return outcome("completed", "charged"), nil }))
		require.NoError(t, err)
		require.Equal(t, won, receipt.Won)
		receipt, err = fin.Settle(ctx, guard.Int(2), "loop", outcome("completed"))
		require.NoError(t, err)
		require.Equal(t, won, receipt.Won)
		receipt, err = fin.Settle(ctx, guard.Int(3), "loop", outcome("a", "b", "c", "d", "e", "f"))
		require.NoError(t, err)
		require.Equal(t, won, receipt.Won)
	}
	require.Equal(t, 1, calls)
	var n int
	require.NoError(t, db.QueryRow(`SELECT count(*) FROM event_outbox WHERE topic = 'batches' AND event_data::text = '{"b": 1, "a": 2}'`).Scan(&n))
	require.Equal(t, 9, n)

	_, err = fin.SettleMany(ctx, "sweep", []finalize.Item{{Key: guard.Int(10), Outcome: outcome("completed")}, {Key: guard.Int(11), Outcome: outcome("completed", "charged")}})
	require.NoError(t, err)
	require.NoError(t, db.QueryRow(`SELECT count(*) FROM event_outbox WHERE aggregate_id IN ('10', '11')`).Scan(&n))
	require.Equal(t, 3, n)
	_, err = fin.SettleMany(ctx, "sweep", []finalize.Item{{Key: guard.Int(12), Outcome: outcome("completed")}, {Key: guard.Int(13), Outcome: outcome("completed")}})
	require.NoError(t, err)
	require.NoError(t, db.QueryRow(`SELECT count(*) FROM event_outbox WHERE aggregate_id IN ('12', '13') AND topic = 'batches' AND event_data::text = '{"b": 1, "a": 2}'`).Scan(&n))
	require.Equal(t, 2, n, "with one event each")

	// An event that is there without its state, as one that older code wrote: the winner must not commit without its own.
	_, err = db.Exec("INSERT INTO event_outbox VALUES ('00000000-0000-0000-0000-000000000001', '4', 'completed', '{}', 'batches')")
	require.NoError(t, err)
	for i, call := range []func() (finalize.Receipt, error){
		func() (finalize.Receipt, error) { return fin.Settle(ctx, guard.Int(4), "loop", outcome("completed")) },
		func() (finalize.Receipt, error) {
			return fin.Do(ctx, guard.Int(4), "loop", work(func() (finalize.Outcome, error) { return outcome("completed"), nil }))
		},
	} {
		_, err := call()
		require.ErrorIs(t, err, finalize.ErrEventConflict, fmt.Sprint(i))
		require.ErrorContains(t, err, "00000000-0000-0000-0000-000000000001")
	}
}
