package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/internal/sqltx"
)

const (
	probeTimeout  = 5 * time.Second  // for a notification to oneself
	aliveInterval = 30 * time.Second // between two looks whether a silent connection still is one
)

// listen wakes the relay when a Notifier notifies, on a connection of its own.
func (r *Relay) listen(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		start := time.Now()
		err := r.listenOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > aliveInterval {
			failures = 0
		}
		failures++
		wait := backoff(minOutage, maxOutage, failures)
		r.log.WarnContext(ctx, "outbox relay: not listening, polling meanwhile", "wait", wait, "error", err)
		_ = sleep.For(ctx, wait)
	}
}

func (r *Relay) listenOnce(ctx context.Context) error {
	connecting, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(connecting, r.cfg.ListenURL)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(connecting, "LISTEN "+sqltx.Quote("", r.cfg.Outbox.Name())); err != nil {
		return err
	}
	r.Wake() // for what was missed until now
	if arrived, err := r.probe(ctx, conn); err != nil {
		return err
	} else if !arrived {
		r.log.WarnContext(ctx, "outbox relay: notifications don't arrive, only polling finds events: does relay.Config.ListenURL lead through a pooler in transaction mode, or to another database?")
	}
	for {
		waiting, cancel := context.WithTimeout(ctx, aliveInterval)
		_, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err == nil:
			r.Wake()
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded) && !conn.IsClosed():
			alive, cancel := context.WithTimeout(ctx, probeTimeout)
			err := conn.Ping(alive)
			cancel()
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// probe notifies this relay through the database that events come from, and reports whether that arrives.
func (r *Relay) probe(ctx context.Context, conn *pgx.Conn) (bool, error) {
	mine := "probe " + uuid.NewString()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := r.store.notify(ctx, mine); err != nil {
		return false, fmt.Errorf("notify: %w", err)
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		switch {
		case err == nil && n.Payload == mine:
			return true, nil
		case err == nil:
			r.Wake()
		case errors.Is(ctx.Err(), context.DeadlineExceeded) && !conn.IsClosed():
			return false, nil
		default:
			return false, err
		}
	}
}

func (s *store) notify(ctx context.Context, payload string) error {
	return s.run(ctx, "SELECT pg_notify(CAST($1 AS text), CAST($2 AS text))", s.cfg.Outbox.Name(), payload)
}
