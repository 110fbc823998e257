package outbox_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// topic has an apostrophe, where arguments come through beside one.
var topic = map[bool]string{true: "it's", false: "its"}[dbtest.Apostrophes()]

// theirs is a service's own table as adopted: other names, a type of the payload that isn't bytes, a column that must be set.
var theirs = outbox.Writer{Table: "event_outbox", Columns: &outbox.Columns{
	ID: "event_id", AggregateType: "aggregate_type", AggregateID: "aggregate_id", Type: "event_type", Payload: "event_data", PayloadType: "jsonb",
	Headers: "Headers", OccurredAt: "created_at", OccurredAtType: "timestamp", Set: map[string]string{"topic": topic, "retries": "0"},
}}

func makeTheirs(t testing.TB, db *database) {
	t.Helper()
	db.Exec(t, `CREATE TABLE event_outbox (event_id uuid PRIMARY KEY, aggregate_type varchar(50), aggregate_id varchar(300), event_type text, event_data jsonb NOT NULL,
	"Headers" text, topic text NOT NULL, retries int NOT NULL, created_at timestamp, published_at timestamptz, dedup text)`)
	db.Exec(t, "CREATE UNIQUE INDEX event_outbox_endstate_unique ON event_outbox (aggregate_type, aggregate_id, event_type)")
}

func TestPutIntoAServicesTable(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, nil, func(t *testing.T, db *database) {
		makeTheirs(t, db)
		put := func(w outbox.Writer, events ...outbox.Event) (results []outbox.Result) {
			db.In(t, func(ctx context.Context, tx endstate.Tx) {
				require.NoError(t, w.Check(ctx, tx))
				require.NoError(t, w.Migrate(ctx, tx))
				var err error
				results, err = w.Put(ctx, tx, events...)
				require.NoError(t, err)
			})
			return results
		}
		first := put(theirs, event("completed", "k1"), event("charged", ""))
		require.True(t, first[0].Inserted && first[1].Inserted)
		// An aggregate has one event of a type, whatever the dedup key.
		other := event("completed", "k1")
		other.AggregateType = "invoice"
		again := put(theirs, event("completed", "k2"), other, event("completed", ""), event("charged", "k3"))
		require.Equal(t, first[0].ID, again[0].HeldBy)
		require.True(t, again[1].Inserted)
		require.Equal(t, []uuid.UUID{first[0].ID, first[1].ID}, []uuid.UUID{again[2].HeldBy, again[3].HeldBy})
		require.Equal(t, 3, outboxdbtest.One[int](t, db, `SELECT count(*) FROM event_outbox WHERE event_data = '{"ok":true}' AND "Headers" = '{}' AND topic LIKE 'it%s' AND created_at > now() - interval '1 day'`))

		// With the dedup key mapped and unique, that counts, too.
		db.Exec(t, "DROP INDEX event_outbox_endstate_unique")
		db.Exec(t, "CREATE UNIQUE INDEX ON event_outbox (dedup)")
		columns := *theirs.Columns
		columns.DedupKey = "dedup"
		keyed := outbox.Writer{Table: "event_outbox", Columns: &columns}
		one := put(keyed, event("completed", "k3"), event("completed", ""), event("completed", "k4"))
		two := put(keyed, event("completed", "k3"), event("x", "k4"), event("completed", ""))
		require.Equal(t, []uuid.UUID{one[0].ID, one[2].ID}, []uuid.UUID{two[0].HeldBy, two[1].HeldBy})
		require.True(t, two[2].Inserted)

		db.Exec(t, "DROP INDEX event_outbox_dedup_idx")
		db.In(t, func(ctx context.Context, tx endstate.Tx) {
			require.ErrorIs(t, keyed.Check(ctx, tx), outbox.ErrSchema)
			columns.Payload = "nothing"
			require.ErrorContains(t, keyed.Check(ctx, tx), `no column "nothing"`)
		})
	})
}

// What finalize sends writes into it, too: a winner whose event is held is told.
func TestInsertsIntoAServicesTable(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, nil, func(t *testing.T, db *database) {
		makeTheirs(t, db)
		prepared, err := theirs.Prepare(t.Context(), []outbox.Event{event("completed", "k")})
		require.NoError(t, err)
		table := sqlplan.Outbox{Table: theirs.Table, Columns: (*sqlplan.Columns)(theirs.Columns)}
		insert := func(ctx context.Context, tx endstate.Tx) (err error) {
			for query, args := range table.Inserts(sqltx.Postgres, []sqlplan.Event{sqlplan.Event(prepared[0])}) {
				_, err = tx.Exec(ctx, query, args...)
			}
			return err
		}
		require.NoError(t, db.Try(insert))
		require.True(t, outbox.Taken(db.Try(insert)))
		prepared, err = theirs.Prepare(t.Context(), []outbox.Event{event("completed", "k")})
		require.NoError(t, err)
		require.True(t, outbox.Taken(db.Try(insert)), "by its aggregate and type")
	})
}

func TestColumnsAreChecked(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*outbox.Columns){
		"Columns.ID is empty":  func(c *outbox.Columns) { c.ID = "" },
		`PayloadType is "xml"`: func(c *outbox.Columns) { c.PayloadType = "xml" },
		`names "topic" twice`:  func(c *outbox.Columns) { c.DedupKey = "topic" },
		`contains a NUL byte`:  func(c *outbox.Columns) { c.Type = "a\x00" },
		`Set["topic"] is not`:  func(c *outbox.Columns) { c.Set = map[string]string{"topic": "\xff"} },
	} {
		columns := *theirs.Columns
		change(&columns)
		err := outbox.Writer{Table: "event_outbox", Columns: &columns}.Validate()
		require.ErrorIs(t, err, outbox.ErrConfig, want)
		require.ErrorContains(t, err, want)
	}
	each(t, []string{"sqlite-wal"}, nil, func(t *testing.T, db *database) {
		require.ErrorIs(t, db.Try(func(ctx context.Context, tx endstate.Tx) error {
			_, err := theirs.Put(ctx, tx, event("completed", ""))
			return err
		}), outbox.ErrConfig)
	})
}
