package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// completed is an event as a job of River's.
type completed struct {
	Batch  int64  `json:"batch"`
	Status string `json:"status"`
	Essays int    `json:"essays"`
}

func (completed) Kind() string { return eventType }

type riverPeer struct {
	*bencher
	client *river.Client[pgx.Tx]
}

func newRiver(ctx context.Context, b *bencher) (*riverPeer, error) {
	driver := riverpgxv5.New(b.pool)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	client, err := river.NewClient(driver, &river.Config{Logger: slog.New(slog.DiscardHandler)})
	return &riverPeer{b, client}, err
}

// finalize is the update with River's transactional insert of a unique job in the place of the outbox.
func (r *riverPeer) finalize(ctx context.Context, n int64) error {
	return pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE batches SET status = $2 WHERE id = $1 AND `+open, r.id(n), state)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errLost
		}
		inserted, err := r.client.InsertTx(ctx, tx, completed{r.id(n), state, 42}, &river.InsertOpts{Metadata: []byte(headers), UniqueOpts: river.UniqueOpts{ByArgs: true}})
		if err == nil && inserted.UniqueSkippedAsDuplicate {
			return errLost
		}
		return err
	})
}

type noWork struct {
	river.WorkerDefaults[completed]
	count *counter
}

func (w *noWork) Work(context.Context, *river.Job[completed]) error {
	w.count.add(1)
	return nil
}

// drain works jobs off with a worker that does nothing.
func (r *riverPeer) drain(events int) way {
	return func(ctx context.Context) (sample, error) {
		if _, err := r.pool.Exec(ctx, "TRUNCATE river_job"); err != nil {
			return sample{}, err
		}
		const chunk = 5000
		for inserted := 0; inserted < events; inserted += chunk {
			jobs := make([]river.InsertManyParams, chunk)
			for i := range jobs {
				jobs[i] = river.InsertManyParams{Args: completed{int64(inserted + i), state, 42}, InsertOpts: &river.InsertOpts{Metadata: []byte(headers)}}
			}
			if _, err := r.client.InsertManyFast(ctx, jobs); err != nil {
				return sample{}, err
			}
		}
		if _, err := r.pool.Exec(ctx, "VACUUM ANALYZE river_job"); err != nil {
			return sample{}, err
		}
		count := newCounter(events)
		workers := river.NewWorkers()
		river.AddWorker(workers, &noWork{count: count})
		client, err := river.NewClient(riverpgxv5.New(r.pool), &river.Config{
			Logger: slog.New(slog.DiscardHandler), Workers: workers,
			FetchCooldown: time.Millisecond, FetchPollInterval: 50 * time.Millisecond,
			Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2000}},
		})
		if err != nil {
			return sample{}, err
		}
		s, err := r.sample(ctx, func() (float64, error) {
			if err := client.Start(ctx); err != nil {
				return 0, err
			}
			return float64(events), count.wait(ctx)
		})
		return s, errors.Join(err, client.Stop(ctx))
	}
}
