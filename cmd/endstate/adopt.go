package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox/adopt"
	"github.com/endstate-go/endstate/outbox/audit"
)

// newAdopt groups the commands that move an existing outbox over.
func newAdopt(a *app) *cobra.Command {
	return group("adopt", "Remove an outbox table's duplicates and keep new ones out, or fill the ledger",
		a.adoption("plan", "Say what apply would do", `Say what apply would do: the rows to remove, which of each aggregate's stays and why, the columns to add, the index.

It only reads (with --ledger-from it tries, and rolls back). Exit status: 0 there is nothing to do, 1 there is, 2 could not run to its end.`, a.adoptPlan),
		a.adoption("apply", "Remove duplicates into a backup table, and build the unique index", `Remove duplicates into a backup table, and build the unique index.

Of each aggregate's events, the one published first stays, or the oldest if none was. --published says which are published:
a column that is NULL or false until then, or a condition ('status = SENT'). A column that can't tell, such as a status or a
time that is never NULL, is refused. Writers go on meanwhile; from the barrier on, one that
writes a second event of an aggregate gets SQLSTATE 23505. It may be killed at any point and run again; two at once take turns.
It needs the rights of the table's owner, and a session: not a pooler in transaction mode.`, a.adoptRun((*adopt.Adoption).Apply, wasAdopted)),
		a.adoption("undo", "Drop the unique index, and put the removed rows back", `Drop the unique index, and put the removed rows back.

Unpublished ones among them will then be published. Columns that were added stay.`, a.adoptRun((*adopt.Adoption).Undo, wasUndone)),
		newAdoptMove(a),
	)
}

// adoption is a command on an adoption, with the flags that all of them have.
func (a *app) adoption(use, short, long string, run func(context.Context, *adopt.Adoption) error) *cobra.Command {
	var table audit.Config // the names
	var cfg adopt.Config
	var columns []string
	var fill ledgerFill
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		for _, column := range columns {
			name, kind, found := strings.Cut(column, "=")
			if !found {
				return fmt.Errorf("--add-column is %q; write NAME=TYPE, such as headers=jsonb", column)
			}
			cfg.Add = append(cfg.Add, adopt.Column{Name: name, Type: kind})
		}
		db, err := a.onPostgres(ctx, "adopt is for PostgreSQL: on SQLite, remove the duplicates that audit db shows and create the unique index in one transaction")
		if err != nil {
			return err
		}
		defer db.close()
		if fill.from.Status.Table != "" {
			return fill.run(ctx, a, db, use, table.Schema)
		}
		if cfg.Schema, cfg.Table, err = db.table(ctx, table.Schema, table.Table); err != nil {
			return err
		}
		cfg.Aggregate, cfg.Type, cfg.Time, cfg.Published, cfg.NoPublished = table.Aggregate, table.Type, table.Time, table.Published, table.Published == ""
		cfg.Progress, cfg.Logger = a.steps("rows")
		if use == "plan" && cfg.Show == 0 {
			cfg.Show = -1
		}
		adoption, err := adopt.New(db.pool, cfg)
		if err != nil {
			return err
		}
		return run(ctx, adoption)
	}}
	tableFlags(cmd, &table, "event_outbox")
	flags := cmd.Flags()
	flags.StringArrayVar(&cfg.EventTypes, "event-type", nil, "only types that match this `PATTERN` of SQL's LIKE; may be repeated; default: all types")
	flags.StringArrayVar(&columns, "add-column", nil, "add this column, `NAME=TYPE`, unless it is there; may be repeated")
	flags.IntVar(&cfg.Batch, "batch", 500, "how many aggregates lose their duplicates in one transaction")
	if use == "plan" {
		flags.IntVar(&cfg.Show, "show", 20, "show of the `N` aggregates with the most events which one stays, and why")
	}
	flags.DurationVar(&cfg.LockTimeout, "lock-timeout", 2*time.Second, "how long writers may have to wait for a step")
	fill.flags(cmd)
	return cmd
}

// onPostgres opens the database for a command that is for PostgreSQL only.
func (a *app) onPostgres(ctx context.Context, only string) (*database, error) {
	db, err := a.open(ctx, reads)
	if err == nil && db.pool == nil {
		db.close()
		return nil, errors.New(only)
	}
	return db, err
}

// steps shows steps on a bar, with how many things each has done, or logs them where nobody looks at one.
func (a *app) steps(things string) (func(step string, done int64), *slog.Logger) {
	progress, log := a.progress(), slog.New(slog.DiscardHandler)
	if progress.out == nil {
		log = a.logger(slog.LevelInfo)
	}
	return func(step string, done int64) {
		if done > 0 {
			step = fmt.Sprintf("%s: %d %s", step, done, things)
		}
		progress.busy(step)
	}, log
}

func (a *app) adoptPlan(ctx context.Context, adoption *adopt.Adoption) error {
	plan, err := adoption.Plan(ctx)
	if err != nil {
		return err
	}
	err = a.print(plan, func(w io.Writer) {
		t := newTable()
		t.row("table", plan.Table)
		t.row("rows to remove", plan.Duplicates)
		t.row("of aggregates", plan.Aggregates)
		t.row("published ones", plan.Published)
		t.row("published if", cmp.Or(plan.Condition, "never"))
		t.row("removed before", plan.Removed)
		t.row("backup table", plan.Backup)
		if plan.Step != "" {
			t.row("begun before, at", plan.Step)
		}
		t.write(w)
		fmt.Fprintln(w)
		if len(plan.Steps) == 0 {
			fmt.Fprintln(w, "Nothing is to be done: a unique index is there.")
		}
		for _, step := range plan.Steps {
			fmt.Fprintln(w, step)
		}
		if len(plan.Choices) == 0 {
			return
		}
		fmt.Fprintf(w, "\nWhat stays and what goes, of %d of %d aggregates:\n\n", len(plan.Choices), plan.Aggregates)
		t = newTable("aggregate", "type", "events", "published", "stays", "why", "go")
		for _, c := range plan.Choices {
			gone := strings.Join(c.Go, " ")
			if more := c.Events - 1 - int64(len(c.Go)); more > 0 {
				gone = fmt.Sprintf("%d rows, such as %s", c.Events-1, gone)
			}
			t.row(c.Aggregate, c.Type, c.Events, c.Published, c.Stays, c.Why, gone)
		}
		t.write(w)
	})
	return orFound(err, len(plan.Steps) > 0)
}

// adoptRun is a command that does something to a table, and what it says then.
func (a *app) adoptRun(do func(*adopt.Adoption, context.Context) (*adopt.Result, error), said func(*adopt.Result) string) func(context.Context, *adopt.Adoption) error {
	return func(ctx context.Context, adoption *adopt.Adoption) error {
		result, err := do(adoption, ctx)
		if err != nil {
			return err
		}
		return a.print(result, func(w io.Writer) { fmt.Fprintln(w, said(result)) })
	}
}

func wasAdopted(r *adopt.Result) string {
	return fmt.Sprintf("%s is adopted: %d rows were moved to %s, which has %d now; %d columns were added; a unique index is in place.",
		r.Table, r.Moved, r.Backup, r.Backed, r.Columns)
}

func wasUndone(r *adopt.Result) string {
	return fmt.Sprintf("%s is as it was, but for columns that were added: %d rows were put back, and index %s is gone.", r.Table, r.Moved, r.Index)
}
