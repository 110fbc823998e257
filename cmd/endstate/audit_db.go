package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/audit"
)

// newAudit groups the commands that look for duplicates.
func newAudit(a *app) *cobra.Command {
	return group("audit", "Find the duplicates that are there already", newAuditDB(a), newAuditLogs(a))
}

// newAuditDB is the command that counts the duplicates in an outbox table.
func newAuditDB(a *app) *cobra.Command {
	var cfg audit.Config
	var since, until, html string
	cmd := &cobra.Command{
		Use:   "db",
		Short: "Count the duplicates in an outbox table",
		Long: `Count the duplicates in an outbox table, any service's: events of one aggregate and type beyond the first. Without --table
it looks at the library's own.

It only reads, in one read-only transaction of one snapshot and with a timeout, so it may be pointed at production or at a
standby. Names are taken as they are, without quotes; upper case matters.

Exit status: 0 no duplicates, 1 duplicates, 2 could not run to its end.`,
		Example: `  endstate audit db --db postgres://localhost/shop --html report.html
  endstate audit db --table event_outbox --published 'status = SENT' --event-type '%.completed'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Since, err = parseTime("since", since); err != nil {
				return err
			}
			if cfg.Until, err = parseTime("until", until); err != nil {
				return err
			}
			cfg.NoPublished = cfg.Published == ""
			if cfg.Top == 0 {
				cfg.Top = -1
			}
			return a.auditDB(cmd, cfg, html)
		},
	}
	tableFlags(cmd, &cfg, outbox.DefaultTable)
	flags := cmd.Flags()
	flags.StringArrayVar(&cfg.EventTypes, "event-type", nil, "only types that match this `PATTERN` of SQL's LIKE; may be repeated; default: all types")
	flags.StringVar(&since, "since", "", "only events from `TIME` on, as 2006-01-02, RFC 3339, or how long ago (72h)")
	flags.StringVar(&until, "until", "", "only events before `TIME`")
	flags.DurationVar(&cfg.Window, "window", 5*time.Minute, "how near two events are that overlapping triggers have written")
	flags.IntVar(&cfg.Top, "top", 10, "show the worst `N` aggregates")
	flags.DurationVar(&cfg.Timeout, "timeout", 10*time.Minute, "give up after this time")
	flags.StringVar(&html, "html", "", "also write a page with a timeline for each of the worst aggregates to this `FILE`")
	return cmd
}

// tableFlags are the flags that name an outbox table and its columns. The defaults are the names that many services have;
// ownColumns gives the library's outbox its own.
func tableFlags(cmd *cobra.Command, cfg *audit.Config, table string) {
	flags := cmd.Flags()
	flags.StringVar(&cfg.Schema, "schema", "", "the table's `SCHEMA`; default: the connection's search path")
	flags.StringVar(&cfg.Table, "table", table, "the outbox `TABLE`, or SCHEMA.TABLE")
	flags.StringArrayVar(&cfg.Aggregate, "aggregate", []string{"aggregate_id"}, "the `COLUMN` that tells aggregates apart; repeated for several")
	flags.StringVar(&cfg.Type, "type", "event_type", "the `COLUMN` of the event's type")
	flags.StringVar(&cfg.Time, "time", "created_at", "the `COLUMN` of the time when the event was written")
	flags.StringVar(&cfg.Published, "published", "published_at", "what says that an event was published: a `COLUMN` that is NULL or false until then, or a condition, such as 'status = SENT' or 'sent <> 0'; '' for none")
}

// ownColumns are those of the library's outbox, if the table is one and the flags don't say otherwise.
func (db *database) ownColumns(cmd *cobra.Command, cfg *audit.Config) error {
	have, err := db.columns(cmd.Context(), cfg.Schema, cfg.Table)
	if err != nil {
		return err
	}
	for _, column := range []string{"aggregate_type", "aggregate_id", "type", "dedup_key"} {
		if !have[column] {
			return nil
		}
	}
	flags := cmd.Flags()
	if !flags.Changed("aggregate") {
		cfg.Aggregate = []string{"aggregate_type", "aggregate_id"}
	}
	if !flags.Changed("type") {
		cfg.Type = "type"
	}
	if !flags.Changed("published") && !have[cfg.Published] {
		cfg.Published, cfg.NoPublished = "", true
	}
	return nil
}

func (a *app) auditDB(cmd *cobra.Command, cfg audit.Config, html string) error {
	ctx := cmd.Context()
	db, err := a.open(ctx, reads)
	if err != nil {
		return err
	}
	defer db.close()
	if cfg.Schema, cfg.Table, err = db.table(ctx, cfg.Schema, cfg.Table); err != nil {
		return err
	}
	if err := db.ownColumns(cmd, &cfg); err != nil {
		return err
	}
	cfg.Progress = a.progress().step
	report, err := db.audit(ctx, cfg)
	if err != nil {
		return err
	}
	if html != "" {
		var page bytes.Buffer
		if err := auditPage(&page, cfg, report); err != nil {
			return err
		}
		if err := a.writeFile(html, page.Bytes()); err != nil {
			return fmt.Errorf("write %s: %w", html, err)
		}
	}
	return orFound(a.print(report, auditText(cfg, report)), !report.Clean())
}

func (db *database) audit(ctx context.Context, cfg audit.Config) (*audit.Report, error) {
	if db.pool != nil {
		return audit.Run(ctx, db.pool, cfg)
	}
	return audit.RunSQL(ctx, db.sql, cfg)
}

// parseTime reads a flag's time. A date is its midnight in UTC.
func parseTime(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly, time.DateTime} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--%s is %q; write 2006-01-02, 2006-01-02T15:04:05Z, or how long ago, such as 72h", flag, text)
}
