package finalize_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// F2 and F49 for a group: each of its calls finds out by its own token what became of it.
func TestAGroupsCommitGotNoAnswer(t *testing.T) {
	for _, do := range []pgfault.Action{pgfault.CutBefore, pgfault.CutWhileWorking, pgfault.CutAfterReply, pgfault.HalfOpen} {
		for _, g := range []string{"status", "ledger", "all"} {
			t.Run(do.String()+"/"+g, func(t *testing.T) {
				t.Parallel()
				url := dbtest.Postgres(t)
				proxy := pgfault.New(t, url)
				w := newWorld(t, "pgx", g, url, configured(grouped))
				proxied := connect(t, "pgx", g, proxy.URL(), w.schema, configured(func(c *finalize.Config) {
					if grouped(c); do == pgfault.HalfOpen {
						c.ClaimTimeout = 5 * time.Second // bounds the statement, which has no caller's context
					}
				}))
				keys := ids(8)
				w.open(keys...)
				fault := proxy.Arm(&pgfault.Fault{SQL: "WITH endstate_patience", Do: do})
				receipts, errs, _ := proxied.settleAll(keys, always(completed()))
				fault.RequireFired(t)
				for i, id := range keys {
					require.NoError(t, errs[i])
					require.True(t, receipts[i].Won)
					w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
					lost, err := w.settle(t.Context(), guard.Text(id), "loser", completed())
					require.NoError(t, err)
					requireSameReceipt(t, w, receipts[i], lost)
				}
				require.Len(t, proxied.trace.won, len(keys))
				require.Greater(t, len(proxied.trace.resolving), 1, "those of the group asked")
			})
		}
	}
}

// panicking is a tracer of the pool's that panics once, when a group's statement has done its work.
type panicking struct{ done atomic.Bool }

func (p *panicking) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (p *panicking) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (p *panicking) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {
	if !p.done.Swap(true) {
		panic("tracer")
	}
}

func (p *panicking) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, p, strings.HasPrefix(data.SQL, "WITH endstate_patience"))
}

func (p *panicking) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if ctx.Value(p) == true && !p.done.Swap(true) {
		panic("tracer")
	}
}

// F8: a panic in the leader's goroutine is the leader's. The others find out what became of their calls.
func TestAPanicInAGroup(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	w := newWorld(t, "pgx", "all", url, configured(grouped))
	tracer := new(panicking)
	traced := connect(t, "pgx", "all", url, w.schema, configured(grouped), func(s *setup) { s.tracer = tracer })
	keys := ids(8)
	w.open(keys...)
	errs := make([]error, len(keys))
	receipts := make([]finalize.Receipt, len(keys))
	var panicked atomic.Int32
	var group sync.WaitGroup
	for i, id := range keys {
		group.Go(func() {
			defer func() {
				if recover() != nil {
					panicked.Add(1)
					receipts[i].Won = true
				}
			}()
			receipts[i], errs[i] = traced.settle(t.Context(), guard.Text(id), "sweep", completed())
		})
	}
	group.Wait()
	require.EqualValues(t, 1, panicked.Load())
	for i, id := range keys {
		require.NoError(t, errs[i])
		require.True(t, receipts[i].Won, "%s: nobody else called", id)
		w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
	}
}

// A member whose context ends leaves the queue at once, and a leader's end fails nobody else.
func TestContextsInAGroup(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(12)
		w.open(keys...)
		ctx, cancel := context.WithCancelCause(t.Context())
		var group sync.WaitGroup
		errs := make([]error, len(keys))
		for i, id := range keys {
			group.Go(func() {
				ctx := ctx
				if i%2 == 1 {
					ctx = t.Context()
				}
				_, errs[i] = w.settle(ctx, guard.Text(id), "sweep", completed())
			})
		}
		cancel(errShutdown)
		group.Wait()
		for i, id := range keys {
			switch {
			case i%2 == 1:
				require.NoError(t, errs[i])
				w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
			case errs[i] != nil:
				require.ErrorIs(t, errs[i], errShutdown)
				w.requireOpen(id)
			default:
				w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
			}
		}
	}, on("pgx"), guardedBy("status", "all"), configured(grouped))
}
