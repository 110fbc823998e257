package relay_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// What the proof of the protocol rests on is looked at before anything is read.
func TestCheckRefusesWhatTheProofDoesNotHoldFor(t *testing.T) {
	t.Parallel()
	for said, change := range map[string]string{
		"keeps numbers in a cache": "ALTER SEQUENCE endstate_outbox_seq_seq CACHE 20",
		"doesn't go up by 1":       "ALTER SEQUENCE endstate_outbox_seq_seq INCREMENT 2",
		"starts over":              "ALTER SEQUENCE endstate_outbox_seq_seq CYCLE",
		"is UNLOGGED":              "ALTER TABLE endstate_outbox SET UNLOGGED",
		`"endstate_outbox_incarnation" is not UNLOGGED`: "ALTER TABLE endstate_outbox_incarnation SET LOGGED",
		"another default than pg_current_xact_id()":     "ALTER TABLE endstate_outbox ALTER txid SET DEFAULT '1'",
		"part of an inheritance":                        "CREATE TABLE more () INHERITS (endstate_outbox)",
		`may take a number before the row has it: early`: `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER early BEFORE INSERT ON endstate_outbox FOR EACH ROW EXECUTE FUNCTION f();
CREATE TRIGGER late AFTER INSERT ON endstate_outbox FOR EACH ROW EXECUTE FUNCTION f();
CREATE TRIGGER whole BEFORE INSERT ON endstate_outbox FOR EACH STATEMENT EXECUTE FUNCTION f()`,
		"stands behind seq": `ALTER TABLE endstate_outbox DROP COLUMN txid CASCADE;
ALTER TABLE endstate_outbox ADD COLUMN txid xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX endstate_outbox_txid ON endstate_outbox (txid, ((partition::bigint << 56) + seq))`,
		"is the target of a logical replication":                 "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) SELECT 0, 'endstate_outbox'::regclass, 'r'",
		"is not PostgreSQL but speaks its protocol (CockroachDB": `CREATE SCHEMA other; CREATE FUNCTION other.version() RETURNS text LANGUAGE sql AS $$ SELECT 'CockroachDB CCL v25.1' $$`,
	} {
		t.Run(said, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, "pgx")
			db.Migrate(t, outbox.Writer{})
			require.NoError(t, relay.Check(t.Context(), db.Pool, outbox.Writer{}))
			conn, err := db.Pool.Acquire(t.Context())
			require.NoError(t, err)
			defer conn.Release()
			_, err = conn.Exec(t.Context(), "SET allow_system_table_mods = on; SET search_path = public, other, pg_catalog; "+change)
			require.NoError(t, err)
			err = relay.Check(t.Context(), conn, outbox.Writer{})
			require.ErrorIs(t, err, outbox.ErrSchema)
			require.ErrorContains(t, err, said)
		})
	}
}

// The check is some fifty small statements about the catalog, and has half a lease's time. Where an administrator has let compiling them,
// or giving them workers, seem to cost nothing, each would take a good part of a second.
func TestTheCheckIsNotCompiled(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"pgx", "sql"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, name)
			db.Migrate(t, outbox.Writer{})
			db.Exec(t, "CREATE SCHEMA first")
			db.Exec(t, `CREATE FUNCTION first.version() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
				IF current_setting('jit') = 'on' OR current_setting('max_parallel_workers_per_gather') <> '0' THEN RAISE 'this is compiled'; END IF; RETURN pg_catalog.version(); END $$`)
			db.Exec(t, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = first, public, pg_catalog', current_database()); EXECUTE format('ALTER DATABASE %I SET jit = on', current_database()); END $$")
			db = through(t, name, db.URL)
			require.ErrorContains(t, db.admin(t).Check(t.Context()), "this is compiled", "the fault fires")
			db.Put(t, event("1", ""))
			r := new(recorder)
			run(t, db.relay(t, r, quick()))
			eventually(t, "it is published", func() bool { return len(r.published()) == 1 })
		})
	}
}
