package outboxtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
)

// failing is a test that ends at its first failure.
type failing struct {
	testing.TB
	message string
}

func (f *failing) Helper()                  {}
func (f *failing) Context() context.Context { return context.Background() }
func (f *failing) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// transactions begin on new databases.
var transactions = map[string]func(t *testing.T) endstate.Tx{
	"pgx": func(t *testing.T) endstate.Tx {
		tx, err := dbtest.Pool(t).Begin(context.Background())
		require.NoError(t, err)
		return tx
	},
	"sql":    func(t *testing.T) endstate.Tx { return endstate.PostgresTx(begin(t, dbtest.SQL(t))) },
	"sqlite": func(t *testing.T) endstate.Tx { return endstate.SQLiteTx(begin(t, dbtest.SQLite(t))) },
}

func begin(t *testing.T, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.Begin()
	require.NoError(t, err)
	return tx
}

func TestRequirePut(t *testing.T) {
	for name, begin := range transactions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, tx := t.Context(), begin(t)
			t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
			other := outbox.Writer{Table: "other_outbox"}
			require.NoError(t, outbox.Writer{}.Migrate(ctx, tx))
			require.NoError(t, other.Migrate(ctx, tx))
			outboxtest.RequireNotPut(t, tx, outboxtest.Match{})
			require.Equal(t, `outboxtest: no event with type "charged" is in endstate_outbox, which is empty`,
				try(func(t testing.TB) { outboxtest.RequirePut(t, tx, outboxtest.Match{Type: "charged"}) }))

			event := func(kind, aggregate, payload string) outbox.Event {
				return outbox.Event{AggregateType: "order", AggregateID: aggregate, Type: kind, Payload: []byte(payload), DedupKey: kind + aggregate}
			}
			put, err := outbox.Put(ctx, tx, event("charged", "7", `{"credits": 1.50, "to":"a"}`), event("shipped", "7", `{}`), event("charged", "8", `{"credits":2}`))
			require.NoError(t, err)

			type charge struct{ Credits float64 }
			credits := func(n float64) func([]byte) error {
				return outboxtest.JSON(func(c charge) bool { return c.Credits == n })
			}
			for _, m := range []outboxtest.Match{
				{Type: "charged", AggregateID: "7"},
				{DedupKey: "charged7"},
				{AggregateType: "order", Payload: credits(1.5)},
				{Payload: outboxtest.JSONEqual(`{"to":"a", "credits":1.50}`)},
			} {
				got := outboxtest.RequirePut(t, tx, m)
				require.Equal(t, put[0].ID, got.ID)
				require.Equal(t, `{"credits": 1.50, "to":"a"}`, string(got.Payload))
				require.Equal(t, "charged7", got.DedupKey)
				require.False(t, got.OccurredAt.IsZero())
			}
			for _, m := range []outboxtest.Match{
				{Type: "charge"},
				{Type: "shipped", AggregateID: "8"},
				{AggregateType: "batch"},
				{DedupKey: "charged"},
				{Payload: credits(3)},
				{Payload: outboxtest.JSONEqual(`{"to":"a", "credits":1.5}`)},
				{Outbox: other},
			} {
				outboxtest.RequireNotPut(t, tx, m)
			}

			require.Equal(t, `outboxtest: no event with type "charged", the payload asked for is in endstate_outbox, which holds:
  charged  order 7  {"credits": 1.50, "to":"a"}  payload: is another
  shipped  order 7  {}                           type differs
  charged  order 8  {"credits":2}                payload: is another`,
				try(func(t testing.TB) {
					outboxtest.RequirePut(t, tx, outboxtest.Match{Type: "charged", Payload: credits(3)})
				}))
			require.Equal(t, `outboxtest: 2 events with aggregate id "7" are in endstate_outbox, not one:
  charged  order 7  {"credits": 1.50, "to":"a"}
  shipped  order 7  {}`,
				try(func(t testing.TB) { outboxtest.RequirePut(t, tx, outboxtest.Match{AggregateID: "7"}) }))
			require.Equal(t, `outboxtest: an event with type "charged" is in endstate_outbox:
  charged  order 7  {"credits": 1.50, "to":"a"}`,
				try(func(t testing.TB) { outboxtest.RequireNotPut(t, tx, outboxtest.Match{Type: "charged"}) }))
			require.Contains(t, try(func(t testing.TB) {
				outboxtest.RequirePut(t, tx, outboxtest.Match{Payload: func([]byte) error { return errors.New("not mine") }})
			}), "{}                           payload: not mine")
			require.Contains(t, try(func(t testing.TB) {
				outboxtest.RequirePut(t, tx, outboxtest.Match{Outbox: outbox.Writer{Table: "absent"}})
			}), "outboxtest: read absent: ")
		})
	}
}

func TestAFailureShowsSomeOfManyEvents(t *testing.T) {
	tx := transactions["sqlite"](t)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	require.NoError(t, outbox.Writer{}.Migrate(t.Context(), tx))
	events := make([]outbox.Event, 30)
	for i := range events {
		events[i] = outbox.Event{AggregateType: "order", AggregateID: "7", Type: fmt.Sprintf("type-%02d", i), ContentType: "text/plain", Payload: make([]byte, 1000)}
	}
	_, err := outbox.Put(t.Context(), tx, events...)
	require.NoError(t, err)
	message := try(func(t testing.TB) { outboxtest.RequirePut(t, tx, outboxtest.Match{Type: "absent"}) })
	require.Contains(t, message, "\n  type-19  order 7  ")
	require.NotContains(t, message, "type-20")
	require.Contains(t, message, "\n  … and 10 more")
	require.Less(t, len(message), 10_000)
}
