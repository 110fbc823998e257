package relay

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
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
	db      database
	channel string
	logger  *slog.Logger
	wake    chan struct{}
}

// NotifierConfig says which outbox's relays a Notifier wakes.
type NotifierConfig struct {
	// Outbox names the table. The zero Writer is endstate_outbox.
	Outbox outbox.Writer
	// Dialect is "postgres", or empty: told by the driver.
	Dialect string
	// Logger gets a line at warn level when a notification couldn't be sent. Default slog.Default().
	Logger *slog.Logger
}

// coalesce is the shortest time between two notifications.
const coalesce = 5 * time.Millisecond

// NewNotifier returns a Notifier, which begins with Run; a nil cfg is for the default outbox.
func NewNotifier(pool *pgxpool.Pool, cfg *NotifierConfig) (*Notifier, error) {
	db, err := openPool(pool)
	return newNotifier(db, err, cfg)
}

// NewNotifierSQL is NewNotifier on database/sql.
func NewNotifierSQL(db *sql.DB, cfg *NotifierConfig) (*Notifier, error) {
	var dialect string
	if cfg != nil {
		dialect = cfg.Dialect
	}
	opened, err := openSQL(db, dialect)
	return newNotifier(opened, err, cfg)
}

func newNotifier(opened database, err error, cfg *NotifierConfig) (*Notifier, error) {
	if cfg == nil {
		cfg = &NotifierConfig{}
	}
	if err == nil {
		err = validateOutbox(cfg.Outbox)
	}
	if err != nil {
		return nil, err
	}
	if opened.sqlite() {
		return nil, fmt.Errorf("%w: SQLite has no NOTIFY; use Relay.Wake", outbox.ErrConfig)
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
