package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// migrateFix fixes a schema that was never completed.
const migrateFix = "endstate migrate\n-- which doesn't bring back what was dropped after it: for that, see the migrations in guard/migrations and outbox/migrations"

// tables finds what of the library's tables is missing.
func (d *doctor) tables(ctx context.Context) (found []finding, err error) {
	err = d.db.read(ctx, func(q endstate.Querier) error {
		for _, err := range []error{d.ledger.Check(ctx, q), relay.Check(ctx, q, d.writer)} {
			switch {
			case err == nil:
			case errors.Is(err, outbox.ErrSchema) && strings.Contains(err.Error(), "unique index"): // uniqueIndex tells more
			case errors.Is(err, outbox.ErrSchema), errors.Is(err, guard.ErrSchema):
				found = append(found, finding{What: err.Error(), Why: "Without it nothing can be finalized, or events would be lost: the library's statements rest on it.", Fix: migrateFix})
			default:
				return err
			}
		}
		return nil
	})
	return found, err
}

// index is an index of an outbox table.
type index struct {
	name          string
	unique, valid bool
	columns       []string // empty names are expressions
	predicate     string   // of a partial one
}

// indexes lists a table's indexes.
func (d *doctor) indexes(ctx context.Context, schema, table string) (list []index, err error) {
	query, args := `SELECT c.relname::text, i.indisunique, i.indisvalid, coalesce(pg_get_expr(i.indpred, i.indrelid), ''),
	(SELECT coalesce(string_agg(coalesce(a.attname, ''), chr(1) ORDER BY k.n), '') FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY k (number, n)
		LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass($1::text) ORDER BY 1`, []any{quote(schema, table)}
	if d.db.pool == nil {
		query, args = `SELECT l.name, l."unique", 1, CASE WHEN l.partial THEN (SELECT substr(sql, instr(upper(sql), ' WHERE ') + 7) FROM sqlite_schema s WHERE s.name = l.name) ELSE '' END,
	(SELECT coalesce(group_concat(coalesce(name, ''), char(1)), '') FROM (SELECT name FROM pragma_index_info(l.name) ORDER BY seqno))
FROM pragma_index_list(?1) l ORDER BY 1`, []any{table}
	}
	var i index
	var columns string
	err = d.db.each(ctx, query, args, []any{&i.name, &i.unique, &i.valid, &i.predicate, &columns}, func() {
		i.columns = strings.Split(columns, "\x01")
		list = append(list, i)
	})
	return list, err
}

// target is the outbox at hand: its table, the columns that must be unique together, and the one that tells what is published.
func (d *doctor) target() (schema, table string, keys []string, published string) {
	if !d.foreign {
		return d.writer.Schema, d.writer.Name(), []string{"dedup_key"}, ""
	}
	return d.table.Schema, d.table.Table, append(append([]string{}, d.table.Aggregate...), d.table.Type), d.published
}

// concurrently is what builds an index beside writers, where the database can do that.
func (d *doctor) concurrently() string {
	if d.db.pool == nil {
		return ""
	}
	return " CONCURRENTLY"
}

func quoted(names []string) string {
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = quote("", name)
	}
	return strings.Join(list, ", ")
}

// mentions reports whether an index's predicate is about a column.
func (i index) mentions(column string) bool {
	return column != "" && strings.Contains(i.predicate, column)
}

// within reports whether an index makes the keys together unique.
func (i index) within(keys []string) bool {
	return i.unique && !slices.ContainsFunc(i.columns, func(column string) bool { return !slices.Contains(keys, column) })
}

// uniqueIndex finds out what keeps a second event of an aggregate out, if anything does.
func (d *doctor) uniqueIndex(ctx context.Context) (found []finding, err error) {
	schema, table, keys, published := d.target()
	if err := d.db.missing(ctx, schema, table, append(keys, published)); err != nil {
		return nil, err
	}
	indexes, err := d.indexes(ctx, schema, table)
	if err != nil {
		return nil, err
	}
	concurrently := d.concurrently()
	create := fmt.Sprintf("CREATE UNIQUE INDEX%s %s ON %s (%s);", concurrently, quote("", table+"_dedup"), quote(schema, table), quoted(keys))
	whole := false
	var trap *index
	for n, i := range indexes {
		switch {
		case !i.within(keys):
		case !i.valid:
			found = append(found, finding{
				What: fmt.Sprintf("The unique index %s on %s is invalid: its creation was broken off, or met duplicates.", quote("", i.name), quote(schema, table)),
				Why:  "It deduplicates nothing for certain, and every insert pays for it.",
				Fix:  fmt.Sprintf("DROP INDEX CONCURRENTLY %s;\n%s", quote(schema, i.name), create),
			})
		case i.mentions(published):
			trap = &indexes[n]
		default:
			whole = true
		}
	}
	if whole {
		return found, nil
	}
	if trap != nil {
		return append(found, finding{
			What: fmt.Sprintf("The unique index %s on %s covers unpublished rows only (WHERE %s).", quote("", trap.name), quote(schema, table), trap.predicate),
			Why:  "It is a trap: it keeps a second event out only until the relay has published the first, then the next one goes in.",
			Fix:  fmt.Sprintf("%s\nDROP INDEX%s %s;", create, concurrently, quote(schema, trap.name)),
		}), nil
	}
	if len(found) == 0 {
		if d.foreign && d.db.pool != nil {
			create += "\n-- or, which removes the duplicates first: endstate adopt apply"
		}
		found = append(found, finding{
			What: fmt.Sprintf("No unique index on %s covers (%s).", quote(schema, table), quoted(keys)),
			Why:  "Nothing in the database keeps a second event of an aggregate out: a status check that is apart from the insert still races.",
			Fix:  create,
		})
	}
	return found, nil
}

// relayIndex finds out whether the events that wait are found without reading all that were ever published.
func (d *doctor) relayIndex(ctx context.Context) ([]finding, error) {
	schema, table, _, published := d.target()
	if published == "" {
		return nil, nil
	}
	indexes, err := d.indexes(ctx, schema, table)
	if err != nil {
		return nil, err
	}
	for _, i := range indexes {
		if i.valid && (i.mentions(published) || i.columns[0] == published) {
			return nil, nil
		}
	}
	covers := fmt.Sprintf("(%s) WHERE %s IS NULL", quote("", d.table.Time), quote("", published))
	if d.table.Published != published { // a condition, which may be about any of its values
		covers = fmt.Sprintf("(%s, %s)", quote("", published), quote("", d.table.Time))
	}
	return []finding{{
		What: fmt.Sprintf("No index on %s is about the events that wait to be published.", quote(schema, table)),
		Why:  "Each look of the relay reads the whole table: it gets slower with every event that was ever published.",
		Fix:  fmt.Sprintf("CREATE INDEX%s %s ON %s %s;", d.concurrently(), quote("", table+"_pending"), quote(schema, table), covers),
	}}, nil
}

// autovacuum finds settings under which the outbox bloats.
func (d *doctor) autovacuum(ctx context.Context) (found []finding, err error) {
	schema, table, _, _ := d.target()
	err = d.db.read(ctx, func(q endstate.Querier) error {
		var on, tracking string
		var options []string
		var rows, dead float64
		err := q.QueryRow(ctx, `SELECT current_setting('autovacuum'), current_setting('track_counts'), coalesce(c.reloptions, '{}'), c.reltuples::float8, coalesce(s.n_dead_tup, 0)::float8
FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE c.oid = to_regclass($1::text)`, quote(schema, table)).Scan(&on, &tracking, &options, &rows, &dead)
		if err != nil {
			return err
		}
		settings := strings.Join(options, " ")
		const why = "Every publication leaves a dead row. Where they aren't cleared away, the relay reads through ever more of them."
		if on != "on" || tracking != "on" {
			found = append(found, finding{
				What: fmt.Sprintf("Autovacuum is off for the whole server (autovacuum = %s, track_counts = %s).", on, tracking), Why: why,
				Fix: "ALTER SYSTEM SET autovacuum = on;\nALTER SYSTEM SET track_counts = on;\nSELECT pg_reload_conf();",
			})
		}
		if strings.Contains(settings, "autovacuum_enabled=false") || strings.Contains(settings, "autovacuum_enabled=off") {
			found = append(found, finding{What: fmt.Sprintf("Autovacuum is off for %s.", quote(schema, table)), Why: why,
				Fix: fmt.Sprintf("ALTER TABLE %s RESET (autovacuum_enabled);", quote(schema, table))})
		}
		const many = 100_000
		if rows >= many && !strings.Contains(settings, "autovacuum_vacuum_scale_factor=") {
			found = append(found, finding{
				What: fmt.Sprintf("%s has about %.0f rows, and autovacuum's default scale factor.", quote(schema, table), rows),
				Why:  why + " By default that begins when a fifth of the table is dead.",
				Fix:  fmt.Sprintf("ALTER TABLE %s SET (autovacuum_vacuum_scale_factor = 0.02);", quote(schema, table)),
			})
		}
		if dead >= many && dead > rows/2 {
			found = append(found, finding{
				What: fmt.Sprintf("%s has about %.0f dead rows beside %.0f live ones.", quote(schema, table), dead, rows),
				Why:  why + " A transaction, a replication slot or a prepared transaction that is left open holds them back.",
				Fix:  fmt.Sprintf("SELECT pid, xact_start, state, query FROM pg_stat_activity WHERE xact_start < now() - interval '10 minutes' ORDER BY xact_start;\nVACUUM (VERBOSE) %s;", quote(schema, table)),
			})
		}
		return nil
	})
	return found, err
}
