package adopt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// session is the one connection that an adoption runs on. Its advisory lock goes with it, so that a killed process's
// successor waits until the server has noticed and broken off what it was at.
type session struct {
	*pgx.Conn
	*target
}

// lockSeed keeps this package's advisory locks apart from others'.
const lockSeed = 0x656e64735f02

// open takes a connection out of the pool, which is closed in the end, and waits for its turn.
func (a *Adoption) open(ctx context.Context) (*session, error) {
	pooled, err := a.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{Conn: pooled.Hijack()}
	if err := s.begin(ctx, a.cfg); err != nil {
		s.close(ctx)
		return nil, err
	}
	return s, nil
}

func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = s.Close(ctx) // its settings and its lock go with it
}

func (s *session) begin(ctx context.Context, cfg Config) error {
	err := s.settle(ctx, cfg.LockTimeout)
	if err != nil {
		return err
	}
	if s.target, err = look(ctx, s.Conn, cfg); err != nil {
		return err
	}
	if err := s.takeTurn(ctx); err != nil {
		return err
	}
	s.target, err = look(ctx, s.Conn, cfg) // the other run may have changed it
	return err
}

// settle gives the connection the settings that its work needs.
func (s *session) settle(ctx context.Context, lockTimeout time.Duration) error {
	_, err := s.Exec(ctx, fmt.Sprintf(`SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '%d' WHEN 'client_connection_check_interval' THEN '1s'
	WHEN 'idle_in_transaction_session_timeout' THEN '1min' WHEN 'TimeZone' THEN 'UTC' ELSE '0' END, false)
FROM pg_settings WHERE name IN ('TimeZone', 'lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout', 'client_connection_check_interval')`, lockTimeout.Milliseconds()))
	if sqltx.State(err) == sqltx.InvalidParameter { // the interval, on a platform that can't
		_, err = s.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d; SET TimeZone = 'UTC'", lockTimeout.Milliseconds()))
	}
	return err
}

// takeTurn waits until no other run is at work on the table.
func (s *session) takeTurn(ctx context.Context) error {
	// Not pg_advisory_lock: a session that waits inside a statement keeps the other's concurrent index builds waiting for it.
	for waiting := false; ; waiting = true {
		var mine bool
		if err := s.QueryRow(ctx, "SELECT pg_try_advisory_lock($1 + $2::int8)", int64(lockSeed), int64(s.oid)).Scan(&mine); err != nil {
			return err
		}
		if mine {
			return nil
		}
		if !waiting {
			s.target.cfg.Logger.InfoContext(ctx, "adopt: another run is at work on this table, waiting for it", "table", s.target.table())
			s.target.cfg.Progress("waiting for another run", 0)
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}

func (s *session) step(ctx context.Context, name string) error {
	s.cfg.Logger.InfoContext(ctx, "adopt: "+name, "table", s.table())
	s.cfg.Progress(name, 0)
	_, err := s.Exec(ctx, "UPDATE "+s.log()+" SET step = $2::text, updated_at = clock_timestamp() WHERE target = $1::text", s.table(), name)
	return err
}

// patiently runs f, which takes a lock that writers wait for, until it gets it: f gives up after the lock timeout, and is
// tried again when the writers have had their time.
func (s *session) patiently(ctx context.Context, f func() error) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := f()
		if sqltx.State(err) != lockNotAvailable && !sqltx.Conflicted(err) {
			return err
		}
		s.cfg.Logger.InfoContext(ctx, "adopt: a lock is not to be had, trying again", "table", s.table(), "wait", wait)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

const lockNotAvailable = "55P03"

// locked runs f in a transaction, patiently.
func (s *session) locked(ctx context.Context, f func(tx pgx.Tx) error) error {
	return s.patiently(ctx, func() error { return pgx.BeginFunc(ctx, s.Conn, f) })
}

// concurrently runs a statement that waits for other transactions without keeping anybody waiting.
func (s *session) concurrently(ctx context.Context, statement string) error {
	if _, err := s.Exec(ctx, "SET lock_timeout = 0"); err != nil {
		return err
	}
	_, err := s.Exec(ctx, statement)
	if s.IsClosed() {
		return err
	}
	_, err2 := s.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", s.cfg.LockTimeout.Milliseconds()))
	return errors.Join(err, err2)
}

func (s *session) dropIndex(ctx context.Context, name string) error {
	return s.concurrently(ctx, "DROP INDEX CONCURRENTLY IF EXISTS "+sqltx.Quote(s.cfg.Schema, name))
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
