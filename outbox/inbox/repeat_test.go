package inbox_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// Fifty deliveries of fifty payloads under one id: one has its effect, the others are told.
func TestAnotherPayloadIsToldApartOnTheConflictPathToo(t *testing.T) {
	eachWay(t, func(t *testing.T, c *consumer, way string) {
		base := event()
		handle := c.way(charge)
		errs := make([]error, 50)
		dbtest.AtOnce(50, func(i int) {
			e := base
			e.Payload = []byte(strings.Repeat("x", i))
			_, errs[i] = handle(t.Context(), e)
		})
		applied := 0
		for _, err := range errs {
			if err == nil {
				applied++
				continue
			}
			require.ErrorIs(t, err, inbox.ErrPayloadMismatch)
			require.True(t, inbox.Permanent(err))
		}
		require.Equal(t, 1, applied)
		require.Equal(t, 1, c.credits())
		for _, change := range []func(*outbox.Event){
			func(e *outbox.Event) { e.Payload = []byte("another") },
			func(e *outbox.Event) { e.Type = "another" },
			func(e *outbox.Event) { e.AggregateType = "another" },
		} {
			e := base
			change(&e)
			_, err := handle(t.Context(), e)
			require.ErrorIs(t, err, inbox.ErrPayloadMismatch)
		}
		require.Equal(t, 1, c.credits())
	})
}

func TestTheResultOfTheFirstHandlingIsHandedToRepeats(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		n := 0
		handle := c.table.results(func(ctx context.Context, tx endstate.Querier, event outbox.Event) ([]byte, error) {
			n++
			return []byte{'n', byte(n), 0}, charge(ctx, tx, event)
		})
		e := event()
		for range 3 {
			r, err := handle(t.Context(), e)
			require.NoError(t, err)
			require.Equal(t, []byte{'n', 1, 0}, r.Value)
		}
		require.Equal(t, 1, n)
		require.Equal(t, 1, c.credits())
	})
}

// A producer that announces one thing by several events: the ids differ, and only the business key tells.
func TestABusinessKeyTellsThatTwoIdsMeanTheSame(t *testing.T) {
	byBatch := func(e outbox.Event) (string, error) { return "credit/" + e.AggregateID, nil }
	options := []option{
		tableConfig(func(cfg *inbox.TableConfig) { cfg.Key = byBatch }),
		claimsConfig(func(cfg *inbox.ClaimsConfig) { cfg.Key = byBatch }),
	}
	for _, way := range []string{"table", "redis"} {
		for _, database := range databases {
			t.Run(way+"/"+database, func(t *testing.T) {
				t.Parallel()
				c := newConsumer(t, way, database, options...)
				handle := c.way(charge)
				first, second, third := event(), event(), event()
				third.Payload = []byte(`{"credits":6}`)
				r, err := handle(t.Context(), first)
				require.NoError(t, err)
				require.Equal(t, inbox.Result{Outcome: inbox.Applied, First: first.ID}, r)
				r, err = handle(t.Context(), second)
				require.NoError(t, err)
				require.Equal(t, inbox.Result{Outcome: inbox.Repeated, First: first.ID}, r)
				r, err = handle(t.Context(), third)
				require.NoError(t, err)
				require.Equal(t, inbox.Result{Outcome: inbox.Collided, First: first.ID}, r)
				altered := first
				altered.Payload = third.Payload
				_, err = handle(t.Context(), altered)
				require.ErrorIs(t, err, inbox.ErrPayloadMismatch)
				require.Equal(t, 1, c.credits())
				if way == "table" {
					altered.AggregateID = "batch-2" // and so another key
					_, err = handle(t.Context(), altered)
					require.ErrorIs(t, err, inbox.ErrPayloadMismatch)
					require.Equal(t, 1, c.credits())
				}
			})
		}
	}
}

// One id under many keys at once: the keys' locks differ, and the unique index decides.
func TestOneIdUnderManyKeysHasOneEffect(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		base := event()
		handle := c.way(charge)
		errs := make([]error, 20)
		dbtest.AtOnce(20, func(i int) {
			e := base
			e.AggregateID = strings.Repeat("b", i+1)
			_, errs[i] = handle(t.Context(), e)
		})
		applied := 0
		for _, err := range errs {
			if err == nil {
				applied++
			} else {
				require.ErrorIs(t, err, inbox.ErrPayloadMismatch)
			}
		}
		require.Equal(t, 1, applied)
		require.Equal(t, 1, c.credits())
	}, tableConfig(func(cfg *inbox.TableConfig) {
		cfg.Key = func(e outbox.Event) (string, error) { return "credit/" + e.AggregateID, nil }
	}))
}

// On a server of its own, where nobody else does, the next transaction id tells: whatever writes takes one.
func TestARepeatWritesNothing(t *testing.T) {
	t.Parallel()
	server := dbtest.StartPostgres(t, "autovacuum=off")
	for _, database := range []string{"pgx", "sql"} {
		c := connect(t, "table", database, dbtest.Database(t, server.URL()), "")
		next := func() string { return c.text(`SELECT pg_snapshot_xmax(pg_current_snapshot())::text`) }
		e := event()
		handle := c.way(charge)
		before := next()
		_, err := handle(t.Context(), e)
		require.NoError(t, err)
		after := next()
		require.NotEqual(t, before, after, "the test notices what writes")
		for range 20 {
			_, err := handle(t.Context(), e)
			require.NoError(t, err)
		}
		require.Equal(t, after, next())
	}
}
