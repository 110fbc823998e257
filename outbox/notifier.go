package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/endstate-go/endstate/internal/sleep"
)

// Notifier wakes relays in other processes that listen (RelayConfig.ListenURL), with PostgreSQL's NOTIFY. A NOTIFY inside
// the transaction that writes the events would make all such transactions of the database commit one after the other, so a
// Notifier sends it afterwards, on its own, once for all wake-ups of some milliseconds. It is only a hint: events whose
// wake-up is lost are found by polling.
//
//	notifier, err := outbox.NewNotifier(pool, nil)
//	...
//	go notifier.Run(ctx)
//	... &finalize.Trace{Won: func(context.Context, finalize.Call, finalize.Receipt) { notifier.Wake() }}
type Notifier struct {
	db      database
	channel string
	logger  *slog.Logger
	wake    chan struct{}
}

// NotifierConfig says which outbox's relays a Notifier wakes.
type NotifierConfig struct {
	// Outbox names the table. The zero Writer is endstate_outbox.
	Outbox Writer
	// Dialect is "postgres", or empty: told by the driver.
	Dialect string
	// Logger gets a line at warn level when a notification couldn't be sent. Default slog.Default().
	Logger *slog.Logger
}

// coalesce is the shortest time between two notifications.
const coalesce = 5 * time.Millisecond

// NewNotifier returns a Notifier, which begins with Run; a nil cfg is for the default outbox.
func NewNotifier[DB Database](db DB, cfg *NotifierConfig) (*Notifier, error) {
	if cfg == nil {
		cfg = &NotifierConfig{}
	}
	if err := cfg.Outbox.validateOwn(); err != nil {
		return nil, err
	}
	opened, err := open(db, cfg.Dialect)
	if err != nil {
		return nil, err
	}
	if opened.sqlite() {
		return nil, fmt.Errorf("%w: SQLite has no NOTIFY; use Relay.Wake", ErrConfig)
	}
	n := &Notifier{db: opened, channel: cfg.Outbox.Name(), logger: cfg.Logger, wake: make(chan struct{}, 1)}
	if n.logger == nil {
		n.logger = slog.Default()
	}
	return n, nil
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
		err := notify(sending, n.db, n.channel, "")
		cancel()
		if err != nil && ctx.Err() == nil {
			n.logger.WarnContext(ctx, "outbox notifier: relays not woken, they find the events by polling", "error", err)
		}
		_ = sleep.For(ctx, coalesce)
	}
}
