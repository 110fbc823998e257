package soak

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// schema is the service's tables. A trigger records every change of a status.
const schema = `
CREATE TABLE batches (id bigint PRIMARY KEY, status text NOT NULL);
CREATE TABLE writes (key bigint, state text);
CREATE TABLE transitions (id bigint, old text, new text);
CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO transitions VALUES (new.id, old.status, new.status); RETURN NULL; END $$;
CREATE TRIGGER record AFTER UPDATE OF status ON batches FOR EACH ROW EXECUTE FUNCTION record();
CREATE TABLE steps (id int PRIMARY KEY, n int NOT NULL);
CREATE TABLE effects (at bigint GENERATED ALWAYS AS IDENTITY, consumer text NOT NULL, event uuid NOT NULL);
CREATE TABLE ballast (text text)`

// clock stands before the server's clock in the search path.
const clock = `
CREATE SCHEMA moved;
CREATE TABLE moved.clock (by interval NOT NULL);
INSERT INTO moved.clock VALUES ('0');
CREATE FUNCTION moved.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT pg_catalog.clock_timestamp() + by FROM moved.clock'`

// openKeys makes the database as it is before a round: all keys that the window may come to are open.
func openKeys(t *testing.T, db *pgxpool.Pool, keys int) {
	t.Helper()
	_, err := db.Exec(t.Context(), "TRUNCATE batches, writes, transitions, steps, effects, ballast, endstate_ledger, endstate_outbox, endstate_inbox")
	require.NoError(t, err)
	require.NoError(t, openMore(t.Context(), db, keys))
	_, err = db.Exec(t.Context(), "INSERT INTO steps SELECT n, 0 FROM generate_series(0, $1::int - 1) n", steps)
	require.NoError(t, err)
}

// openMore opens those of the keys that aren't there yet.
func openMore(ctx context.Context, db *pgxpool.Pool, keys int) error {
	last := keys + 10*windowSize
	_, err := db.Exec(ctx, "INSERT INTO batches SELECT n, 'PENDING' FROM generate_series($1::int, $2::int) n ON CONFLICT DO NOTHING", -1-last/hot, last)
	return err
}

// readRows adds to the history what the rows say in the end: a reader who comes after everybody.
func readRows(t *testing.T, db *pgxpool.Pool, h *history) {
	t.Helper()
	rows, err := db.Query(t.Context(), `SELECT id, coalesce(l.state, nullif(status, 'PENDING'), '')
		FROM batches LEFT JOIN endstate_ledger l ON "key" = 'i:' || id`)
	require.NoError(t, err)
	read, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		ID    int64
		State string
	}])
	require.NoError(t, err)
	for _, row := range read {
		r := record{Call: fmt.Sprintf("rows.%d", row.ID), Key: row.ID, At: now(), Result: lost, State: row.State}
		if row.State == "" {
			r.Result = open
		}
		h.operations = append(h.operations, operation{record: r, Begin: r.At, End: r.At})
	}
}

// requireInvariants checks I1 and I2 on the rows, and returns how many keys are final.
func requireInvariants(t *testing.T, r *round) (finalized int) {
	t.Helper()
	var final, events strings.Builder // selects of (aggregate, key, state), and of (aggregate, type)
	for i, g := range groups() {
		source := fmt.Sprintf("SELECT '%s' AS aggregate, id, status AS state FROM batches WHERE status LIKE 'COMPLETE%%' AND abs(id) %% %d = %d", g.name, len(groups()), i)
		if g.name == "ledger" {
			source = "SELECT aggregate, substr(\"key\", 3)::bigint AS id, state FROM endstate_ledger WHERE aggregate = 'ledger'"
		}
		if i > 0 {
			final.WriteString(" UNION ALL ")
		}
		final.WriteString(source)
		for _, event := range g.events {
			if events.Len() > 0 {
				events.WriteString(", ")
			}
			fmt.Fprintf(&events, "('%s', '%s')", g.name, event)
		}
	}
	with := "WITH final AS (" + final.String() + "), expected AS (SELECT f.*, type FROM final f JOIN (VALUES " + events.String() + ") AS e (aggregate, type) USING (aggregate)), " +
		"written AS (SELECT aggregate_type AS aggregate, aggregate_id::bigint AS id, convert_from(payload, 'UTF8') AS state, type FROM endstate_outbox WHERE type <> '" + stepType + "') "
	for what, query := range map[string]string{
		"I1: more than one terminal transition":           "SELECT id::text FROM transitions WHERE new LIKE 'COMPLETE%' GROUP BY id HAVING count(*) > 1",
		"I1: left a terminal state":                       "SELECT id::text FROM transitions WHERE old LIKE 'COMPLETE%'",
		"I2: a state without its events, or other events": with + "SELECT aggregate || ' ' || id FROM (SELECT * FROM expected EXCEPT ALL SELECT aggregate, id, state, type FROM written) AS lacking",
		"I2: events without their state, or twice":        with + "SELECT aggregate || ' ' || id FROM (SELECT aggregate, id, state, type FROM written EXCEPT ALL SELECT * FROM expected) AS excess",
		"a status without its entry in the ledger":        with + "SELECT id::text FROM (SELECT id, state FROM final WHERE aggregate = 'all' EXCEPT SELECT substr(\"key\", 3)::bigint, state FROM endstate_ledger WHERE aggregate = 'all') AS lacking",
		"an entry in the ledger without its status":       with + "SELECT id::text FROM (SELECT substr(\"key\", 3)::bigint AS id, state FROM endstate_ledger WHERE aggregate = 'all' EXCEPT SELECT id, state FROM final WHERE aggregate = 'all') AS excess",
		"a callback's write without its outcome":          with + "SELECT key::text FROM (SELECT key, state FROM writes EXCEPT ALL SELECT id, state FROM final) AS excess",
	} {
		r.requireNone(t, what, query)
	}
	require.NoError(t, r.servers.direct.QueryRow(t.Context(), with+"SELECT count(*) FROM final").Scan(&finalized))
	return finalized
}
