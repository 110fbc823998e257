package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/audit"
)

// finding is something that is missing or dangerous.
type finding struct {
	Check string `json:"check"` // which check found it, for --skip
	What  string `json:"what"`
	Why   string `json:"why"`
	Fix   string `json:"fix"` // the statement that fixes it
}

// check is one question that the doctor asks.
type check struct {
	name string
	ask  func(context.Context) ([]finding, error)
}

// doctor looks at one database.
type doctor struct {
	db     *database
	url    string
	ledger guard.Ledger
	writer outbox.Writer
	// table is the outbox of somebody else's that is looked at instead of ours, if foreign.
	table   audit.Config
	foreign bool
	// published is the column that table.Published is about.
	published string

	status    guard.Status // the service's status table, if its Table is set
	terminal  []string     // prefixes of terminal states
	aggregate string       // the status table's aggregate type
	sample    int          // how many rows of each table are compared; 0: all
	listenURL string
}

// newDoctor is the command that says what is missing or dangerous.
func newDoctor(a *app) *cobra.Command {
	d := &doctor{}
	var full bool
	var skip []string
	timeout := 5 * time.Minute
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is missing or dangerous in a live database",
		Long: `Say what is missing or dangerous in a live database, why it matters, and the statement that fixes it.

It looks at the library's outbox and ledger, or, with --table, at another outbox. With --status-table it also compares the
service's own terminal rows with them. It writes nothing; on PostgreSQL it sends one notification, to itself.

Exit status: 0 nothing found, 1 something found, 2 could not look at everything.`,
		Example: `  endstate doctor --status-table batches --status-key id --status-column status --terminal COMPLETE --terminal ERROR --aggregate-type batch
  endstate doctor --table event_outbox`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.foreign = cmd.Flags().Changed("table")
			d.writer.Schema, d.ledger.Schema = d.table.Schema, d.table.Schema
			if d.table.Published != "" {
				var err error
				if d.published, err = audit.PublishedColumn(d.table.Published); err != nil {
					return err
				}
			}
			if full {
				d.sample = 0
			}
			d.status.Terminal = guard.Prefixes(d.terminal...)
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, fmt.Errorf("took longer than --timeout %v", timeout))
			defer cancel()
			err := a.doctor(ctx, d, skip)
			if cause := context.Cause(ctx); err != nil && cause != nil {
				return cause
			}
			return err
		},
	}
	tableFlags(cmd, &d.table, "event_outbox")
	flags := cmd.Flags()
	flags.Lookup("table").Usage = "look at this outbox `TABLE` of somebody else's instead of the library's"
	flags.StringVar(&d.writer.Table, "outbox", outbox.DefaultTable, "the library's outbox `TABLE`")
	flags.StringVar(&d.ledger.Table, "ledger", guard.DefaultLedger, "the ledger's `TABLE`")
	flags.StringVar(&d.status.Schema, "status-schema", "", "the status table's `SCHEMA`")
	flags.StringVar(&d.status.Table, "status-table", "", "the service's `TABLE` with the status column")
	flags.StringVar(&d.status.Key, "status-key", "id", "its key `COLUMN`")
	flags.StringVar(&d.status.Column, "status-column", "status", "its status `COLUMN`")
	flags.StringArrayVar(&d.terminal, "terminal", []string{"COMPLETE", "ERROR"}, "`PREFIX` of terminal states; may be repeated")
	flags.StringVar(&d.aggregate, "aggregate-type", "", "the aggregate's type, `NAME` in finalize.Config.Aggregate; default: the only one there is")
	flags.IntVar(&d.sample, "sample", 10_000, "compare the newest `N` rows of each table")
	flags.BoolVar(&full, "full", false, "compare all rows instead")
	flags.StringVar(&d.listenURL, "listen-url", "", "`URL` that the relay listens on; default: that of --db")
	flags.StringArrayVar(&skip, "skip", nil, "leave this `CHECK` out; may be repeated")
	flags.DurationVar(&timeout, "timeout", timeout, "give up after this time")
	return cmd
}

// checks are those that apply.
func (d *doctor) checks() []check {
	var list []check
	if d.foreign {
		list = append(list, check{"unique-index", d.uniqueIndex}, check{"relay-index", d.relayIndex})
	} else {
		list = append(list, check{"tables", d.tables}, check{"unique-index", d.uniqueIndex}, check{"relay-index", d.relayIndex},
			check{"log", d.log}, check{"dead-events", d.deadEvents}, check{"blocked", d.blockedPartitions}, check{"partitions", d.partitions},
			check{"terminal-without-event", d.terminalWithoutEvent}, check{"event-without-terminal", d.eventWithoutTerminal})
		if d.status.Table != "" {
			list = append(list, check{"status-without-ledger", d.statusWithoutLedger}, check{"ledger-without-status", d.ledgerWithoutStatus})
		}
	}
	if d.status.Table != "" {
		list = append(list, check{"protection", d.protection})
	}
	if d.db.pool != nil {
		list = append(list, check{"autovacuum", d.autovacuum}, check{"clock", d.clock}, check{"listen", d.listen})
	}
	return list
}

func (a *app) doctor(ctx context.Context, d *doctor, skip []string) error {
	var err error
	if d.db, err = a.open(ctx, reads); err != nil {
		return err
	}
	defer d.db.close()
	d.url = a.url
	for _, v := range []interface{ Validate() error }{d.writer, d.ledger} {
		if err := v.Validate(); err != nil {
			return err
		}
	}
	if d.status.Table != "" {
		if err := d.status.Validate(); err != nil {
			return err
		}
	}
	if d.foreign {
		if d.table.Schema, d.table.Table, err = d.db.table(ctx, d.table.Schema, d.table.Table); err != nil {
			return err
		}
	}
	checks := d.checks()
	for _, name := range skip {
		if !slices.ContainsFunc(checks, func(c check) bool { return c.name == name }) {
			return fmt.Errorf("--skip %q is none of the checks: %s", name, strings.Join(checkNames(checks), ", "))
		}
	}
	checks = slices.DeleteFunc(checks, func(c check) bool { return slices.Contains(skip, c.name) })

	report := struct {
		Checks   []string  `json:"checks"`
		Findings []finding `json:"findings"`
	}{checkNames(checks), []finding{}}
	progress := a.progress()
	var errs []error
	for i, c := range checks {
		progress.step(i, len(checks), c.name)
		findings, err := c.ask(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
			continue
		}
		for _, f := range findings {
			f.Check = c.name
			report.Findings = append(report.Findings, f)
		}
		// Where tables are missing, all else would say so again.
		if c.name == "tables" && len(findings) > 0 {
			report.Checks = checkNames(checks[:i+1])
			break
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	err = a.print(report, func(w io.Writer) {
		for _, f := range report.Findings {
			fmt.Fprintf(w, "%s: %s\n", f.Check, indented(f.What))
			fmt.Fprintf(w, "  why  %s\n", indented(f.Why))
			fmt.Fprintf(w, "  fix  %s\n\n", indented(f.Fix))
		}
		fmt.Fprintf(w, "%d findings from %d checks: %s\n", len(report.Findings), len(report.Checks), strings.Join(report.Checks, ", "))
	})
	return orFound(err, len(report.Findings) > 0)
}

func checkNames(checks []check) []string {
	names := make([]string, len(checks))
	for i, c := range checks {
		names[i] = c.name
	}
	return names
}

// indented is a text whose further lines stand below its first.
func indented(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n       ")
}
