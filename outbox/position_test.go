package outbox

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// While a backlog is published, an event that was written early and is committed late goes out before those of its aggregate
// that came after it, though the relay has come past its number: nobody reads from where it came to before all has ended that
// may lie there.
func TestALateCommitKeepsItsOrder(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool := dbtest.Pool(t)
	db, err := open(pool, "")
	require.NoError(t, err)
	cfg, err := (&RelayConfig{BatchSize: 64}).withDefaults()
	require.NoError(t, err)
	numbered := func(aggregate string, n int) (events []Event) {
		for i := range n {
			events = append(events, Event{AggregateType: "order", AggregateID: fmt.Sprint(aggregate, i), Type: "paid", Payload: []byte("{}")})
		}
		return events
	}
	put := func(events ...Event) {
		require.NoError(t, db.inTx(ctx, func(tx sqltx.Tx) error {
			_, err := Put(ctx, tx, events...)
			return err
		}))
	}
	require.NoError(t, db.inTx(ctx, func(tx sqltx.Tx) error { return Writer{}.Migrate(ctx, tx) }))

	r := &Relay{db: db, store: newStore(db, &cfg), cfg: cfg}
	epoch, err := r.store.register(ctx, "test", cfg.LeaseTTL)
	require.NoError(t, err)
	require.NoError(t, r.store.take(ctx, epoch, Shards))
	relay := &term{Relay: r, owned: Shards, limit: cfg.BatchSize}
	var published []string
	lanes := map[lane]int{}
	publish := func() { // a batch, as term.batch does it
		q := relay.reading(ready)
		rows, err := r.store.read(ctx, epoch, q)
		require.NoError(t, err)
		require.NotEmpty(t, rows)
		lanes[q.lane]++
		o := &outcome{}
		for _, row := range rows {
			o.published = append(o.published, row.seq)
			published = append(published, row.AggregateID+" "+row.Type)
		}
		alive, err := r.store.mark(ctx, epoch, o)
		require.NoError(t, err)
		require.True(t, alive)
		relay.follow(rows, q, 0, true)
	}
	first := Event{AggregateType: "order", AggregateID: "late", Type: "first", Payload: []byte("{}")}
	second := first
	second.Type = "second"

	late, err := pool.BeginTx(ctx, pgx.TxOptions{})
	require.NoError(t, err)
	_, err = late.Exec(ctx, "SELECT pg_current_xact_id()") // as whoever locks the aggregate's row
	require.NoError(t, err)
	put(numbered("before ", 100)...)
	_, err = Put(ctx, late, first)
	require.NoError(t, err)
	put(numbered("after ", 1000)...)
	for range 8 {
		publish()
		relay.position.lasts = time.Hour // until it begins at the start again
	}
	require.Equal(t, map[lane]int{ready: 1, next: 7}, lanes)
	require.NotContains(t, published, "late first")
	require.NoError(t, late.Commit(ctx))
	put(second)
	for slices.Index(published, "late second") < 0 {
		publish()
	}
	require.Less(t, slices.Index(published, "late first"), slices.Index(published, "late second"))
	require.Positive(t, slices.Index(published, "late first"))
	require.Equal(t, 1, lanes[ready], "it was found on the way")

	// When all have ended that were under way on the server, other tests' too, readings begin where earlier ones ended.
	held := relay.position.reach
	relay.position.rewind()
	for deadline := time.Now().Add(2 * time.Minute); relay.position.begin <= held; {
		require.True(t, time.Now().Before(deadline), "the position follows")
		put(numbered(fmt.Sprint("more ", len(published), " "), cfg.BatchSize)...)
		publish()
	}
	require.Equal(t, len(published), len(slices.Compact(slices.Sorted(slices.Values(published)))), "nothing twice")
	require.NoError(t, r.store.release(ctx, epoch))
}
