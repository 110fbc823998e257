// Package river is a recipe: a job of River's that finalizes in the transaction that completes the job, and an outcome that
// enqueues one.
package river

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// Complete is the job of a trigger: see to it that a batch is complete.
type Complete struct {
	Batch string `json:"batch"`
}

// Kind implements river.JobArgs.
func (Complete) Kind() string { return "complete_batch" }

// Invoice is the job that follows from a completion: once, since the outcome enqueues it.
type Invoice struct {
	Batch string `json:"batch"`
}

// Kind implements river.JobArgs.
func (Invoice) Kind() string { return "invoice_batch" }

// Completer works Complete jobs. The batch's state, its events, the Invoice job and the end of this job commit together: a worker
// that dies at any point leaves all or nothing of them.
type Completer struct {
	river.WorkerDefaults[Complete]
	Pool *pgxpool.Pool
	Fin  *finalize.Finalizer[pgx.Tx]
	// Ready is the service's own work, in the transaction. It returns finalize.ErrNotReady if it is too early.
	Ready func(ctx context.Context, tx pgx.Tx, batch string) (finalize.Outcome, error)
}

// Work implements river.Worker.
func (w *Completer) Work(ctx context.Context, job *river.Job[Complete]) error {
	client := river.ClientFromContext[pgx.Tx](ctx)
	return pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		trigger := finalize.Trigger(fmt.Sprintf("job %d", job.ID))
		_, err := w.Fin.DoTx(ctx, tx, guard.Text(job.Args.Batch), trigger, func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) {
			outcome, err := w.Ready(ctx, tx, job.Args.Batch)
			if err == nil {
				_, err = client.InsertTx(ctx, tx, Invoice(job.Args), nil)
			}
			return outcome, err
		})
		if err != nil && !errors.Is(err, finalize.ErrNotReady) {
			return err // River tries again
		}
		// Won, lost or too early: the job has done its work. Where nobody else would come, return river.JobSnooze for "too early".
		_, err = river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	})
}
