package main

import (
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/finalize/finalizetest"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox/relay"
)

// The tests of the triggers: on a real door, in memory, whose answers a script may take over.
type unit struct {
	*settlements
	script *finalizetest.Script[*sql.Tx]
	now    time.Time
}

// newUnit opens payments 1 to 3; the time of the third is over.
func newUnit(t *testing.T) *unit {
	t.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	db.SetMaxOpenConns(1) // another connection would have a database of its own
	s := &store{DB: db}
	require.NoError(t, s.create(t.Context()))
	now := time.Now()
	require.NoError(t, s.open(t.Context(), 3, now))
	script := finalizetest.NewScript(t, finalizetest.New(t, db, config()))
	return &unit{&settlements{s, &provider{}, script}, script, now}
}

func (u *unit) requireEvents(t *testing.T, id int64, types ...string) {
	t.Helper()
	finalizetest.RequireEvents(t, u.store.DB, "payment", guard.Int(id), types...)
}

func TestALateCaptureIsRefundedOnce(t *testing.T) {
	t.Parallel()
	u := newUnit(t)
	_, err := u.expire(t.Context(), 1, u.now)
	require.ErrorIs(t, err, errPending, "there is an hour left")
	got, err := u.expire(t.Context(), 3, u.now)
	require.NoError(t, err)
	require.Equal(t, settled{expired, true, "timeout"}, got)
	for range 3 {
		got, err = u.notified(t.Context(), 3, captured)
		require.NoError(t, err)
		require.Equal(t, settled{expired, false, "timeout"}, got)
	}
	u.requireEvents(t, 3, "payment.settled", "payment.refund")
	got, err = u.poll(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, settled{captured, true, "poller"}, got)
	u.requireEvents(t, 1, "payment.settled", "ledger.booking")
	u.requireEvents(t, 2)

	r, err := u.store.report(t.Context(), &calls{})
	require.NoError(t, err)
	require.Equal(t, []payment{{1, "CAPTURED", "poller", 1, 1, 0}, {2, "PENDING", "", 0, 0, 0}, {3, "EXPIRED", "timeout", 1, 0, 1}}, r.Payments)
	require.Equal(t, []string{"payment 2 was settled 0 times"}, r.wrong())
}

func TestAWebhookThatLoses(t *testing.T) {
	t.Parallel()
	u := newUnit(t)
	u.script.Then(finalizetest.Lose(string(declined), "poller"))
	got, err := u.notified(t.Context(), 1, declined)
	require.NoError(t, err)
	require.Equal(t, settled{declined, false, "poller"}, got)
	u.requireEvents(t, 1)
}

// What the provider's webhook is answered when we don't know: an error, upon which it comes again.
func TestAWebhookThatComesAgain(t *testing.T) {
	t.Parallel()
	u := newUnit(t)
	u.script.Then(finalizetest.Busy(), finalizetest.UnknownAfter())
	_, err := u.notified(t.Context(), 1, captured)
	require.ErrorIs(t, err, finalize.ErrBusy)
	_, err = u.notified(t.Context(), 1, captured)
	require.ErrorIs(t, err, finalize.ErrOutcomeUnknown)
	got, err := u.notified(t.Context(), 1, captured)
	require.NoError(t, err)
	require.Equal(t, settled{captured, false, "webhook"}, got)
	u.requireEvents(t, 1, "payment.settled", "ledger.booking")
	require.Equal(t, []string{`Settle of 1 by "webhook"`, `Settle of 1 by "webhook"`, `Settle of 1 by "webhook"`}, u.script.Calls())
}

func TestABookingThatIsThere(t *testing.T) {
	t.Parallel()
	u := newUnit(t)
	u.script.Then(finalizetest.Conflict("ledger.booking"))
	_, err := u.poll(t.Context(), 1)
	require.ErrorIs(t, err, finalize.ErrEventConflict)
	u.requireEvents(t, 1)
}

func TestTheShopHearsOfASettlement(t *testing.T) {
	t.Parallel()
	u := newUnit(t)
	shop := finalizetest.Subscribe(t, u.store.DB, &relay.Config{Subscription: "shop", Types: []string{"payment.*"}})
	_, err := u.notified(t.Context(), 2, captured)
	require.NoError(t, err)
	heard := shop.Wait(t, 1)
	require.Len(t, heard, 1, "and of no booking")
	require.Equal(t, "payment.settled", heard[0].Type)
	require.JSONEq(t, `{"payment": 2, "status": "CAPTURED"}`, string(heard[0].Payload))
}
