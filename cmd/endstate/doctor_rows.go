package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
)

// ledgerID is the SQL for an aggregate's id, as events have it, from a ledger's key, which also tells the kinds of its parts:
// guard.Key's String from its Encode.
const ledgerID = `CASE WHEN "key" LIKE '%/%' THEN replace(replace(replace(replace(substr("key", 3), '/t:', '/'), '/i:', '/'), '/u:', '/'), '%23', '#')
	ELSE replace(replace(replace(substr("key", 3), '%23', '#'), '%2F', '/'), '%25', '%') END`

// limited is a source of rows, the newest ones unless all are wanted.
func (d *doctor) limited(columns, table, order string) string {
	if d.sample == 0 {
		return fmt.Sprintf("(SELECT %s FROM %s)", columns, table)
	}
	return fmt.Sprintf("(SELECT %s FROM %s%s LIMIT %d)", columns, table, order, d.sample)
}

func (d *doctor) entries() string {
	return d.limited(`aggregate, `+ledgerID+` AS id, state, at`, quote(d.ledger.Schema, d.ledger.Table), ` ORDER BY at DESC`)
}

// ofEvents are the aggregates that have events.
func (d *doctor) ofEvents() string {
	return fmt.Sprintf("(SELECT DISTINCT aggregate_type, aggregate_id FROM %s)", quote(d.writer.Schema, d.writer.Name()))
}

// count runs a query of how many aggregates there are and of one of them, and makes a finding unless there is none.
func (d *doctor) count(ctx context.Context, query string, args []any, found func(n int64, example string) finding) (list []finding, err error) {
	err = d.db.read(ctx, func(q endstate.Querier) error {
		var n int64
		var example *string
		if err := q.QueryRow(ctx, query, args...).Scan(&n, &example); err != nil || n == 0 {
			return err
		}
		list = append(list, found(n, printable(*example)))
		return nil
	})
	return list, err
}

// terminalWithoutEvent compares the ledger with the outbox.
func (d *doctor) terminalWithoutEvent(ctx context.Context) ([]finding, error) {
	found, err := d.count(ctx, fmt.Sprintf(`SELECT count(*), min(l.aggregate || ' ' || l.id) FROM %s l LEFT JOIN %s e ON e.aggregate_type = l.aggregate AND e.aggregate_id = l.id
WHERE e.aggregate_id IS NULL AND (l.at >= (SELECT min(created_at) FROM %s) OR NOT EXISTS (SELECT 1 FROM %[3]s))`, d.entries(), d.ofEvents(), quote(d.writer.Schema, d.writer.Name())),
		nil, func(n int64, example string) finding {
			return finding{
				What: fmt.Sprintf("%d aggregates in the ledger have no event in the outbox, such as %s.", n, example),
				Why:  "Their consumers were never told, unless these were finalized without events on purpose, or retention has deleted them (then: --skip terminal-without-event).",
				Fix: fmt.Sprintf("SELECT l.* FROM %s l WHERE NOT EXISTS (SELECT 1 FROM %s e WHERE e.aggregate_type = l.aggregate AND e.aggregate_id = %s);\n"+
					"-- then put the events that are missing, with outbox.Put", quote(d.ledger.Schema, d.ledger.Table), quote(d.writer.Schema, d.writer.Name()), ledgerID),
			}
		})
	if err != nil || d.status.Table == "" {
		return found, err
	}
	aggregate, args, err := d.aggregateType(ctx)
	if err != nil {
		return nil, err
	}
	rows, terminal := d.statusRows(&args)
	more, err := d.count(ctx, fmt.Sprintf(`SELECT count(*), min(s.id) FROM %s s LEFT JOIN %s e ON e.aggregate_type = %s AND e.aggregate_id = s.id
WHERE e.aggregate_id IS NULL AND %s`, rows, d.ofEvents(), aggregate, terminal), args, func(n int64, example string) finding {
		return finding{
			What: fmt.Sprintf("%d rows of %s are terminal and have no event in the outbox, such as %s.", n, quote(d.status.Schema, d.status.Table), example),
			Why:  "Code that bypassed the library set them, or their consumers were told before the outbox was there, or retention has deleted the events (then: --skip terminal-without-event).",
			Fix: fmt.Sprintf("SELECT s.* FROM %s s WHERE %s AND NOT EXISTS (SELECT 1 FROM %s e WHERE e.aggregate_type = %s AND e.aggregate_id = CAST(s.%s AS text));\n"+
				"-- then put the events that are missing, with outbox.Put",
				quote(d.status.Schema, d.status.Table), d.terminalRow(), quote(d.writer.Schema, d.writer.Name()), literal(d.aggregate), quote("", d.status.Key)),
		}
	})
	return append(found, more...), err
}

// eventWithoutTerminal compares the outbox with the ledger, by the dedup keys that finalize gives.
func (d *doctor) eventWithoutTerminal(ctx context.Context) ([]finding, error) {
	events := d.limited("aggregate_type, aggregate_id, dedup_key", quote(d.writer.Schema, d.writer.Name()), " ORDER BY seq DESC")
	ledger := quote(d.ledger.Schema, d.ledger.Table)
	escaped := `replace(replace(replace(%s, '%%', '%%25'), '/', '%%2F'), '#', '%%23')`
	// finalize's own dedup key is the aggregate, a slash, the ledger's key, and the type behind a hash sign.
	found, err := d.count(ctx, fmt.Sprintf(`SELECT count(*), min(e.aggregate_type || ' ' || e.aggregate_id) FROM (
	SELECT DISTINCT aggregate_type, aggregate_id FROM %s e WHERE substr(dedup_key, 1, length(%[3]s) + 1) = %[3]s || '/' AND dedup_key LIKE '%%#%%') e
	LEFT JOIN (SELECT aggregate, %[4]s AS id FROM %[2]s) l ON l.aggregate = e.aggregate_type AND l.id = e.aggregate_id
WHERE l.id IS NULL AND e.aggregate_type IN (SELECT DISTINCT aggregate FROM %[2]s)`, events, ledger, fmt.Sprintf(escaped, "aggregate_type"), ledgerID),
		nil, func(n int64, example string) finding {
			return finding{
				What: fmt.Sprintf("%d aggregates have events of a finalization in the outbox and no entry in the ledger, such as %s.", n, example),
				Why:  "Consumers learn of an end that the ledger doesn't know: it will let a second finalization win. Ledger rows were deleted, or restored from an older backup.",
				Fix:  d.fillLedger() + "\n-- or settle each through a finalizer that has just the ledger as its guard",
			}
		})
	if err != nil || d.status.Table == "" {
		return found, err
	}
	aggregate, args, err := d.aggregateType(ctx)
	if err != nil {
		return nil, err
	}
	rows, terminal := d.statusRows(&args)
	more, err := d.count(ctx, fmt.Sprintf(`SELECT count(*), min(s.id) FROM %s s JOIN (SELECT DISTINCT aggregate_id FROM %s e WHERE aggregate_type = %s AND dedup_key LIKE '%%#%%') e ON e.aggregate_id = s.id
WHERE NOT %s`, rows, events, aggregate, terminal), args, func(n int64, example string) finding {
		return finding{
			What: fmt.Sprintf("%d rows of %s are open and have events of a finalization in the outbox, such as %s.", n, quote(d.status.Schema, d.status.Table), example),
			Why:  "Consumers learn of an end that isn't there: code that bypassed the library reopened the rows, or wrote the events.",
			Fix:  "-- what the rows ought to say is the service's to know. guard.Status.Protect keeps new ones from being reopened.",
		}
	})
	return append(found, more...), err
}

// statusRows is the status table as rows of id and state, and the condition that s is terminal.
func (d *doctor) statusRows(args *[]any) (rows, terminal string) {
	rows = d.limited(fmt.Sprintf("CAST(%s AS text) AS id, CAST(%s AS text) AS state", quote("", d.status.Key), quote("", d.status.Column)), quote(d.status.Schema, d.status.Table), "")
	var terms []string
	for _, prefix := range d.terminal {
		*args = append(*args, prefix)
		terms = append(terms, fmt.Sprintf("substr(s.state, 1, length(CAST($%[1]d AS text))) = CAST($%[1]d AS text)", len(*args)))
	}
	return rows, "(s.state IS NOT NULL AND (" + strings.Join(terms, " OR ") + "))"
}

// terminalRow is the condition that a row s of the status table is terminal, for statements that people run.
func (d *doctor) terminalRow() string {
	var terms []string
	for _, prefix := range d.terminal {
		terms = append(terms, fmt.Sprintf("substr(CAST(s.%s AS text), 1, length(%[2]s)) = %[2]s", quote("", d.status.Column), literal(prefix)))
	}
	return "(" + strings.Join(terms, " OR ") + ")"
}

// literal is a text in a statement that people run.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// aggregateType is the status table's aggregate type as the first argument of a query.
func (d *doctor) aggregateType(ctx context.Context) (placeholder string, args []any, err error) {
	if d.aggregate == "" {
		err = d.db.read(ctx, func(q endstate.Querier) error {
			var n int
			var only *string
			err := q.QueryRow(ctx, fmt.Sprintf("SELECT count(DISTINCT aggregate), min(aggregate) FROM %s", quote(d.ledger.Schema, d.ledger.Table))).Scan(&n, &only)
			switch {
			case err != nil:
				return err
			case n > 1:
				return fmt.Errorf("the ledger has %d aggregate types: say with --aggregate-type which is that of %s", n, quote(d.status.Schema, d.status.Table))
			case n == 1:
				d.aggregate = *only
			}
			return nil
		})
	}
	return "CAST($1 AS text)", []any{d.aggregate}, err
}

// statusWithoutLedger finds terminal rows that the ledger doesn't know.
func (d *doctor) statusWithoutLedger(ctx context.Context) ([]finding, error) {
	aggregate, args, err := d.aggregateType(ctx)
	if err != nil {
		return nil, err
	}
	ledger := quote(d.ledger.Schema, d.ledger.Table)
	rows, terminal := d.statusRows(&args)
	return d.count(ctx, fmt.Sprintf(`SELECT count(*), min(s.id) FROM %s s LEFT JOIN (SELECT %s AS id FROM %s WHERE aggregate = %s) l ON l.id = s.id
WHERE l.id IS NULL AND %s AND EXISTS (SELECT 1 FROM %[3]s)`, rows, ledgerID, ledger, aggregate, terminal), args, func(n int64, example string) finding {
		return finding{
			What: fmt.Sprintf("%d rows of %s are terminal and not in the ledger, such as %s.", n, quote(d.status.Schema, d.status.Table), example),
			Why:  "Code that bypassed the library set them, or they are older than the ledger. Guards that are kept together refuse such an aggregate (guard.ErrAnomaly).",
			Fix:  d.fillLedger(),
		}
	})
}

// ledgerWithoutStatus finds entries of the ledger whose row isn't in that state.
func (d *doctor) ledgerWithoutStatus(ctx context.Context) ([]finding, error) {
	aggregate, args, err := d.aggregateType(ctx)
	if err != nil {
		return nil, err
	}
	status := quote(d.status.Schema, d.status.Table)
	return d.count(ctx, fmt.Sprintf(`SELECT count(*), min(l.id || ' (' || l.state || ' in the ledger, ' || coalesce(s.state, 'no status') || ' in its row)')
FROM %s l LEFT JOIN (SELECT CAST(%s AS text) AS id, CAST(%s AS text) AS state FROM %s) s ON s.id = l.id WHERE l.aggregate = %s AND (s.state IS NULL OR s.state <> l.state)`,
		d.entries(), quote("", d.status.Key), quote("", d.status.Column), status, aggregate), args, func(n int64, example string) finding {
		return finding{
			What: fmt.Sprintf("%d aggregates are final in the ledger, and not in that state in %s, such as %s.", n, status, example),
			Why:  "A terminal state was left, overwritten or deleted by code that bypassed the library, or the ledger is kept by other code than the row.",
			Fix: fmt.Sprintf("UPDATE %s s SET %s = l.state FROM %s l WHERE l.aggregate = %s AND CAST(s.%s AS text) = %s AND CAST(s.%[2]s AS text) IS DISTINCT FROM l.state;",
				status, quote("", d.status.Column), quote(d.ledger.Schema, d.ledger.Table), literal(d.aggregate), quote("", d.status.Key), ledgerID),
		}
	})
}

// fillLedger is the command that gives terminal rows their entries.
func (d *doctor) fillLedger() string {
	if d.status.Table == "" {
		return "endstate adopt apply --ledger-from TABLE --aggregate-type NAME -- the service's table with the status column"
	}
	command := fmt.Sprintf("endstate adopt apply --ledger-from %s --status-key %s --status-column %s --aggregate-type %s",
		shellQuoted(d.status.Table), shellQuoted(d.status.Key), shellQuoted(d.status.Column), shellQuoted(d.aggregate))
	for _, prefix := range d.terminal {
		command += " --terminal " + shellQuoted(prefix)
	}
	if d.ledger.Schema != "" {
		command += " --schema " + shellQuoted(d.ledger.Schema)
	}
	if d.ledger.Table != guard.DefaultLedger {
		command += " --ledger " + shellQuoted(d.ledger.Table)
	}
	return command
}
