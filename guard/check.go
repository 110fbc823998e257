package guard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Check implements Checker: the table must exist, with its columns, their types and its primary key; the current role must
// be allowed to read and to insert; and the schema's version must fit the library's.
func (l Ledger) Check(ctx context.Context, q endstate.Querier) error {
	files, err := l.Migrations(string(sqltx.Of(q)))
	if err == nil {
		err = migrate.Check(ctx, q, l.Schema, l.plain(), files, migrate.Need{Table: l.plain(), Select: migrate.All, Insert: migrate.All})
	}
	return sqltx.Lacking(ErrSchema, err)
}

// Check implements Checker: the table and columns must exist, and the key columns must have a unique index, else one key
// could be several rows. On PostgreSQL the columns' types must be such that the guard can work with them, and the current role
// must be allowed to read those that it compares, and to set those that it sets.
func (s Status) Check(ctx context.Context, q endstate.Querier) error {
	names := append(slices.Clone(s.keys()), s.Column)
	if s.Touched != "" {
		names = append(names, s.Touched)
	}
	for column := range s.Set {
		names = append(names, column)
	}
	err := migrate.Missing(ctx, q, s.Schema, s.Table, names)
	if err == nil {
		err = s.checkUnique(ctx, q)
	}
	if err == nil && sqltx.Of(q) == sqltx.Postgres {
		err = s.checkTypes(ctx, q)
	} else if err == nil {
		err = s.checkGenerated(ctx, q)
	}
	if err == nil {
		err = s.checkPrivileges(ctx, q)
	}
	if err != nil {
		err = fmt.Errorf("%w (this table is the service's own)", err)
	}
	return sqltx.Lacking(ErrSchema, err)
}

func (s Status) checkUnique(ctx context.Context, q endstate.Querier) error {
	kind, err := migrate.KindOf(ctx, q, s.Schema, s.Table)
	if err != nil {
		return err
	}
	if kind == migrate.ViewKind && sqltx.Of(q) == sqltx.Postgres {
		view, err := migrate.LookAtView(ctx, q, s.Schema, s.Table, s.keys(), append(slices.Collect(maps.Keys(s.Set)), s.Column))
		if err != nil {
			return err
		}
		return s.checkView(ctx, q, view)
	}
	if why := unguardable[kind]; why != "" {
		return fmt.Errorf("%s is %s", s.table(), why)
	}
	unique, err := migrate.HasUnique(ctx, q, s.Schema, s.Table, s.keys())
	if err == nil && !unique {
		err = errors.New("table " + s.table() + " has no unique index over its key columns alone, so one key could be several rows")
	}
	return err
}

// unguardable are the kinds of tables that can't be guarded, and why, or what would guard them.
var unguardable = map[migrate.Kind]string{
	migrate.ViewKind:     "a view, of which SQLite doesn't count what is updated: guard the table that it is made of", // PostgreSQL's may be guarded
	migrate.Materialized: "a materialized view, which nothing updates: guard the table that has the status",
	migrate.Foreign:      "a foreign table, whose server would commit apart from the events: finalize on that server",
	migrate.Unlogged:     "UNLOGGED: a crash empties it, and leaves the events of what was final: ALTER TABLE … SET LOGGED",
	migrate.Inherited:    "a table from which others inherit, whose rows have no part in its unique index, so that one key could be several rows: guard one of these tables, or make it a partitioned one",
}

// checkView says why a view can't be guarded: it must be one that PostgreSQL updates by itself, of a table that has the key
// columns by the same names, with a unique index.
func (s Status) checkView(ctx context.Context, q endstate.Querier, view *migrate.View) error {
	if len(view.Fixed) > 0 {
		return fmt.Errorf("%s is a view of which PostgreSQL can't update the column %s by itself: guard the table that it is made of", s.table(), migrate.List(view.Fixed))
	}
	if len(view.Tables) != 1 {
		return fmt.Errorf("%s is a view of %d tables, and could have a row more than once: guard the table that has the status", s.table(), len(view.Tables))
	}
	of := view.Tables[0]
	kind, err := migrate.KindOf(ctx, q, of.Schema, of.Table)
	if why := unguardable[kind]; why != "" && err == nil {
		return fmt.Errorf("%s is a view of %s, which is %s", s.table(), sqltx.Quote(of.Schema, of.Table), why)
	}
	unique := false
	if err == nil && !view.Renamed {
		unique, err = migrate.HasUnique(ctx, q, of.Schema, of.Table, s.keys())
	}
	if err == nil && !unique {
		err = fmt.Errorf("%s is a view of table %s, which has no unique index over the key columns alone by the names that they have in the view, so one key could be several rows: guard the table", s.table(), sqltx.Quote(of.Schema, of.Table))
	}
	return err
}

// checkPrivileges says what the current role may not do. Several rows are found by their ctid (of which a view has
// none), which only a privilege on the table as a whole allows to read.
func (s Status) checkPrivileges(ctx context.Context, q endstate.Querier) error {
	reads := append(slices.Clone(s.keys()), s.Column, "ctid")
	if s.Touched != "" {
		reads = append(reads, s.Touched)
	}
	denied, err := migrate.Denied(ctx, q, s.Schema, migrate.Need{Table: s.Table, Select: reads,
		Update: append(slices.Sorted(maps.Keys(s.Set)), s.Column)}, nil)
	return errors.Join(append(denied, err)...)
}

func (s Status) checkTypes(ctx context.Context, q endstate.Querier) error {
	columns, err := migrate.Columns(ctx, q, s.Schema, s.Table)
	if err != nil {
		return err
	}
	_, err = s.keyColumnsOf(columns)
	errs := []error{err, s.checkColumn(ctx, q, columns[s.Column])}
	if s.Touched != "" {
		errs = append(errs, s.checkTouched(columns))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Set)) {
		c, value := columns[name], s.Set[name]
		switch {
		case c.Generated:
			errs = append(errs, fmt.Errorf("column %s, which Status.Set names, is generated: nothing can set it", sqltx.Quote("", name)))
		case value == Now && c.Type == "timestamp":
			errs = append(errs, fmt.Errorf("column %s has no time zone, so that guard.Now would be the session's time of day; make it a timestamptz, or set it to guard.NowUTC", sqltx.Quote("", name)))
		case value == NowUTC && c.Type == "timestamptz":
			errs = append(errs, fmt.Errorf("column %s has a time zone, and guard.NowUTC is for one that hasn't; set it to guard.Now", sqltx.Quote("", name)))
		}
	}
	return errors.Join(errs...)
}

// checkGenerated is what checkTypes looks at on SQLite.
func (s Status) checkGenerated(ctx context.Context, q endstate.Querier) error {
	generated, err := migrate.Generated(ctx, q, s.Schema, s.Table)
	errs := []error{err}
	for _, name := range generated {
		if _, set := s.Set[name]; set || name == s.Column {
			errs = append(errs, fmt.Errorf("column %s is generated: no UPDATE can set it", sqltx.Quote("", name)))
		}
	}
	return errors.Join(errs...)
}

// checkColumn says why the status column can't hold the terminal states.
func (s Status) checkColumn(ctx context.Context, q endstate.Querier, c migrate.Column) error {
	if c.Generated {
		return fmt.Errorf("column %s is generated: no UPDATE can set it", s.column())
	}
	if c.Kind != 'e' && !c.Textual() {
		return s.checkNumbers(c)
	}
	if c.Kind != 'e' {
		for _, name := range s.Terminal.names {
			if n := utf8.RuneCountInString(name); c.Length > 0 && n > c.Length {
				return fmt.Errorf("column %s is %s, and the terminal state %q has %d characters", s.column(), c.Shown, name, n)
			}
		}
		return nil
	}
	labels, err := migrate.Labels(ctx, q, s.Schema, s.Table, s.Column)
	if err != nil {
		return err
	}
	for _, name := range s.Terminal.names {
		if !slices.Contains(labels, name) {
			return fmt.Errorf("column %s is the enum %s, which has no terminal state %q; it has %s", s.column(), c.Shown, name, strings.Join(labels, ", "))
		}
	}
	return nil
}

// checkNumbers says why a status column that holds no text can't hold the terminal states as they are written.
func (s Status) checkNumbers(c migrate.Column) error {
	isOne := func(name string) bool { return name == "true" || name == "false" }
	switch c.Type {
	case "bool":
	case "int2", "int4", "int8":
		bits := int(c.Type[3]-'0') * 8
		isOne = func(name string) bool {
			n, err := strconv.ParseInt(name, 10, bits)
			return err == nil && strconv.FormatInt(n, 10) == name
		}
	default:
		return fmt.Errorf("column %s is %s; a status is text, varchar, char, an enum, an integer or a boolean", s.column(), c.Shown)
	}
	for _, name := range slices.Concat(s.Terminal.names, s.Terminal.prefixes) {
		if !isOne(name) || len(s.Terminal.prefixes) > 0 {
			return fmt.Errorf("column %s is %s, and the terminal state %q is none of its values: use guard.Names with values as PostgreSQL writes them", s.column(), c.Shown, name)
		}
	}
	return nil
}

// checkTouched says why Touched can't be compared with the clock.
func (s Status) checkTouched(columns map[string]migrate.Column) error {
	name := sqltx.Quote("", s.Touched)
	switch c, ok := columns[s.Touched]; {
	case !ok:
		return fmt.Errorf("table %s has no column %s", s.table(), name)
	case c.Type == "timestamp":
		return fmt.Errorf(`column %s, which is Status.Touched, has no time zone: make it a timestamptz, or leave Touched empty and give the sweeper a Due such as status.DueWhere("%s AT TIME ZONE 'UTC' < now() - interval '5 minutes'"), with the zone that it was written in`, name, s.Touched)
	case c.Type != "timestamptz":
		return fmt.Errorf("column %s, which is Status.Touched, is %s and not a timestamptz", name, c.Shown)
	}
	return nil
}
