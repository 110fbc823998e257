package outbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// checkPut says why every Put into a service's own table would fail, or write a time that isn't the event's.
func (w Writer) checkPut(ctx context.Context, q endstate.Querier) error {
	deferrable, err := migrate.Deferrable(ctx, q, w.Schema, w.Name())
	if err != nil {
		return err
	}
	if len(deferrable) > 0 {
		return fmt.Errorf("table %s has the DEFERRABLE constraint %s, with which PostgreSQL refuses every ON CONFLICT: make it NOT DEFERRABLE, or a unique index", w.table(), migrate.List(deferrable))
	}
	rules, err := migrate.Rules(ctx, q, w.Schema, w.Name())
	if err != nil {
		return err
	}
	if len(rules) > 0 {
		return fmt.Errorf("table %s has the rule %s, with which PostgreSQL refuses every ON CONFLICT: make it a trigger", w.table(), migrate.List(rules))
	}
	columns, err := migrate.Columns(ctx, q, w.Schema, w.Name())
	if err != nil {
		return err
	}
	if err := errors.Join(w.Columns.checkID(columns), w.Columns.checkOccurredAt(columns)); err != nil {
		return err
	}
	if err := w.checkRequired(ctx, q, columns); err != nil {
		return err
	}
	return w.explainPut(ctx, q)
}

func (c *Columns) checkID(columns map[string]migrate.Column) error {
	if id := columns[c.ID]; id.Length > 0 && id.Length < 36 {
		return fmt.Errorf("column %s, which is Columns.ID, is %s: an event's id has 36 characters; make it a uuid", sqltx.Quote("", c.ID), id.Shown)
	}
	return nil
}

func (c *Columns) checkOccurredAt(columns map[string]migrate.Column) error {
	if c.OccurredAt == "" {
		return nil
	}
	column := columns[c.OccurredAt]
	name := sqltx.Quote("", c.OccurredAt)
	switch wanted := c.occurredAtType(); {
	case column.Type == wanted:
		return nil
	case column.Type == "timestamp":
		return fmt.Errorf("column %s, which is Columns.OccurredAt, has no time zone and would hold the session's time of day: set Columns.OccurredAtType to timestamp, which writes UTC", name)
	default:
		return fmt.Errorf("column %s, which is Columns.OccurredAt, is %s, and Columns.OccurredAtType says %s", name, column.Shown, wanted)
	}
}

// checkRequired names columns that may not be NULL and that nothing fills in: a trigger might, of which only that it exists can
// be seen.
func (w Writer) checkRequired(ctx context.Context, q endstate.Querier, columns map[string]migrate.Column) error {
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(columns)) {
		_, set := w.Columns.Set[name]
		mapped := slices.ContainsFunc(w.Columns.fields(), func(f sqlplan.Field) bool { return f.Theirs == name })
		if columns[name].Required && !set && !mapped {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var filled bool
	const before = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = to_regclass($1::text) AND NOT tgisinternal AND tgtype & 7 = 7)" // BEFORE INSERT FOR EACH ROW
	if err := q.QueryRow(ctx, before, w.table()).Scan(&filled); err != nil || filled {
		return err
	}
	return fmt.Errorf("table %s has %s, which may not be NULL and has no default: give it one, or a value in Columns.Set", w.table(), migrate.List(missing))
}

// explainPut has PostgreSQL plan the insert of an event: it refuses what never could be run, such as text for an enum or a
// number, and names the column. Nothing is written. Rights are looked at elsewhere.
func (w Writer) explainPut(ctx context.Context, q endstate.Querier) error {
	sample, err := Writer{}.Prepare(ctx, []Event{{AggregateType: "a", AggregateID: "1", Type: "t", Payload: []byte("{}")}})
	if err != nil {
		return err
	}
	query, args := w.sql().Values(sqltx.Postgres, rows(sample))
	rows, err := q.Query(ctx, "EXPLAIN "+query+" ON CONFLICT DO NOTHING RETURNING "+sqltx.Quote("", w.Columns.ID), args...)
	if err == nil {
		rows.Close()
		err = rows.Err()
	}
	if err != nil && sqltx.State(err) != sqltx.InsufficientRights {
		return fmt.Errorf("no event can be put into table %s: %w; see outbox.Columns for what each column may be", w.table(), err)
	}
	return nil
}
