package outbox_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
)

type traceKey struct{}

func traced(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, traceKey{}, id)
}

// fromContext is a Writer.Headers.
func fromContext(ctx context.Context) map[string]string {
	id, ok := ctx.Value(traceKey{}).(string)
	if !ok {
		return nil
	}
	return map[string]string{"traceparent": id, "tracestate": "vendor=1"}
}

// A Put's events carry what the context holds, beside headers of their own, which win whatever the case of their names; one
// event as many do, which go another way to the database.
func TestPutAddsTheContextsHeaders(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		w := outbox.Writer{Headers: fromContext}
		for _, n := range []int{1, 3, 40} {
			kind := fmt.Sprint(n, " events")
			var events []outbox.Event
			for range n {
				e := event(kind, "")
				e.Headers = map[string]string{"Traceparent": "its own", "tenant": "7"}
				events = append(events, event(kind+" without", ""), e)
			}
			db.In(t, func(ctx context.Context, tx endstate.Tx) {
				_, err := w.Put(traced(ctx, "trace-1"), tx, events...)
				require.NoError(t, err)
				_, err = w.Put(ctx, tx, event(kind+" untraced", ""))
				require.NoError(t, err)
				for _, e := range outboxtest.Events(t, tx, w) {
					switch e.Type {
					case kind:
						require.Equal(t, map[string]string{"Traceparent": "its own", "tenant": "7", "tracestate": "vendor=1"}, e.Headers)
					case kind + " without":
						require.Equal(t, map[string]string{"traceparent": "trace-1", "tracestate": "vendor=1"}, e.Headers)
					case kind + " untraced":
						require.Empty(t, e.Headers)
					}
				}
			})
			require.Equal(t, map[string]string{"Traceparent": "its own", "tenant": "7"}, events[1].Headers, "the caller's event was changed")
		}
	})
}

// The hook is asked once for a call with events, and not at all without.
func TestTheContextIsAskedOnce(t *testing.T) {
	t.Parallel()
	asked := 0
	w := outbox.Writer{Headers: func(context.Context) map[string]string { asked++; return nil }}
	_, err := w.Prepare(t.Context(), nil)
	require.NoError(t, err)
	require.Zero(t, asked)
	_, err = w.Prepare(t.Context(), []outbox.Event{event("a", ""), event("b", "")})
	require.NoError(t, err)
	require.Equal(t, 1, asked)
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	adding := func(name, value string) outbox.Writer {
		return outbox.Writer{Headers: func(context.Context) map[string]string { return map[string]string{name: value} }}
	}
	e := event("completed", "")
	e.Headers = map[string]string{"h": strings.Repeat("x", outbox.MaxHeaders-1)}
	_, err := outbox.Writer{}.Prepare(t.Context(), []outbox.Event{e})
	require.NoError(t, err)
	for want, bad := range map[string]outbox.Writer{
		"those of Writer.Headers, is 16385 bytes long, the limit is 16384": adding("t", ""),
		"those of Writer.Headers, has a key that is not valid UTF-8":       adding("\xff", ""),
		`those of Writer.Headers, ["t"] contains a NUL byte`:               adding("t", "\x00"),
	} {
		_, err := bad.Put(t.Context(), untouched{t}, e)
		require.ErrorIs(t, err, outbox.ErrInvalidEvent)
		require.ErrorContains(t, err, want)
	}
	e.Headers["h"] += "x"
	_, err = outbox.Put(t.Context(), untouched{t}, e)
	require.ErrorContains(t, err, "Headers is 16385 bytes long, the limit is 16384")

	columns := *theirs.Columns
	columns.Headers = ""
	err = outbox.Writer{Table: "event_outbox", Columns: &columns, Headers: fromContext}.Validate()
	require.ErrorContains(t, err, "Writer.Columns.Headers names no column")
}
