package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/migrations"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// setup is which tables migrate makes, and how.
type setup struct {
	ledger   guard.Ledger
	writer   outbox.Writer
	received inbox.TableConfig
	inbox    string // '' for none

	print       bool
	dir, format string
	dialect     string
}

// newMigrate is the command that creates the library's tables.
func newMigrate(a *app) *cobra.Command {
	var s setup
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create the library's tables, or bring them up to date",
		Long: `Create the library's tables, or bring them up to date: the ledger, the outbox and the inbox.

It may be run any number of times, and by many at once. A service does the same with migrations.Apply, or with
Finalizer.Migrate and inbox.Table's.

--print prints the SQL instead, and needs no database. --dir writes migrations for the tool that a service has: those that the
folder doesn't have yet, as new files with the versions that come next there. What a tool has run, and what this command has
done, each accepts of the other.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case s.print && s.dir != "":
				return errors.New("--print and --dir don't go together")
			case s.dir == "" && s.format != "":
				return errors.New("--format goes with --dir")
			case s.dir != "" && s.format == "":
				return errors.New("--dir needs a --format: goose, golang-migrate or tern")
			case s.dialect != "" && s.dir == "" && !s.print:
				return errors.New("--dialect goes with --print and --dir; else it is the database's")
			case s.print:
				return a.printMigrations(&s)
			case s.dir != "":
				return a.exportMigrations(&s)
			}
			return a.migrate(cmd.Context(), &s)
		},
	}
	cmd.Flags().StringVar(&s.writer.Schema, "schema", "", "the tables' `SCHEMA`, which is made (not by the files of --dir); default: the connection's search path")
	cmd.Flags().StringVar(&s.ledger.Table, "ledger", guard.DefaultLedger, "the ledger's `TABLE`")
	cmd.Flags().StringVar(&s.writer.Table, "outbox", outbox.DefaultTable, "the outbox's `TABLE`")
	cmd.Flags().StringVar(&s.inbox, "inbox", inbox.DefaultTable, "the inbox's `TABLE`, for consumers; '' for none")
	cmd.Flags().BoolVar(&s.print, "print", false, "print the SQL, and touch no database")
	cmd.Flags().StringVar(&s.dir, "dir", "", "write what is new into this `FOLDER` of migrations, and touch no database")
	cmd.Flags().StringVar(&s.format, "format", "", "the folder's `TOOL`: goose, golang-migrate or tern")
	cmd.Flags().StringVar(&s.dialect, "dialect", "", "postgres or sqlite, for --print and --dir; default: what --db names, or postgres")
	return cmd
}

// parts are the tables that the flags name.
func (s *setup) parts() (parts []migrations.Part, tables []string) {
	s.ledger.Schema, s.received.Schema, s.received.Table = s.writer.Schema, s.writer.Schema, s.inbox
	parts, tables = []migrations.Part{s.ledger, s.writer}, []string{s.ledger.Table, s.writer.Table}
	if s.inbox != "" {
		parts, tables = append(parts, s.received), append(tables, s.inbox)
	}
	return parts, tables
}

// dialectOf is the dialect of files: that of the flag, or of the database that is named, which isn't asked.
func (a *app) dialectOf(s *setup) string {
	switch {
	case s.dialect != "":
		return s.dialect
	case a.url == "" || strings.HasPrefix(a.url, "postgres:") || strings.HasPrefix(a.url, "postgresql:"):
		return "postgres"
	}
	return "sqlite"
}

func (a *app) printMigrations(s *setup) error {
	parts, _ := s.parts()
	dialect := a.dialectOf(s)
	text, err := migrations.SQL(dialect, parts...)
	if err != nil {
		return err
	}
	if s.writer.Schema != "" && dialect == "postgres" {
		text = "CREATE SCHEMA IF NOT EXISTS " + pgx.Identifier{s.writer.Schema}.Sanitize() + ";\n\n" + text
	}
	return a.print(struct {
		Dialect string `json:"dialect"`
		SQL     string `json:"sql"`
	}{dialect, text}, func(w io.Writer) { fmt.Fprint(w, text) })
}

func (a *app) exportMigrations(s *setup) error {
	parts, _ := s.parts()
	names, err := migrations.Export(s.dir, migrations.Format(s.format), a.dialectOf(s), parts...)
	if err != nil {
		return err
	}
	return a.print(struct {
		Dir   string   `json:"dir"`
		Files []string `json:"files"`
	}{s.dir, append([]string{}, names...)}, func(w io.Writer) {
		for _, name := range names {
			fmt.Fprintln(w, printable(filepath.Join(s.dir, name)))
		}
		if len(names) == 0 {
			fmt.Fprintf(w, "up to date: %s\n", printable(s.dir))
		}
	})
}

func (a *app) migrate(ctx context.Context, s *setup) error {
	db, err := a.open(ctx, creates)
	if err != nil {
		return err
	}
	defer db.close()
	parts, tables := s.parts()
	if db.pool != nil {
		err = migrations.Apply(ctx, db.pool, parts...)
	} else {
		err = migrations.ApplySQL(ctx, db.sql, db.name(), parts...)
	}
	if err != nil {
		return err
	}
	result := struct {
		Database string   `json:"database"`
		Schema   string   `json:"schema,omitempty"`
		Tables   []string `json:"tables"`
	}{db.name(), s.writer.Schema, tables}
	return a.print(result, func(w io.Writer) {
		fmt.Fprintf(w, "up to date: %s\n", printable(strings.Join(result.Tables, ", ")))
	})
}
