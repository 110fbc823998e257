package outbox_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
)

// Where every Put must fail, or would write another time than the event's, Check says so and names the column.
func TestCheckSaysWhyNoEventCanBePut(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, nil, func(t *testing.T, db *database) {
		db.Exec(t, "CREATE TYPE kind AS ENUM ('completed')")
		for i, tt := range []struct {
			says    string // "" where events can be put
			columns map[string]string
			more    string
			change  func(*outbox.Columns)
		}{
			{says: ""},
			{says: `column "id" is of type bigint`, columns: map[string]string{"id": "bigint"}},
			{says: `column "id" is of type bigint`, columns: map[string]string{"id": "bigserial"}},
			{says: `column "id", which is Columns.ID, is character varying(32)`, columns: map[string]string{"id": "varchar(32)"}},
			{says: `column "id" is of type bigint`, columns: map[string]string{"id": "bigint GENERATED ALWAYS AS IDENTITY"}},
			{says: "", columns: map[string]string{"id": "varchar(36)"}},
			{says: "", columns: map[string]string{"id": "char(36)"}},
			{says: `column "aggregate" is of type bigint`, columns: map[string]string{"aggregate": "bigint"}},
			{says: `column "aggregate" is of type uuid`, columns: map[string]string{"aggregate": "uuid"}},
			{says: "", columns: map[string]string{"aggregate": "varchar(255)"}},
			{says: `column "type" is of type kind`, columns: map[string]string{"type": "kind"}},
			{says: `column "payload" is of type jsonb`, columns: map[string]string{"payload": "jsonb"}},
			{says: "", columns: map[string]string{"payload": "jsonb"}, change: func(c *outbox.Columns) { c.PayloadType = "json" }},
			{says: "", columns: map[string]string{"payload": "text"}, change: func(c *outbox.Columns) { c.PayloadType = "json" }},
			{says: `column "payload" is of type json`, columns: map[string]string{"payload": "json"}, change: func(c *outbox.Columns) { c.PayloadType = "text" }},
			{says: `column "at", which is Columns.OccurredAt, has no time zone`, columns: map[string]string{"at": "timestamp"}},
			{says: "", columns: map[string]string{"at": "timestamp"}, change: func(c *outbox.Columns) { c.OccurredAtType = "timestamp" }},
			{says: `column "at", which is Columns.OccurredAt, is timestamp with time zone, and Columns.OccurredAtType says timestamp`, change: func(c *outbox.Columns) { c.OccurredAtType = "timestamp" }},
			{says: `column "at", which is Columns.OccurredAt, is date`, columns: map[string]string{"at": "date"}},
			{says: `cannot insert a non-DEFAULT value into column "topic"`, columns: map[string]string{"topic": "text GENERATED ALWAYS AS ('x') STORED"}},
			{says: `invalid input syntax for type integer`, columns: map[string]string{"topic": "int"}},
			{says: `value too long`, columns: map[string]string{"topic": "varchar(2)"}},
			{says: `has "tenant", which may not be NULL and has no default`, more: ", tenant text NOT NULL"},
			{says: "", more: ", tenant text NOT NULL DEFAULT 'x', n bigserial, g int GENERATED ALWAYS AS IDENTITY, c int GENERATED ALWAYS AS (1) STORED NOT NULL"},
			{says: `has the DEFERRABLE constraint`, more: ", UNIQUE (id, topic) DEFERRABLE"},
		} {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				table := fmt.Sprint("theirs", i)
				column := func(name, kind string) string {
					if other, ok := tt.columns[name]; ok {
						kind = other
					}
					return name + " " + kind
				}
				db.Exec(t, fmt.Sprintf("CREATE TABLE %s (%s PRIMARY KEY, %s, %s, %s, %s, %s%s)", table, column("id", "uuid"), column("aggregate", "text"),
					column("type", "text"), column("payload", "bytea"), column("at", "timestamptz"), column("topic", "text"), tt.more))
				db.Exec(t, fmt.Sprintf("CREATE UNIQUE INDEX ON %s (aggregate, type)", table))
				w := outbox.Writer{Table: table, Columns: &outbox.Columns{ID: "id", AggregateID: "aggregate", Type: "type", Payload: "payload", OccurredAt: "at",
					Set: map[string]string{"topic": "orders"}}}
				if tt.change != nil {
					tt.change(w.Columns)
				}
				require.NoError(t, w.Validate())
				requireCheckAndPutAgree(t, db, w, tt.says)
			})
		}
	})
}

func requireCheckAndPutAgree(t *testing.T, db *database, w outbox.Writer, says string) {
	t.Helper()
	check := db.Try(func(ctx context.Context, tx endstate.Tx) error { return w.Check(ctx, tx) })
	put := db.Try(func(ctx context.Context, tx endstate.Tx) error {
		_, err := w.Put(ctx, tx, event("completed", ""))
		return err
	})
	if says == "" {
		require.NoError(t, check)
		require.NoError(t, put)
		return
	}
	require.ErrorIs(t, check, outbox.ErrSchema)
	require.ErrorContains(t, check, says)
	require.ErrorContains(t, check, "this table is the service's own")
	if !strings.Contains(says, "Columns.OccurredAt") { // there the time would be another one
		require.Error(t, put)
	}
}

// Rules and DEFERRABLE constraints don't go with ON CONFLICT, whatever it conflicts with; a trigger may fill in what is required.
func TestCheckLooksBesideTheColumns(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	w := outbox.Writer{Table: "events", Columns: &outbox.Columns{ID: "id", AggregateID: "aggregate", Type: "type", Payload: "payload"}}
	make := func(extra string) {
		db.Exec(t, "DROP TABLE IF EXISTS events")
		db.Exec(t, "CREATE TABLE events (id uuid PRIMARY KEY, aggregate text, type text, payload bytea, tenant text NOT NULL, UNIQUE (aggregate, type))")
		db.Exec(t, extra)
	}
	make("CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.tenant = 'x'; RETURN new; END $$")
	db.Exec(t, "CREATE TRIGGER fill BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION fill()")
	requireCheckAndPutAgree(t, db, w, "")
	make("CREATE RULE copied AS ON INSERT TO events DO ALSO NOTHING")
	requireCheckAndPutAgree(t, db, w, `has the rule "copied"`)
	lite := newDatabase(t, "sqlite-wal")
	require.ErrorIs(t, lite.Try(func(ctx context.Context, tx endstate.Tx) error { return w.Check(ctx, tx) }), outbox.ErrConfig)
}

// A column without a time zone gets UTC, whatever the session's zone.
func TestOccurredAtWithoutATimeZoneIsUTC(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, nil, func(t *testing.T, db *database) {
		makeTheirs(t, db)
		e := event("completed", "")
		e.OccurredAt = time.Date(2026, 1, 31, 12, 0, 0, 0, time.FixedZone("", 3600))
		db.In(t, func(ctx context.Context, tx endstate.Tx) {
			_, err := tx.Exec(ctx, "SET LOCAL timezone TO 'Asia/Tokyo'")
			require.NoError(t, err)
			require.NoError(t, theirs.Check(ctx, tx))
			_, err = theirs.Put(ctx, tx, e)
			require.NoError(t, err)
		})
		require.Equal(t, "2026-01-31 11:00:00", outboxdbtest.One[string](t, db, "SELECT created_at::text FROM event_outbox"))
	})
}
