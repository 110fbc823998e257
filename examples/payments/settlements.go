package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/outbox"
)

// settlements is the service's own door: what settles a payment goes through one of its methods. The rest of the service
// knows it, and nothing of the library.
type settlements struct {
	store    *store
	provider *provider
	door     door
}

// door is what the triggers call of a *finalize.Finalizer[*sql.Tx]: a test puts a script in its place.
type door interface {
	Do(context.Context, guard.Key, finalize.Trigger, finalize.Func[*sql.Tx]) (finalize.Receipt, error)
	DoPrepared(context.Context, guard.Key, finalize.Trigger, func(context.Context) (finalize.Func[*sql.Tx], error)) (finalize.Receipt, error)
	Settle(context.Context, guard.Key, finalize.Trigger, finalize.Outcome) (finalize.Receipt, error)
}

// state is a payment's terminal state.
type state string

const (
	captured state = "CAPTURED" // the money is ours
	declined state = "DECLINED"
	expired  state = "EXPIRED" // we gave up, and have told the customer so
)

// settled is what a method tells: the payment's state, and whether this call brought it there.
type settled struct {
	state state
	byUs  bool
	by    string // who did
}

// errPending is returned when a payment can't be settled yet.
var errPending = errors.New("payments: pending")

// config is how payments are finalized.
func config() *finalize.Config {
	return &finalize.Config{
		Aggregate: "payment",
		Guard: guard.All(
			guard.Status{Table: "payments", Key: "id", Column: "status", Terminal: guard.Names(string(captured), string(declined), string(expired))},
			guard.Ledger{}, // disputes ask who settled a payment, and when
		),
		Lock:   finalize.LockConfig{Locker: lock.NewLocal()}, // spares the provider questions; several processes would share lockredis.New
		Logger: slog.New(slog.DiscardHandler),
	}
}

// newSettlements makes the service's door, and its tables.
func newSettlements(ctx context.Context, s *store, p *provider) (*settlements, error) {
	fin, err := finalize.NewSQL(s.DB, config())
	if err == nil {
		err = fin.Migrate(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &settlements{s, p, fin}, nil
}

// notified is the webhook: the provider says what became of a payment.
func (s *settlements) notified(ctx context.Context, id int64, is state) (settled, error) {
	r, err := s.door.Settle(ctx, guard.Int(id), "webhook", outcome(id, is))
	if err != nil {
		return settled{}, err
	}
	if r.Differs && is == captured {
		// The customer was told that the payment expired, and then paid: the money goes back.
		return told(r), s.refund(ctx, id)
	}
	return told(r), nil
}

// poll asks the provider, which takes long: outside of any transaction, and once where several pollers overlap.
func (s *settlements) poll(ctx context.Context, id int64) (settled, error) {
	r, err := s.door.DoPrepared(ctx, guard.Int(id), "poller", func(ctx context.Context) (finalize.Func[*sql.Tx], error) {
		is, err := s.provider.ask(ctx, id)
		if errors.Is(err, errPending) {
			return nil, finalize.ErrNotReady // the next poll may know more
		}
		if err != nil {
			return nil, err
		}
		return func(context.Context, *sql.Tx) (finalize.Outcome, error) { return outcome(id, is), nil }, nil
	})
	return s.pending(r, err)
}

// expire gives a payment up, if its time is over.
func (s *settlements) expire(ctx context.Context, id int64, now time.Time) (settled, error) {
	r, err := s.door.Do(ctx, guard.Int(id), "timeout", func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
		expires, err := s.store.expires(ctx, tx, id)
		if err != nil {
			return finalize.Outcome{}, err
		}
		if now.Before(expires) {
			return finalize.Outcome{}, finalize.ErrNotReady
		}
		return outcome(id, expired), nil
	})
	return s.pending(r, err)
}

// pending puts "not ready" into the service's own words.
func (s *settlements) pending(r finalize.Receipt, err error) (settled, error) {
	if errors.Is(err, finalize.ErrNotReady) {
		return settled{}, errPending
	}
	return told(r), err
}

// outcome is what settling a payment writes: its state, an event for the shop, and for money that came in a booking, which
// must not be there twice.
func outcome(id int64, is state) finalize.Outcome {
	payload := fmt.Appendf(nil, `{"payment":%d,"status":%q}`, id, is)
	events := []outbox.Event{{Type: "payment.settled", Payload: payload}}
	if is == captured {
		events = append(events, outbox.Event{Type: "ledger.booking", Payload: payload})
	}
	return finalize.Outcome{State: string(is), Events: events}
}

// refund sends late money back. The webhook comes again and again until it is answered, so the event has a dedup key.
func (s *settlements) refund(ctx context.Context, id int64) error {
	return s.store.inTx(ctx, func(tx endstate.Tx) error {
		_, err := outbox.Put(ctx, tx, outbox.Event{
			AggregateType: "payment", AggregateID: fmt.Sprint(id), Type: "payment.refund",
			Payload:  fmt.Appendf(nil, `{"payment":%d}`, id),
			DedupKey: fmt.Sprintf("refund/%d", id),
		})
		return err
	})
}

func told(r finalize.Receipt) settled {
	return settled{state: state(r.State), byUs: r.Won, by: string(r.Trigger)}
}
