package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// newMigrate is the command that creates the library's tables.
func newMigrate(a *app) *cobra.Command {
	ledger, writer := guard.Ledger{}, outbox.Writer{}
	var received string
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create the library's tables, or bring them up to date",
		Long: `Create the library's tables, or bring them up to date: the ledger, the outbox and the inbox.

It may be run any number of times, and by many at once. A service does the same with Finalizer.Migrate and inbox.Table's.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ledger.Schema = writer.Schema
			return a.migrate(cmd.Context(), ledger, writer, received)
		},
	}
	cmd.Flags().StringVar(&writer.Schema, "schema", "", "the tables' `SCHEMA`, which is made; default: the connection's search path")
	cmd.Flags().StringVar(&ledger.Table, "ledger", guard.DefaultLedger, "the ledger's `TABLE`")
	cmd.Flags().StringVar(&writer.Table, "outbox", outbox.DefaultTable, "the outbox's `TABLE`")
	cmd.Flags().StringVar(&received, "inbox", inbox.DefaultTable, "the inbox's `TABLE`, for consumers; '' for none")
	return cmd
}

func (a *app) migrate(ctx context.Context, ledger guard.Ledger, writer outbox.Writer, received string) error {
	db, err := a.open(ctx, creates)
	if err != nil {
		return err
	}
	defer db.close()
	// A finalizer applies two of them, and runs its transaction again where the database is busy.
	cfg := &finalize.Config{Aggregate: "none", Guard: ledger, Outbox: writer, Logger: slog.New(slog.DiscardHandler)}
	inboxCfg := &inbox.TableConfig{Consumer: "none", Schema: writer.Schema, Table: received, Logger: cfg.Logger}
	var fin, in interface{ Migrate(context.Context) error }
	var err2 error
	if db.pool != nil {
		fin, err = finalize.New(db.pool, cfg)
		in, err2 = inbox.NewTable(db.pool, inboxCfg)
	} else {
		fin, err = finalize.NewSQL(db.sql, cfg)
		in, err2 = inbox.NewTableSQL(db.sql, inboxCfg)
	}
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if err := fin.Migrate(ctx); err != nil {
		return err
	}
	tables := []string{ledger.Table, writer.Table}
	if received != "" {
		if err := in.Migrate(ctx); err != nil {
			return err
		}
		tables = append(tables, received)
	}
	result := struct {
		Database string   `json:"database"`
		Schema   string   `json:"schema,omitempty"`
		Tables   []string `json:"tables"`
	}{db.name(), writer.Schema, tables}
	return a.print(result, func(w io.Writer) {
		fmt.Fprintf(w, "up to date: %s\n", printable(strings.Join(result.Tables, ", ")))
	})
}
