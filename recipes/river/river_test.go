package river_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/recipes/internal/batchtest"
	recipe "github.com/endstate-go/endstate/recipes/river"
)

type invoicer struct {
	river.WorkerDefaults[recipe.Invoice]
}

func (invoicer) Work(context.Context, *river.Job[recipe.Invoice]) error { return nil }

// soon tries a failed job again at once.
type soon struct{}

func (soon) NextRetry(*rivertype.JobRow) time.Time { return time.Now() }

type service struct {
	*batchtest.DB
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx]
	events <-chan *river.Event
}

func start(t *testing.T, db *batchtest.DB, ready func(context.Context, pgx.Tx, string) (finalize.Outcome, error)) *service {
	t.Helper()
	pool := dbtest.PoolOn(t, db.URL)
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	_, err = migrator.Migrate(t.Context(), rivermigrate.DirectionUp, nil)
	require.NoError(t, err)
	fin, err := finalize.New(pool, batchtest.Config())
	require.NoError(t, err)
	workers := river.NewWorkers()
	river.AddWorker(workers, &recipe.Completer{Pool: pool, Fin: fin, Ready: ready})
	river.AddWorker(workers, invoicer{})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 5}},
		Workers:           workers,
		FetchCooldown:     time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
		RetryPolicy:       soon{},
		Logger:            slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	events, cancel := client.Subscribe(river.EventKindJobCompleted, river.EventKindJobFailed)
	t.Cleanup(cancel)
	require.NoError(t, client.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, client.StopAndCancel(context.WithoutCancel(t.Context()))) })
	return &service{db, pool, client, events}
}

// enqueue makes n jobs that all want to complete b1.
func (s *service) enqueue(t *testing.T, n int) {
	t.Helper()
	jobs := make([]river.InsertManyParams, n)
	for i := range jobs {
		jobs[i] = river.InsertManyParams{Args: recipe.Complete{Batch: "b1"}}
	}
	_, err := s.client.InsertMany(t.Context(), jobs)
	require.NoError(t, err)
}

// await waits for jobs of each kind to be completed, and returns how often one failed.
func (s *service) await(t *testing.T, complete map[string]int) (failed int) {
	t.Helper()
	for len(complete) > 0 {
		select {
		case e := <-s.events:
			if e.Kind == river.EventKindJobFailed {
				failed++
				continue
			}
			if complete[e.Job.Kind]--; complete[e.Job.Kind] == 0 {
				delete(complete, e.Job.Kind)
			}
		case <-t.Context().Done():
			t.Fatal("the jobs don't end")
		}
	}
	return failed
}

func (s *service) jobs(t *testing.T, kind string) (n int) {
	t.Helper()
	require.NoError(t, s.pool.QueryRow(t.Context(), "SELECT count(*) FROM river_job WHERE kind = $1", kind).Scan(&n))
	return n
}

func onPostgres(t *testing.T, run func(t *testing.T, db *batchtest.DB)) {
	batchtest.Each(t, func(t *testing.T, db *batchtest.DB) {
		if !db.SQLite {
			run(t, db)
		}
	})
}

func TestFiveJobsOneInvoice(t *testing.T) {
	t.Parallel()
	onPostgres(t, func(t *testing.T, db *batchtest.DB) {
		s := start(t, db, func(context.Context, pgx.Tx, string) (finalize.Outcome, error) { return batchtest.Completed(), nil })
		s.enqueue(t, 5)
		require.Zero(t, s.await(t, map[string]int{"complete_batch": 5, "invoice_batch": 1}))
		s.RequireComplete("")
		require.Equal(t, 1, s.jobs(t, "invoice_batch"))
	})
}

// A job that fails after all its writes leaves none of them, and the next attempt makes them.
func TestAJobThatFails(t *testing.T) {
	t.Parallel()
	onPostgres(t, func(t *testing.T, db *batchtest.DB) {
		var runs atomic.Int32
		s := start(t, db, func(ctx context.Context, tx pgx.Tx, batch string) (finalize.Outcome, error) {
			if _, err := tx.Exec(ctx, "UPDATE batches SET note = note || 'x' WHERE id = $1", batch); err != nil {
				return finalize.Outcome{}, err
			}
			if runs.Add(1) < 3 {
				return finalize.Outcome{}, errors.New("not this time")
			}
			return batchtest.Completed(), nil
		})
		s.enqueue(t, 1)
		require.Equal(t, 2, s.await(t, map[string]int{"complete_batch": 1, "invoice_batch": 1}))
		s.RequireComplete("x")
		require.Equal(t, 1, s.jobs(t, "invoice_batch"))
	})
}

func TestAJobThatIsTooEarly(t *testing.T) {
	t.Parallel()
	onPostgres(t, func(t *testing.T, db *batchtest.DB) {
		s := start(t, db, func(context.Context, pgx.Tx, string) (finalize.Outcome, error) {
			return finalize.Outcome{}, finalize.ErrNotReady
		})
		s.enqueue(t, 1)
		require.Zero(t, s.await(t, map[string]int{"complete_batch": 1}))
		s.RequireOpen()
		require.Zero(t, s.jobs(t, "invoice_batch"))
	})
}
