package finalize_test

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// heaviest notes the most bytes that a statement was sent with.
type heaviest struct{ bytes atomic.Int64 }

func (h *heaviest) note(args []any) {
	n := 0
	for _, arg := range args {
		switch arg := arg.(type) {
		case []byte:
			n += len(arg)
		case [][]byte:
			for _, b := range arg {
				n += len(b)
			}
		}
	}
	for {
		most := h.bytes.Load()
		if int64(n) <= most || h.bytes.CompareAndSwap(most, int64(n)) {
			return
		}
	}
}

func (h *heaviest) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	h.note(data.Args)
	return ctx
}
func (h *heaviest) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (h *heaviest) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	n := []any{}
	for _, q := range data.Batch.QueuedQueries {
		n = append(n, q.Arguments...)
	}
	h.note(n)
	return ctx
}
func (h *heaviest) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (h *heaviest) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// An outcome that is longer than a message should be travels in pieces, and is still written as a whole or not at all.
func TestALargeOutcomeTravelsInPieces(t *testing.T) {
	t.Parallel()
	tracer := new(heaviest) // of all worlds
	large := func(n int) finalize.Outcome {
		out := finalize.Outcome{State: "COMPLETE_STABLE"}
		for i := range n {
			payload := append(bytes.Repeat([]byte("x"), 1<<20-2), '"')
			payload[0] = '"'
			out.Events = append(out.Events, outbox.Event{Type: fmt.Sprintf("part%02d", i), Payload: payload})
		}
		return out
	}
	each(t, func(t *testing.T, w *world) {
		key, runs := w.open("b1"), 0
		w.open("b2", "b3")
		_, err := w.do(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			runs++
			out := large(20)
			out.Events[19].DedupKey = "held"
			return out, write(ctx, tx, "b1")
		})
		require.NoError(t, err)
		require.Equal(t, 1, runs)
		require.Len(t, w.events("b1"), 20)
		require.IsNonDecreasing(t, w.events("b1"))
		// A conflict in the last piece undoes the first one.
		out := large(20)
		out.Events[19].DedupKey = "held"
		_, err = w.settle(t.Context(), guard.Text("b2"), "threshold", out)
		require.ErrorIs(t, err, finalize.ErrEventConflict)
		w.requireOpen("b2")
		results, err := w.many(t.Context(), "sweep", []finalize.Item{{Key: guard.Text("b2"), Outcome: large(20)}, {Key: guard.Text("b3"), Outcome: completed()}})
		require.NoError(t, err)
		require.True(t, results[0].Receipt.Won)
		require.True(t, results[1].Receipt.Won)
		require.Zero(t, w.trace.retries())
		require.Empty(t, w.trace.resolving)
		if w.database == "pgx" {
			require.LessOrEqual(t, tracer.bytes.Load(), int64(16<<20))
		}
	}, on("pgx", "sql"), guardedBy("all", "own"), func(s *setup) { s.tracer = tracer })
}
