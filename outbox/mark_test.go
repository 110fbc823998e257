package outbox

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// counted is a transaction that counts its statements.
type counted struct {
	endstate.Tx
	statements *int
}

func (c counted) Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error) {
	*c.statements++
	return c.Tx.Exec(ctx, query, args...)
}

// However many events of a batch failed, SQLite's marks take no more statements: with one for each event, a busy host may
// not be done within the time of a mark, which is then rolled back and begun anew.
func TestSQLiteMarksABatchInFewStatements(t *testing.T) {
	t.Parallel()
	ctx, n := t.Context(), 1000
	db, err := open(dbtest.SQLite(t), "")
	require.NoError(t, err)
	cfg, err := (*RelayConfig)(nil).withDefaults()
	require.NoError(t, err)
	events := make([]Event, n)
	for i := range events {
		events[i] = Event{AggregateType: "order", AggregateID: fmt.Sprint(i / 2), Type: "paid", Payload: []byte("{}")}
	}
	require.NoError(t, db.inTx(ctx, func(tx endstate.Tx) error {
		err := Writer{}.Migrate(ctx, tx)
		_, put := Put(ctx, tx, events...)
		return errors.Join(err, put)
	}))
	statements := 0
	begin := db.begin
	db.begin = func(ctx context.Context) (endstate.Tx, error) {
		tx, err := begin(ctx)
		return counted{tx, &statements}, err
	}
	s := newStore(db, &cfg)
	epoch, err := s.register(ctx, "test", cfg.LeaseTTL)
	require.NoError(t, err)
	require.NoError(t, s.take(ctx, epoch, Shards))

	// The first event of each aggregate fails, of every second one for good; the later ones are held.
	var o outcome
	for seq := int64(1); seq <= int64(n); seq += 2 {
		o.failed = append(o.failed, failure{Seq: seq, Counted: 1, Error: `no "thanks" <é>`, Dead: seq%4 == 1, Delay: 3600.25})
		o.held = append(o.held, seq+1)
	}
	alive, err := s.mark(ctx, epoch, &o)
	require.NoError(t, err)
	require.True(t, alive)
	count := func(condition string) (rows int) {
		require.NoError(t, db.QueryRow(ctx, "SELECT count(*) FROM endstate_outbox WHERE "+condition).Scan(&rows))
		return rows
	}
	failed := `attempts = 1 AND last_error = 'no "thanks" <é>' AND `
	require.Equal(t, n/4, count(failed+"seq % 4 = 1 AND dead_at IS NOT NULL AND next_attempt_at IS NULL"))
	require.Equal(t, n/4, count(failed+"seq % 4 = 3 AND dead_at IS NULL AND julianday(next_attempt_at) - julianday('now') BETWEEN 0.04 AND 0.042"))
	require.Equal(t, n/2, count("seq % 2 = 0 AND attempts = 0 AND next_attempt_at = 'infinity'"))

	// Then each aggregate is done with its first event, and its second one may go.
	o = outcome{}
	for seq := 1; seq <= n; seq += 2 {
		o.promoted = append(o.promoted, aggregate{"order", fmt.Sprint(seq / 2), int64(seq)})
	}
	alive, err = s.mark(ctx, epoch, &o)
	require.NoError(t, err)
	require.True(t, alive)
	require.Equal(t, n/2, count("seq % 2 = 0 AND next_attempt_at < 'infinity'"))
	require.LessOrEqual(t, statements, 8, "statements of two batches")
}

// A mark that waited for the one who gave its event up, taking the relay for dead, says the last word: the event was published.
func TestMarkAfterTheEventWasGivenUp(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool := dbtest.Pool(t)
	db, err := open(pool, "")
	require.NoError(t, err)
	cfg, err := (*RelayConfig)(nil).withDefaults()
	require.NoError(t, err)
	require.NoError(t, db.inTx(ctx, func(tx endstate.Tx) error {
		err := Writer{}.Migrate(ctx, tx)
		_, put := Put(ctx, tx, Event{AggregateType: "order", AggregateID: "1", Type: "paid", Payload: []byte("{}")})
		return errors.Join(err, put)
	}))
	s := newStore(db, &cfg)
	epoch, err := s.register(ctx, "test", cfg.LeaseTTL)
	require.NoError(t, err)
	require.NoError(t, s.take(ctx, epoch, Shards))
	rows, err := s.read(ctx, epoch, reading{lane: ready, limit: 1, perTurn: 1})
	require.NoError(t, err)
	require.Len(t, rows, 1)

	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	_, err = tx.Exec(ctx, "UPDATE endstate_outbox SET crashes = 3, dead_at = clock_timestamp()")
	require.NoError(t, err)
	marked := make(chan error, 1)
	go func() {
		_, err := s.mark(ctx, epoch, &outcome{published: []int64{rows[0].seq}})
		marked <- err
	}()
	require.Eventually(t, func() bool {
		var waits bool
		err := pool.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&waits)
		return err == nil && waits
	}, time.Minute, time.Millisecond, "the mark waits")
	require.NoError(t, tx.Commit(ctx))
	require.NoError(t, <-marked)
	var published, dead bool
	require.NoError(t, pool.QueryRow(ctx, "SELECT published_at IS NOT NULL, dead_at IS NOT NULL FROM endstate_outbox").Scan(&published, &dead))
	require.True(t, published)
	require.False(t, dead)
}
