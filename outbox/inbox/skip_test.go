package inbox_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// rows is how many records a consumer's way has.
func (c *consumer) rows(way string) int {
	c.t.Helper()
	switch way {
	case "table":
		return c.count(`SELECT count(*) FROM endstate_inbox`)
	case "redis":
		return int(dbtest.RedisOn(c.t, c.redisURL).DBSize(context.Background()).Val())
	}
	return c.count(`SELECT count(*) FROM endstate_ledger`)
}

// A function that has nothing to do with an event says so: whatever it wrote is gone, and so is the inbox's record.
func TestASkippedEventLeavesNothing(t *testing.T) {
	eachWay(t, func(t *testing.T, c *consumer, way string) {
		e := event()
		for range 3 {
			r, err := c.way(func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
				if way != "redis" { // which has no transaction
					require.NoError(t, charge(ctx, tx, event))
				}
				return fmt.Errorf("nothing to charge: %w", inbox.ErrSkip)
			})(t.Context(), e)
			require.NoError(t, err)
			require.Equal(t, inbox.Result{Outcome: inbox.Skipped}, r)
		}
		require.Zero(t, c.credits())
		require.Zero(t, c.rows(way))
		r, err := c.way(charge)(t.Context(), e)
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, r.Outcome, "it was not handled before")
	})
}

// One key for all events of a batch, and a consumer that looks at the type: with Types, the event that comes first and is of
// no concern doesn't take the key from the one that is.
func TestAnEventOfAnotherTypeDoesNotTakeTheKey(t *testing.T) {
	types := []string{"assessment.completed", "refund.*"}
	batch := func(e outbox.Event) (string, error) { return e.AggregateID, nil }
	for _, way := range []string{"table", "redis"} {
		for _, database := range databases {
			t.Run(way+"/"+database, func(t *testing.T) {
				t.Parallel()
				c := newConsumer(t, way, database,
					tableConfig(func(cfg *inbox.TableConfig) { cfg.Types, cfg.Key = types, batch }),
					claimsConfig(func(cfg *inbox.ClaimsConfig) { cfg.Types, cfg.Key = types, batch }))
				for _, other := range []string{"assessment.result", "assessment.completed.v2", "refund", "refunds.made", ""} {
					e := event()
					e.Type = other
					r, err := c.way(charge)(t.Context(), e)
					require.NoError(t, err)
					require.Equal(t, inbox.Result{Outcome: inbox.Skipped}, r, other)
				}
				require.Zero(t, c.rows(way))
				r, err := c.way(charge)(t.Context(), event())
				require.NoError(t, err)
				require.Equal(t, inbox.Applied, r.Outcome)
				family := event()
				family.Type, family.AggregateID = "refund.made", "batch-2"
				r, err = c.way(charge)(t.Context(), family)
				require.NoError(t, err)
				require.Equal(t, inbox.Applied, r.Outcome)
				require.Equal(t, 2, c.credits())
			})
		}
	}
}

func TestAKeyCanSkip(t *testing.T) {
	key := func(e outbox.Event) (string, error) { return "", inbox.ErrSkip }
	for _, way := range []string{"table", "redis"} {
		c := newConsumer(t, way, "sqlite",
			tableConfig(func(cfg *inbox.TableConfig) { cfg.Key = key }), claimsConfig(func(cfg *inbox.ClaimsConfig) { cfg.Key = key }))
		r, err := c.way(charge)(t.Context(), event())
		require.NoError(t, err)
		require.Equal(t, inbox.Result{Outcome: inbox.Skipped}, r)
		require.Zero(t, c.rows(way))
	}
}

func TestTypesAreChecked(t *testing.T) {
	for _, bad := range []string{"", "*", ".*", "a.*.b", "a*"} {
		_, err := inbox.NewTableSQL(dbtest.SQLite(t), &inbox.TableConfig{Consumer: "c", Types: []string{"a", bad}})
		require.ErrorIs(t, err, inbox.ErrConfig)
		require.ErrorContains(t, err, fmt.Sprintf("TableConfig.Types has %q", bad))
	}
}

// Two different events under one key: the second one's effect is lost, and the outcome and the log say so. Of another type, it
// is an error, since the key must have forgotten the type.
func TestTwoDifferentEventsUnderOneKeyAreLoud(t *testing.T) {
	batch := func(e outbox.Event) (string, error) { return e.AggregateID, nil }
	for _, way := range []string{"table", "redis"} {
		for _, database := range databases {
			t.Run(way+"/"+database, func(t *testing.T) {
				t.Parallel()
				var log bytes.Buffer
				logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
				c := newConsumer(t, way, database,
					tableConfig(func(cfg *inbox.TableConfig) { cfg.Key, cfg.Logger = batch, logger }),
					claimsConfig(func(cfg *inbox.ClaimsConfig) { cfg.Key, cfg.Logger = batch, logger }))
				first, repeat, update, other := event(), event(), event(), event()
				update.Payload, other.Type = []byte(`{"credits":6}`), "assessment.result"
				for _, tt := range []struct {
					event outbox.Event
					want  inbox.Outcome
					log   string
				}{
					{first, inbox.Applied, ""},
					{first, inbox.Repeated, ""},
					{repeat, inbox.Repeated, ""}, // another id, but the same content
					{update, inbox.Collided, "level=WARN"},
					{other, inbox.Collided, "level=ERROR"},
				} {
					log.Reset()
					r, err := c.way(charge)(t.Context(), tt.event)
					require.NoError(t, err)
					require.Equal(t, inbox.Result{Outcome: tt.want, First: first.ID}, r)
					if tt.log == "" {
						require.Empty(t, log.String())
						continue
					}
					require.Contains(t, log.String(), tt.log)
					require.Contains(t, log.String(), "first="+first.ID.String())
				}
				require.Contains(t, log.String(), "let Key include the event's type")
				require.Equal(t, 1, c.credits())
			})
		}
	}
}

// A third party's event: its id is no UUID and stands in a header, and what the third party repeats may have changed a little.
func TestEventsOfOthersAreHandledOnceByTheirOwnIDs(t *testing.T) {
	key := func(e outbox.Event) (string, error) { return e.Headers["id"], nil }
	for _, way := range []string{"table", "redis"} {
		for _, database := range databases {
			t.Run(way+"/"+database, func(t *testing.T) {
				t.Parallel()
				c := newConsumer(t, way, database,
					tableConfig(func(cfg *inbox.TableConfig) { cfg.Key, cfg.MaxAttempts = key, 1 }),
					claimsConfig(func(cfg *inbox.ClaimsConfig) { cfg.Key = key }))
				theirs := func(id, payload string) outbox.Event {
					e := event()
					e.ID, e.Headers, e.Payload = uuid.Nil, map[string]string{"id": id}, []byte(payload)
					return e
				}
				var given []outbox.Event
				handle := c.way(func(ctx context.Context, tx endstate.Querier, e outbox.Event) error {
					given = append(given, e)
					return charge(ctx, tx, e)
				})
				for _, tt := range []struct {
					event outbox.Event
					want  inbox.Outcome
				}{
					{theirs("evt_123", `{}`), inbox.Applied},
					{theirs("evt_123", `{}`), inbox.Repeated},
					{theirs("evt_123", `{"pending":1}`), inbox.Collided},
					{theirs("evt_124", `{}`), inbox.Applied},
				} {
					r, err := handle(t.Context(), tt.event)
					require.NoError(t, err)
					require.Equal(t, tt.want, r.Outcome)
					require.Equal(t, given[len(given)-1].ID, r.First)
				}
				require.Len(t, given, 2)
				require.NotEqual(t, uuid.Nil, given[0].ID)
				require.NotEqual(t, given[0].ID, given[1].ID)
				require.Equal(t, 2, c.credits())
				_, err := handle(t.Context(), theirs("", `{}`))
				require.ErrorIs(t, err, inbox.ErrInvalidEvent)
				if way == "table" {
					r, err := c.way(poison)(t.Context(), theirs("evt_125", `{}`))
					require.NoError(t, err)
					require.Equal(t, inbox.DeadLettered, r.Outcome)
					r, err = c.table.retry(t.Context(), "evt_125", charge)
					require.NoError(t, err)
					require.Equal(t, inbox.Applied, r.Outcome)
				}
			})
		}
	}
}
