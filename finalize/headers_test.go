package finalize_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

type traceKey struct{}

// traced is a context of a trace, as an instrumented caller has one.
func traced(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, traceKey{}, id)
}

// propagating takes the trace from the context into the events' headers.
func propagating(c *finalize.Config) {
	c.CompareEvents = true
	c.Outbox.Headers = func(ctx context.Context) map[string]string {
		if id, ok := ctx.Value(traceKey{}).(string); ok {
			return map[string]string{"traceparent": id}
		}
		return nil
	}
}

func (w *world) requireTrace(key, want string) {
	w.t.Helper()
	rows := w.text("SELECT CAST(headers AS text) FROM endstate_outbox WHERE aggregate_type = $1 AND aggregate_id = $2", aggregate, key)
	require.Len(w.t, rows, 1, key)
	var headers map[string]string
	require.NoError(w.t, json.Unmarshal([]byte(rows[0]), &headers))
	require.Equal(w.t, want, headers["traceparent"], key)
}

// Through every door the events carry the context of the call that won. It is no part of the outcome: whoever comes with the
// same outcome in another trace wanted the same.
func TestEventsCarryTheCallsContext(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.open("do", "dotx", "settle", "many-0", "many-1", "prepared")
		work := func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) { return completed(), nil }
		_, err := w.do(traced(ctx, "of do"), guard.Text("do"), "t", work)
		require.NoError(t, err)
		tx, err := w.begin(ctx, "")
		require.NoError(t, err)
		_, err = tx.doTx(traced(ctx, "of dotx"), guard.Text("dotx"), "t", work)
		require.NoError(t, err)
		require.NoError(t, tx.Commit(ctx))
		_, err = w.settle(traced(ctx, "of settle"), guard.Text("settle"), "t", completed())
		require.NoError(t, err)
		_, err = w.many(traced(ctx, "of many"), "t", items([]string{"many-0", "many-1"}, completed()))
		require.NoError(t, err)
		_, err = w.prepare(traced(ctx, "of prepared"), guard.Text("prepared"), "t", stages{
			Prepare: func(context.Context) (string, error) { return "", nil },
			Commit:  func(ctx context.Context, tx endstate.Tx, _ string) (finalize.Outcome, error) { return completed(), nil },
		})
		require.NoError(t, err)
		for key, trace := range map[string]string{"do": "of do", "dotx": "of dotx", "settle": "of settle", "many-0": "of many", "many-1": "of many", "prepared": "of prepared"} {
			w.requireTrace(key, trace)
			lost, err := w.settle(traced(ctx, "another"), guard.Text(key), "loser", completed())
			require.NoError(t, err)
			require.False(t, lost.Won)
			require.False(t, lost.Differs, "%s: the trace counts as a difference", key)
			if w.hasLedger() {
				other := completed()
				other.Events[0].Headers = map[string]string{"tenant": "7"}
				lost, err = w.settle(ctx, guard.Text(key), "loser", other)
				require.NoError(t, err)
				require.True(t, lost.Differs, "%s: an event's own headers count", key)
			}
		}
	}, configured(propagating))
}

// Whoever adds headers is asked once for a call, however many items it has.
func TestHeadersAreAskedForOnceForAllItems(t *testing.T) {
	t.Parallel()
	type countKey struct{}
	counting := func(c *finalize.Config) {
		c.Outbox.Headers = func(ctx context.Context) map[string]string {
			if asked, ok := ctx.Value(countKey{}).(*int); ok {
				*asked++
			}
			return map[string]string{"traceparent": "one"}
		}
	}
	each(t, func(t *testing.T, w *world) {
		keys, asked := ids(20), 0
		w.open(keys...)
		_, err := w.many(context.WithValue(t.Context(), countKey{}, &asked), "t", items(keys, completed()))
		require.NoError(t, err)
		require.Equal(t, 1, asked)
		for _, key := range keys {
			w.requireTrace(key, "one")
		}
	}, configured(counting))
}

// A group is one statement for calls of many contexts, and each one's events carry its own.
func TestAGroupsEventsCarryTheirOwnContexts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		keys := ids(40)
		w.open(keys...)
		before := w.pool.Stat().AcquireCount()
		var group sync.WaitGroup
		errs := make([]error, len(keys))
		for i, key := range keys {
			group.Go(func() {
				_, errs[i] = w.settle(traced(t.Context(), fmt.Sprint("trace ", i)), guard.Text(key), "t", completed())
			})
		}
		group.Wait()
		require.Less(t, w.pool.Stat().AcquireCount()-before, int64(len(keys)/4), "they went as groups")
		for i, key := range keys {
			require.NoError(t, errs[i])
			w.requireTrace(key, fmt.Sprint("trace ", i))
		}
	}, on("pgx"), guardedBy("status", "ledger", "all"), configured(grouped), configured(propagating))
}

// A sweeper's events carry the context that it runs in.
func TestASweepsEventsCarryItsContext(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.stuck("swept")
		figures := w.newSweeper(completeAny, nil).Sweep(traced(t.Context(), "of the sweep"))
		require.NoError(t, figures.Err)
		require.Equal(t, 1, figures.Won)
		w.requireTrace("swept", "of the sweep")
	}, sweeping(propagating)...)
}
