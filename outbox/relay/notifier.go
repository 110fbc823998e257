package relay

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/outbox"
)

// Notifier wakes relays in other processes that listen (relay.Config.ListenURL), with PostgreSQL's NOTIFY. A NOTIFY inside
// the transaction that writes the events would make all such transactions of the database commit one after the other, so a
// Notifier sends it afterwards, on its own, once for all wake-ups of some milliseconds. It is only a hint: events whose
// wake-up is lost are found by polling.
//
//	notifier, err := relay.NewNotifier(pool, nil)
//	...
//	go notifier.Run(ctx)
//	... &finalize.Trace{Won: func(context.Context, finalize.Call, finalize.Receipt) { notifier.Wake() }}
type Notifier struct {
	store *store
	wake  chan struct{}
}

// coalesce is the shortest time between two notifications.
const coalesce = 5 * time.Millisecond

// NewNotifier returns a Notifier, which begins with Run; a nil cfg is for the default outbox.
func NewNotifier(pool *pgxpool.Pool, cfg *Config) (*Notifier, error) {
	return newNotifier(database{pool: pool}, cfg)
}

// NewNotifierSQL is NewNotifier on database/sql.
func NewNotifierSQL(db *sql.DB, cfg *Config) (*Notifier, error) {
	return newNotifier(database{sql: db}, cfg)
}

func newNotifier(db database, cfg *Config) (*Notifier, error) {
	s, err := newStore(db, cfg)
	if err != nil {
		return nil, err
	}
	if s.sqlite() {
		return nil, fmt.Errorf("%w: SQLite has no NOTIFY; use Relay.Wake", outbox.ErrConfig)
	}
	return &Notifier{s, make(chan struct{}, 1)}, nil
}

// Wake has the relays woken. It never waits, and may be called by any number of goroutines; call it after the commit.
func (n *Notifier) Wake() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run sends the wake-ups until ctx ends, and returns nil.
func (n *Notifier) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.wake:
		}
		sending, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := n.store.notify(sending, "")
		cancel()
		if err != nil && ctx.Err() == nil {
			n.store.cfg.Logger.WarnContext(ctx, "outbox notifier: relays not woken, they find the events by polling", "error", err)
		}
		_ = sleep.For(ctx, coalesce)
	}
}
