package finalize_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// afterQuery calls what it was given once, at the end of the next query.
type afterQuery struct{ atomic.Pointer[func()] }

func (*afterQuery) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (q *afterQuery) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {
	if f := q.Swap(nil); f != nil {
		(*f)()
	}
}

// A call whose context ends just as its look has come back says so, or tells the truth: it has no receipt of nothing, and none is
// remembered (F7).
func TestAContextThatEndsOnceACallHasLooked(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := dbtest.Postgres(t)
	direct := dbtest.PoolOn(t, url)
	_, err := direct.Exec(ctx, `CREATE TABLE batches (id text PRIMARY KEY, status text, note text); INSERT INTO batches SELECT n, 'PENDING' FROM generate_series(1, 100) n`)
	require.NoError(t, err)
	tracer := &afterQuery{}
	pool := dbtest.PoolOn(t, url, unpinged, func(c *pgxpool.Config) { c.ConnConfig.Tracer = tracer })
	newFinalizer := func() *finalize.Finalizer[pgx.Tx] {
		fin, err := finalize.New(pool, &finalize.Config{Aggregate: "batch", Guard: guard.All(statusGuard(), guard.Ledger{}), Logger: discard()})
		require.NoError(t, err)
		require.NoError(t, fin.Migrate(ctx))
		return fin
	}
	settle := func(ctx context.Context, fin *finalize.Finalizer[pgx.Tx], n int) (finalize.Receipt, error) {
		return fin.Settle(ctx, guard.Text(strconv.Itoa(n)), "caller", finalize.Outcome{State: "COMPLETE"})
	}
	other, fin := newFinalizer(), newFinalizer()
	for n := range 30 {
		r, err := settle(ctx, other, 10+n)
		require.NoError(t, err)
		require.True(t, r.Won)
		r, err = settle(ctx, fin, 10+n)
		require.NoError(t, err)
		require.False(t, r.Won)
	}

	endsOnceItLooked := func() context.Context {
		ctx, cancel := context.WithCancel(ctx)
		t.Cleanup(cancel)
		f := func() { cancel() }
		tracer.Store(&f)
		return ctx
	}
	_, err = settle(endsOnceItLooked(), fin, 1) // which is open
	require.ErrorIs(t, err, context.Canceled)
	r, err := settle(ctx, fin, 1)
	require.NoError(t, err)
	require.True(t, r.Won, "%+v", r)

	won, err := settle(ctx, other, 2)
	require.NoError(t, err)
	ended := endsOnceItLooked()
	r, err = settle(ended, fin, 2)
	require.NoError(t, err, "what was read is true")
	require.Error(t, ended.Err(), "the fault fired")
	won.Won = false
	require.Equal(t, won, r)
}
