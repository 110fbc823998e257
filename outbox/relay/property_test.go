package relay_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// F35: random transactions (short and long, with savepoints, aborted, prepared, many events at once) beside relays that come and
// go: each committed event is published, those of an aggregate that is locked in commit order, and nothing twice.
func TestRandomTransactions(t *testing.T) {
	t.Parallel()
	server := dbtest.StartPostgres(t)
	db := on(t, server.URL())
	db.Migrate(t, *writer)
	const writers, rounds = 6, 60
	db.counters(t)
	r := &recorder{}
	cfg := quick()
	cfg.BatchSize = 7
	var group sync.WaitGroup
	var prepared atomic.Int64
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for w := range writers {
		group.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(w)))
			for range rounds {
				if !assert.NoError(t, randomTransaction(t.Context(), db.Pool, random, &prepared)) {
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	random := rand.New(rand.NewPCG(seed, writers))
	stops := []func(){run(t, db.relay(t, r, cfg))}
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-time.After(time.Duration(100+random.IntN(200)) * time.Millisecond):
		}
		stops = append(stops, run(t, db.relay(t, r, cfg)))
		if len(stops) > 2 {
			stops[0]()
			stops = stops[1:]
		}
	}
	db.settled(t)
	stored := map[string][]string{}
	for _, e := range db.Stored(t, *writer) {
		stored[e.AggregateID] = append(stored[e.AggregateID], e.Type)
	}
	for id, types := range stored {
		require.Equal(t, types, r.first(id), "aggregate %s, seed %d", id, seed)
	}
	require.Len(t, r.published(), db.Count(t), "each once, seed %d", seed)
	require.Positive(t, prepared.Load(), "seed %d", seed)
}

// aggregates are those of random transactions.
const aggregates = 12

func (db *database) counters(t *testing.T) {
	t.Helper()
	db.Exec(t, "CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL)")
	db.Exec(t, fmt.Sprintf("INSERT INTO counters SELECT n, 0 FROM generate_series(1, %d) n", aggregates))
}

// randomTransaction puts events of some aggregates, and commits, mostly: now and then in two phases, which prepared counts.
func randomTransaction(ctx context.Context, pool *pgxpool.Pool, random *rand.Rand, prepared *atomic.Int64) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	// The aggregate's row is locked, as a guard does: its number is commit order.
	put := func(tx pgx.Tx, id int) error {
		var n int
		if err := tx.QueryRow(ctx, "UPDATE counters SET n = n + 1 WHERE id = $1 RETURNING n", id).Scan(&n); err != nil {
			return err
		}
		var events []outbox.Event
		for i := range 1 + random.IntN(20)/19*30 {
			e := event(fmt.Sprintf("%d/%d", n, i), "")
			e.AggregateID = fmt.Sprint(id)
			events = append(events, e)
		}
		_, err := outbox.Put(ctx, tx, events...)
		return err
	}
	if random.IntN(3) == 0 { // it has its id long before
		if _, err := tx.Exec(ctx, "SELECT pg_current_xact_id()"); err != nil {
			return err
		}
	}
	first := 1 + random.IntN(aggregates)
	for id := first; id <= min(aggregates, first+random.IntN(3)); id++ { // in one order: no deadlocks
		if random.IntN(3) > 0 {
			if err := put(tx, id); err != nil {
				return err
			}
			continue
		}
		savepoint, err := tx.Begin(ctx)
		if err == nil {
			err = put(savepoint, id)
		}
		if err != nil {
			return err
		}
		if random.IntN(2) == 0 {
			err = savepoint.Commit(ctx)
		} else {
			err = savepoint.Rollback(ctx)
		}
		if err != nil {
			return err
		}
	}
	time.Sleep(time.Duration(random.IntN(4)) * time.Duration(random.IntN(10)) * time.Millisecond) // a long one now and then
	switch random.IntN(8) {
	case 0:
		return tx.Rollback(ctx)
	case 1:
		name := "'" + uuid.NewString() + "'"
		if _, err := tx.Exec(ctx, "PREPARE TRANSACTION "+name); err != nil {
			return err
		}
		_ = tx.Rollback(ctx)
		time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
		if _, err := pool.Exec(ctx, "COMMIT PREPARED "+name); err != nil {
			return err
		}
		prepared.Add(1)
		return nil
	}
	return tx.Commit(ctx)
}

// F35: a long transaction delays nobody, and more than 64 savepoints, which overflow what the server keeps of each backend.
func TestManySavepoints(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.Migrate(t, *writer)
	ctx := t.Context()
	r := &recorder{}
	run(t, db.relay(t, r, quick()))
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	for i := range 200 {
		savepoint, err := tx.Begin(ctx)
		require.NoError(t, err)
		_, err = outbox.Put(ctx, savepoint, event(fmt.Sprint(i), ""))
		require.NoError(t, err)
		require.NoError(t, savepoint.Commit(ctx))
	}
	for i := range 10 {
		e := event(fmt.Sprint(i), "")
		e.AggregateID = "other"
		db.Put(t, e)
		eventually(t, "others don't wait", func() bool { return len(r.published()) == i+1 })
	}
	require.NoError(t, tx.Commit(ctx))
	eventually(t, "all", func() bool { return len(r.published()) == 210 })
	require.Equal(t, numbered(200), r.first("b1"))
}
