package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// Check says what the database lacks for a relay: a table, a column or its type, an index, a privilege of the current role, or
// a schema version that fits the library's; and what of it would lose events (see the package's documentation), such as a
// sequence that caches numbers. outbox.Writer.Check is for those who only put events.
func Check(ctx context.Context, q endstate.Querier, w outbox.Writer) error {
	if w.Columns != nil {
		return fmt.Errorf("%w: Writer.Columns is set: the table is the service's own, and so is what publishes from it", outbox.ErrConfig)
	}
	all := migrate.All
	needs := []migrate.Need{
		{Table: w.Name(), Select: all, Delete: true, Sequence: "seq"},
		{Table: w.Name() + "_subscriptions", Select: all, Insert: all, Update: all},
		{Table: w.Name() + "_cursors", Select: all, Insert: all, Update: all},
		{Table: w.Name() + "_parked", Select: all, Insert: all, Update: all, Delete: true},
		{Table: w.Name() + "_relays", Select: all, Insert: all, Update: all, Delete: true},
		{Table: w.Name() + "_samples", Select: all, Insert: all, Delete: true},
	}
	if sqltx.Of(q) == sqltx.Postgres {
		needs = append(needs, migrate.Need{Table: w.Name() + "_incarnation", Select: all, Insert: all, Update: all})
	}
	return checkNeeds(ctx, q, w, needs)
}

// Check says what the database lacks for an Admin that looks: as for a relay, but of privileges those to read. What an Admin does
// needs more, which docs/privileges.md lists, and which the server says if it is missing. The error wraps outbox.ErrSchema.
func (a *Admin) Check(ctx context.Context) error {
	w := a.store.cfg.Outbox
	needs := []migrate.Need{{Table: w.Name(), Select: migrate.All}}
	for _, table := range []string{"_subscriptions", "_cursors", "_parked", "_relays", "_samples", "_audit"} {
		needs = append(needs, migrate.Need{Table: w.Name() + table, Select: migrate.All})
	}
	return checkNeeds(ctx, a.store, w, needs)
}

func checkNeeds(ctx context.Context, q endstate.Querier, w outbox.Writer, needs []migrate.Need) error {
	files, err := w.Migrations(string(sqltx.Of(q)))
	if err == nil {
		err = migrate.Check(ctx, q, w.Schema, w.Name(), files, needs...)
	}
	if err == nil && sqltx.Of(q) == sqltx.Postgres {
		err = checkGround(ctx, q, w)
	}
	return sqltx.Lacking(outbox.ErrSchema, err)
}

// checkGround says what of the database breaks the proof that a cursor passes over no event: see the package's documentation.
// Each of these lost events in an experiment, or can't be told from one that does.
func checkGround(ctx context.Context, q endstate.Querier, w outbox.Writer) error {
	t := tablesOf(w)
	var version string
	if err := q.QueryRow(ctx, "SELECT version()").Scan(&version); err != nil {
		return err
	}
	for _, other := range []string{"CockroachDB", "YugabyteDB", "-YB-"} {
		if strings.Contains(version, other) {
			return fmt.Errorf("the server is not PostgreSQL but speaks its protocol (%s); a relay goes by PostgreSQL's transaction ids and snapshots", other)
		}
	}
	var table struct {
		ordered, defaulted, identity, logged, plain, subscribed, incarnation bool
		triggers                                                             string
	}
	err := q.QueryRow(ctx, `SELECT
	(SELECT attnum FROM pg_attribute WHERE attrelid = c.oid AND attname = 'txid') < (SELECT attnum FROM pg_attribute WHERE attrelid = c.oid AND attname = 'seq'),
	coalesce((SELECT replace(pg_get_expr(d.adbin, d.adrelid), '"', '') = 'pg_current_xact_id()' FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.adrelid = c.oid AND a.attname = 'txid'), false),
	coalesce((SELECT s.seqincrement = 1 AND s.seqcache = 1 AND NOT s.seqcycle FROM pg_sequence s WHERE s.seqrelid = pg_get_serial_sequence($1::text, 'seq')::regclass), false),
	c.relpersistence = 'p',
	c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid OR inhrelid = c.oid),
	EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = c.oid),
	(SELECT relpersistence = 'u' FROM pg_class WHERE oid = $2::text::regclass),
	coalesce((SELECT string_agg(quote_ident(tgname), ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 7 = 7), '')
FROM pg_class c WHERE c.oid = $1::text::regclass`, t.events, t.incarnation).
		Scan(&table.ordered, &table.defaulted, &table.identity, &table.logged, &table.plain, &table.subscribed, &table.incarnation, &table.triggers)
	if err != nil {
		return err
	}
	var errs []error
	fail := func(broken bool, format string, args ...any) {
		if broken {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fail(!table.ordered, "column txid of %s stands behind seq, so a row's number may be older than its transaction's id; make the table as the migrations do", t.events)
	fail(!table.defaulted, "column txid of %s has another default than pg_current_xact_id()", t.events)
	fail(!table.identity, "the sequence of %s doesn't go up by 1, keeps numbers in a cache, or starts over: ALTER SEQUENCE … INCREMENT 1 CACHE 1 NO CYCLE", t.events)
	fail(!table.logged, "%s is UNLOGGED: a crash empties it; ALTER TABLE … SET LOGGED", t.events)
	fail(!table.plain, "%s is partitioned, or part of an inheritance, where seq isn't unique and goes back", t.events)
	fail(table.subscribed, "%s is the target of a logical replication, whose rows bring numbers of another sequence; let the relay work where they are written", t.events)
	fail(!table.incarnation, "%s is not UNLOGGED, so it doesn't tell a crash or a promotion", t.incarnation)
	fail(table.triggers != "", "a BEFORE INSERT row trigger on %s may take a number before the row has it: %s; use an AFTER trigger", t.events, table.triggers)
	return errors.Join(errs...)
}

// CheckSequence returns ErrSequence if the outbox's sequence is behind a cursor.
func (a *Admin) CheckSequence(ctx context.Context) error { return a.store.checkSequence(ctx) }
