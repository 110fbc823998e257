package relay

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// What a consumer's handler must not do with its transaction. Each counts as a failure of the event.
var (
	// ErrTxOwned is returned by Commit and Rollback of a handler's pgx.Tx: the consumer ends it.
	ErrTxOwned = errors.New("relay: the consumer ends this transaction")
	// ErrTxEnded is a failure of a handler that ended the transaction: with a *sql.Tx, which can't refuse, or by a statement.
	ErrTxEnded = errors.New("relay: the handler ended the transaction, which the consumer does")
	// ErrTxAborted is a failure of a handler that passed over a failed statement: PostgreSQL has given the transaction up.
	ErrTxAborted = errors.New("relay: a statement failed, and the handler returned no error")
	// ErrRowsOpen is a failure of a handler that left the rows of a query open.
	ErrRowsOpen = errors.New("relay: the handler left the rows of a query open")
)

// NewConsumer returns a relay that publishes nowhere: it applies the events of its subscription in the database that they are in,
// exactly once. The handler works in a transaction in which the cursor moves, too: what it writes and the fact that it has
// handled the event commit together, or not at all. No broker and no inbox is needed. What a Relay promises about order, failures,
// dead letters and outages holds, as do Run, Wake and the Config, whose Subscription must be set: a consumer has one of its own.
//
// A batch is one transaction, READ COMMITTED. When a handler fails, or the commit does, the events get a transaction each, until it
// is known which one is to blame. A serialization failure or a deadlock costs no attempt. So a handler is called again for an event
// whenever a transaction was rolled back: effects outside of the database may repeat. It may put events. It gets one event at a
// time, in a goroutine, and must not use the transaction after it has returned.
//
// A handler has PublishTimeout for an event, here at most half of LeaseTTL. So that its locks don't outlive the lease,
// idle_in_transaction_session_timeout is that, too. It must not end the transaction: Commit and Rollback return ErrTxOwned;
// what it begins in it, a savepoint, it may end.
func NewConsumer(pool *pgxpool.Pool, handler func(ctx context.Context, tx pgx.Tx, event outbox.Event) error, cfg *Config) (*Relay, error) {
	return newConsumer(database{pool: pool}, handler == nil, cfg, func(ctx context.Context, _ database) (*work, error) {
		tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
		if err != nil {
			return nil, err
		}
		lent := sqltx.Lend(tx, ErrTxOwned)
		return &work{Tx: tx,
			handle:  func(ctx context.Context, event outbox.Event) error { return handler(ctx, lent, event) },
			reclaim: lent.Close,
			drop:    func(ctx context.Context) { _ = tx.Rollback(ctx) }, // after a commit it does nothing
			commit:  tx.Commit,
			look: func(context.Context) error {
				switch conn := tx.Conn().PgConn(); {
				case conn.IsClosed():
					return errCut
				case conn.IsBusy():
					return ErrRowsOpen
				case conn.TxStatus() == 'I':
					return ErrTxEnded
				case conn.TxStatus() == 'E':
					return ErrTxAborted
				}
				return nil
			},
		}, nil
	})
}

// NewConsumerSQL is NewConsumer on database/sql, on PostgreSQL or SQLite. A *sql.Tx can't refuse to be ended: a handler that
// does so is found out, and its event becomes a dead letter in the end, but what it committed may be applied again each time. On
// SQLite, which has one writer, a transaction keeps others waiting for as long as a batch takes, which is a second at most, plus
// one event.
func NewConsumerSQL(db *sql.DB, handler func(ctx context.Context, tx *sql.Tx, event outbox.Event) error, cfg *Config) (*Relay, error) {
	return newConsumer(database{sql: db}, handler == nil, cfg, func(ctx context.Context, opened database) (*work, error) {
		conn, err := db.Conn(ctx)
		if err != nil {
			return nil, err
		}
		options := &sql.TxOptions{}
		if !opened.sqlite() {
			options.Isolation = sql.LevelReadCommitted
		}
		tx, end, err := sqltx.Begin(ctx, conn, options)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return &work{Tx: sqltx.Wrap(tx, opened.dialect),
			handle:  func(ctx context.Context, event outbox.Event) error { return handler(ctx, tx, event) },
			reclaim: func() {},
			drop: func(ctx context.Context) {
				defer context.AfterFunc(ctx, end)()
				_ = tx.Rollback()
				if opened.sqlite() {
					// After a COMMIT that a constraint or another connection refused, it is open, though database/sql thinks it ended.
					_, _ = conn.ExecContext(ctx, "ROLLBACK")
				}
				end()
				_ = conn.Close()
			},
			commit: func(ctx context.Context) error {
				defer context.AfterFunc(ctx, end)()
				return tx.Commit()
			},
			look: func(ctx context.Context) error {
				ctx, cancel := opened.bounded(ctx)
				defer cancel()
				var is string
				switch err := tx.QueryRowContext(ctx, opened.either("SELECT coalesce(current_setting('endstate.consumer', true), '')", "SELECT '"+working+"'")).Scan(&is); {
				case errors.Is(err, sql.ErrTxDone):
					return ErrTxEnded
				case sqltx.State(err) == sqltx.FailedTransaction:
					return ErrTxAborted
				case err != nil:
					return fmt.Errorf("%w: %w", errCut, err)
				case is != working:
					return ErrTxEnded
				}
				return nil
			},
		}, nil
	})
}

func newConsumer(db database, noHandler bool, cfg *Config, begin beginWork) (*Relay, error) {
	if noHandler {
		return nil, fmt.Errorf("%w: the handler is nil", outbox.ErrConfig)
	}
	if cfg == nil || cfg.Subscription == "" {
		return nil, fmt.Errorf("%w: relay.Config.Subscription is empty; name one of the consumer's own, since whoever shares it gets a part of the events only", outbox.ErrConfig)
	}
	c := *cfg
	c.Destination = cmp.Or(c.Destination, "handler") // so that a relay that joins the subscription is refused
	r, err := newRelay(db, nil, begin, &c)
	if err != nil {
		return nil, err
	}
	r.cfg.PublishTimeout = min(r.cfg.PublishTimeout, r.cfg.LeaseTTL/2)
	return r, nil
}

// errCut says that the connection of a transaction is gone.
var errCut = errors.New("relay: the transaction's connection is lost")

// beginWork begins a transaction of a consumer.
type beginWork func(ctx context.Context, db database) (*work, error)

// work is a transaction in which a handler works, and the cursor moves.
type work struct {
	endstate.Tx
	handle  func(ctx context.Context, event outbox.Event) error // calls the handler
	look    func(ctx context.Context) error                     // says what the handler did to the transaction that it must not do, or errCut
	commit  func(ctx context.Context) error
	reclaim func()                    // takes the transaction back from the handler
	drop    func(ctx context.Context) // rolls back unless it was committed, and lets the connection go
}

// working is a setting of a transaction, by which a later statement knows that it is still that one.
const working = "working"

// limit sets what a transaction of a consumer has: a mark, and how long the server lets it be idle, so that the locks of a process
// that was stopped end before its lease does. It writes nothing, and so takes no transaction id.
func (s *store) limit(ctx context.Context, idle time.Duration) error {
	const timeout = "idle_in_transaction_session_timeout"
	return s.run(ctx, fmt.Sprintf(`SELECT set_config('endstate.consumer', '%[1]s', true),
	CASE WHEN current_setting('%[2]s')::interval NOT BETWEEN '1 ms' AND '%[3]d ms' THEN set_config('%[2]s', '%[3]d', true) END`, working, timeout, idle.Milliseconds()))
}
