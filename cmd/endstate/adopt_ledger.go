package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/guard"
)

// ledgerFill fills a ledger from the rows of a status table that were terminal before it was there.
type ledgerFill struct {
	ledger   guard.Ledger
	from     guard.Backfill
	terminal []string
}

// flags are those that make adopt work on the ledger.
func (f *ledgerFill) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.from.Status.Table, "ledger-from", "", "fill the ledger from this status `TABLE`'s terminal rows, instead of adopting an outbox")
	flags.StringVar(&f.from.Status.Key, "status-key", "id", "with --ledger-from: its key `COLUMN`")
	flags.StringVar(&f.from.Status.Column, "status-column", "status", "with --ledger-from: its status `COLUMN`")
	flags.StringArrayVar(&f.terminal, "terminal", []string{"COMPLETE", "ERROR"}, "with --ledger-from: `PREFIX` of terminal states; may be repeated")
	flags.StringVar(&f.from.At, "terminal-at", "", "with --ledger-from: the `COLUMN` of when a row became terminal; default: now")
	flags.StringVar(&f.from.Aggregate, "aggregate-type", "", "with --ledger-from: the aggregate's type, `NAME` in finalize.Config.Aggregate; required")
	flags.StringVar(&f.ledger.Table, "ledger", guard.DefaultLedger, "with --ledger-from: the ledger's `TABLE`")
}

// fillResult is what was, or would be, done to a ledger.
type fillResult struct {
	Ledger  string `json:"ledger"`
	Rows    int64  `json:"terminal_rows"`
	Filled  int64  `json:"filled"` // entries made, that plan would have made, or that undo took back
	Refused int64  `json:"refused"`
}

// run does what use says: plan, apply or undo.
func (f *ledgerFill) run(ctx context.Context, a *app, db *database, use, schema string) error {
	f.from.Status.Schema, f.ledger.Schema = schema, schema
	f.from.Status.Terminal = guard.Prefixes(f.terminal...)
	if f.from.Aggregate == "" {
		return errors.New("--ledger-from needs --aggregate-type, the name in finalize.Config.Aggregate")
	}
	progress := a.progress()
	result := fillResult{Ledger: quote(f.ledger.Schema, f.ledger.Table)}
	if use == "undo" {
		return f.undo(ctx, a, db, progress, result)
	}
	for {
		var batch guard.BackfillResult
		planned := errors.New("planned")
		err := pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
			if batch, err = f.ledger.Backfill(ctx, tx, f.from); err == nil && use == "plan" {
				return planned // and so rolled back
			}
			return err
		})
		if err != nil && !errors.Is(err, planned) {
			return err
		}
		result.Rows, result.Filled, result.Refused = result.Rows+batch.Rows, result.Filled+batch.Filled, result.Refused+batch.Refused
		progress.busy(fmt.Sprintf("%d terminal rows", result.Rows))
		if f.from.After = batch.Next; batch.Next == nil {
			break
		}
	}
	did := "were filled in"
	if use == "plan" {
		did = "are to be filled in"
	}
	err := a.print(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s: of %d terminal rows %d %s; the others have an entry, but for %d whose key can't be one.\n",
			result.Ledger, result.Rows, result.Filled, did, result.Refused)
	})
	return orFound(err, use == "plan" && result.Filled > 0)
}

// undo takes back the entries that apply made.
func (f *ledgerFill) undo(ctx context.Context, a *app, db *database, progress *progress, result fillResult) error {
	for {
		tag, err := db.pool.Exec(ctx, fmt.Sprintf(`DELETE FROM %[1]s WHERE ctid = ANY (ARRAY(SELECT ctid FROM %[1]s WHERE aggregate = $1::text AND "trigger" = $2::text LIMIT 1000))`,
			result.Ledger), f.from.Aggregate, guard.BackfillTrigger)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			break
		}
		result.Filled += tag.RowsAffected()
		progress.busy(fmt.Sprintf("%d entries taken back", result.Filled))
	}
	return a.print(result, func(w io.Writer) { fmt.Fprintf(w, "%s: %d entries were taken back.\n", result.Ledger, result.Filled) })
}
