package inbox_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

func TestEachWayHandlesAnEventOnce(t *testing.T) {
	eachWay(t, func(t *testing.T, c *consumer, way string) {
		ctx := t.Context()
		e := event()
		handle := c.way(charge)
		r, err := handle(ctx, e)
		require.NoError(t, err)
		require.Equal(t, inbox.Result{Outcome: inbox.Applied, First: e.ID}, r)
		for range 3 {
			r, err = handle(ctx, e)
			require.NoError(t, err)
			require.Equal(t, inbox.Result{Outcome: inbox.Repeated, First: e.ID}, r)
		}
		require.Equal(t, 1, c.credits())
	})
}

// F24: one event is delivered fifty times at once.
func TestFiftyDeliveriesAtOnceHaveOneEffect(t *testing.T) {
	eachWay(t, func(t *testing.T, c *consumer, way string) {
		e := event()
		handle := c.way(charge)
		results := make([]inbox.Result, 50)
		errs := make([]error, 50)
		dbtest.AtOnce(50, func(i int) { results[i], errs[i] = handle(t.Context(), e) })
		applied := 0
		for i := range results {
			require.NoError(t, errs[i])
			require.Equal(t, e.ID, results[i].First)
			if results[i].Outcome == inbox.Applied {
				applied++
			} else {
				require.Equal(t, inbox.Repeated, results[i].Outcome)
			}
		}
		require.Equal(t, 1, applied)
		require.Equal(t, 1, c.credits())
	})
}

// With a wait below zero a second delivery is told to come back; else it waits for the first.
func TestASecondDeliveryWaitsOrIsToldToComeBack(t *testing.T) {
	for _, wait := range []time.Duration{-1, time.Minute} {
		t.Run(wait.String(), func(t *testing.T) {
			for _, way := range []string{"table", "redis"} {
				for _, database := range databases {
					t.Run(way+"/"+database, func(t *testing.T) {
						t.Parallel()
						if way == "table" && database == "sqlite" && wait < 0 {
							return // the busy_timeout decides there: TestABusySQLiteIsInProgress
						}
						c := newConsumer(t, way, database, tableConfig(func(cfg *inbox.TableConfig) { cfg.Wait = wait }), claimsConfig(func(cfg *inbox.ClaimsConfig) { cfg.Wait = wait }))
						e := event()
						inside, finish := make(chan struct{}), make(chan struct{})
						handle := c.way(func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
							close(inside)
							<-finish
							return charge(ctx, tx, event)
						})
						first, second := make(chan error, 1), make(chan inbox.Result, 1)
						go func() {
							_, err := handle(context.Background(), e)
							first <- err
						}()
						<-inside
						if wait < 0 {
							_, err := handle(t.Context(), e)
							require.ErrorIs(t, err, inbox.ErrInProgress)
							close(finish)
						} else {
							go func() {
								r, _ := handle(context.Background(), e)
								second <- r
							}()
							close(finish)
							require.Equal(t, inbox.Repeated, (<-second).Outcome)
						}
						require.NoError(t, <-first)
						require.Equal(t, 1, c.credits())
					})
				}
			}
		})
	}
}

func TestABusySQLiteIsInProgress(t *testing.T) {
	c := newConsumer(t, "table", "sqlite", tableConfig(func(cfg *inbox.TableConfig) { cfg.Wait = -1 }))
	c.sqlDB.SetMaxOpenConns(1)
	_, err := c.sqlDB.Exec("PRAGMA busy_timeout = 1")
	require.NoError(t, err)
	other, err := c.db.Begin()
	require.NoError(t, err)
	_, err = other.Exec(`INSERT INTO batches VALUES ('batch-2', 'PENDING')`)
	require.NoError(t, err)
	e := event()
	_, err = c.way(charge)(t.Context(), e)
	require.ErrorIs(t, err, inbox.ErrInProgress)
	require.NoError(t, other.Rollback())
	r, err := c.way(charge)(t.Context(), e)
	require.NoError(t, err)
	require.Equal(t, inbox.Applied, r.Outcome)
}

// Deliveries that wait hold no connection: others go on with a pool of one.
func TestWaitingDeliveriesLeaveThePoolToOthers(t *testing.T) {
	c := newConsumer(t, "table", "pgx", func(s *setup) { s.maxConns = 2 })
	busy, other := event(), event()
	inside, finish := make(chan struct{}), make(chan struct{})
	handle := c.way(func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
		if event.ID == busy.ID {
			close(inside)
			<-finish
		}
		return charge(ctx, tx, event)
	})
	done := make(chan error, 11)
	deliver := func(e outbox.Event) {
		_, err := handle(context.Background(), e)
		done <- err
	}
	go deliver(busy)
	<-inside
	for range 10 {
		go deliver(busy)
	}
	for range 20 {
		r, err := handle(t.Context(), other)
		require.NoError(t, err)
		require.NotZero(t, r.Outcome)
	}
	close(finish)
	for range 11 {
		require.NoError(t, <-done)
	}
	require.Equal(t, 2, c.credits())
}

func TestEachConsumerHandlesAnEvent(t *testing.T) {
	c := newConsumer(t, "table", "pgx")
	e := event()
	for _, name := range []string{"entitlements", "results", "lifecycle", "results"} {
		table, err := inbox.NewTable(c.pool, &inbox.TableConfig{Consumer: name, Logger: discard()})
		require.NoError(t, err)
		_, err = inbox.Handle(table, func(ctx context.Context, tx pgx.Tx, event outbox.Event) error { return charge(ctx, tx, event) })(t.Context(), e)
		require.NoError(t, err)
	}
	require.Equal(t, 3, c.credits())
}

// What a failed handling wrote is gone, and the next delivery may succeed, whose record is the only one.
func TestAFailureIsRolledBackAndMayBeRepeated(t *testing.T) {
	boom := errors.New("boom")
	eachWay(t, func(t *testing.T, c *consumer, way string) {
		e := event()
		r, err := c.way(func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
			if way == "redis" {
				return boom // there is nothing to roll back
			}
			return errors.Join(charge(ctx, tx, event), boom)
		})(t.Context(), e)
		require.ErrorIs(t, err, boom)
		require.Zero(t, r)
		require.Zero(t, c.credits())
		r, err = c.way(charge)(t.Context(), e)
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, r.Outcome)
		r, err = c.way(charge)(t.Context(), e)
		require.NoError(t, err)
		require.Equal(t, inbox.Repeated, r.Outcome)
		require.Equal(t, 1, c.credits())
		if way == "table" {
			require.Equal(t, 2, c.count(`SELECT attempts FROM endstate_inbox`))
			require.Empty(t, c.text(`SELECT error FROM endstate_inbox`))
		}
	})
}

// F8: a handler panics, or ends its goroutine.
func TestAPanicAndAGoexitGoOnAndLeaveNothing(t *testing.T) {
	eachWay(t, func(t *testing.T, c *consumer, way string) {
		e := event()
		require.PanicsWithValue(t, "boom", func() {
			_, _ = c.way(func(context.Context, endstate.Querier, outbox.Event) error { panic("boom") })(t.Context(), e)
		})
		done := make(chan struct{})
		reached, returned := false, false
		go func() {
			defer close(done)
			_, _ = c.way(func(context.Context, endstate.Querier, outbox.Event) error {
				reached = true
				runtime.Goexit()
				return nil
			})(context.Background(), e)
			returned = true
		}()
		<-done
		require.True(t, reached && !returned, "the goroutine ended in the function")
		if way == "table" {
			require.Equal(t, 2, c.count(`SELECT attempts FROM endstate_inbox WHERE state = 'failed'`))
		}
		r, err := c.way(charge)(t.Context(), e)
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, r.Outcome)
		require.Equal(t, 1, c.credits())
	}, func(s *setup) { s.maxConns = 1 })
}

// A consumer that is being stopped hasn't failed at the event.
func TestAStoppedConsumerCountsNoAttempt(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := c.way(func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		})(ctx, event())
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, c.count(`SELECT count(*) FROM endstate_inbox`))
		require.Zero(t, c.credits())
	})
}

// Cancelled after the function succeeded, before the commit: nothing of it remains.
func TestACancelledContextCommitsNothing(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		ctx, cancel := context.WithCancel(t.Context())
		e := event()
		_, err := c.way(func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
			defer cancel()
			return charge(ctx, tx, event)
		})(ctx, e)
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, c.credits())
		_, err = c.way(charge)(t.Context(), e)
		require.NoError(t, err)
		require.Equal(t, 1, c.credits())
	})
}

func TestTheFunctionCantEndTheTransaction(t *testing.T) {
	c := newConsumer(t, "table", "pgx")
	e := event()
	table, err := inbox.NewTable(c.pool, &inbox.TableConfig{Consumer: "entitlements", Logger: discard()})
	require.NoError(t, err)
	var kept pgx.Tx
	_, err = inbox.Handle(table, func(ctx context.Context, tx pgx.Tx, event outbox.Event) error {
		kept = tx
		require.ErrorIs(t, tx.Commit(ctx), inbox.ErrTxOwned)
		require.ErrorIs(t, tx.Rollback(ctx), inbox.ErrTxOwned)
		_, err := tx.Exec(ctx, "commit")
		return errors.Join(err, charge(ctx, tx, event))
	})(t.Context(), e)
	require.ErrorIs(t, err, inbox.ErrTxEnded)
	require.Error(t, charge(t.Context(), kept, e), "the transaction is over, and its connection another's")
}

func TestInvalidEventsAreRefusedAndNothingIsWritten(t *testing.T) {
	eachWay(t, func(t *testing.T, c *consumer, way string) {
		e := event()
		e.ID = uuid.Nil
		_, err := c.way(charge)(t.Context(), e)
		require.ErrorIs(t, err, inbox.ErrInvalidEvent)
		require.ErrorContains(t, err, "ID is empty")
		require.True(t, inbox.Permanent(err))
		require.Zero(t, c.credits())
	})
	for _, tt := range []struct {
		name, key, want string
		err             error
	}{
		{"empty", "", "is empty", nil},
		{"long", strings.Repeat("k", inbox.MaxKey+1), "is 1001 bytes long, the limit is 1000", nil},
		{"NUL", "a\x00b", "contains a NUL byte", nil},
		{"no text", "a\xff", "is not valid UTF-8", nil},
		{"failed", "", "no batch in the payload", errors.New("no batch in the payload")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := func(outbox.Event) (string, error) { return tt.key, tt.err }
			c := newConsumer(t, "table", "sqlite", tableConfig(func(cfg *inbox.TableConfig) { cfg.Key = key }))
			_, err := c.way(charge)(t.Context(), event())
			require.ErrorIs(t, err, inbox.ErrInvalidEvent)
			require.ErrorContains(t, err, tt.want)
			require.Zero(t, c.count(`SELECT count(*) FROM endstate_inbox`))
			require.Zero(t, c.credits())
		})
	}
}

func TestTheLongestKeyFits(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		e := event()
		for range 2 {
			_, err := c.way(charge)(t.Context(), e)
			require.NoError(t, err)
		}
		require.Equal(t, 1, c.credits())
	}, tableConfig(func(cfg *inbox.TableConfig) {
		cfg.Consumer = strings.Repeat("ü", inbox.MaxConsumer/2)
		cfg.Key = func(e outbox.Event) (string, error) {
			random := strings.ReplaceAll(e.ID.String(), "-", "") // incompressible enough
			return strings.Repeat(random, inbox.MaxKey)[:inbox.MaxKey], nil
		}
	}))
}
