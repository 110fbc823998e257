package lock

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/internal/lease"
	"github.com/endstate-go/endstate/internal/sleep"
)

// Postgres is a lock in PostgreSQL, by advisory locks, for services without Redis. A lease keeps one connection of the pool
// until it ends, and is lost when that connection is; the server then frees the lock by itself. Nothing is written. Waiters
// poll and keep no connection meanwhile, one of each process for a key.
//
// Advisory locks belong to a session, so the connections must lead to the server itself: through PgBouncer, or another
// pooler, a lock could stay with a connection that serves others. That is noticed, and refused with ErrUnavailable.
type Postgres struct {
	pool   *pgxpool.Pool
	cfg    PostgresConfig
	queues lease.Queues
	places chan struct{} // as many as connections may be taken
}

var _ Locker = (*Postgres)(nil)

// PostgresConfig says how a Postgres lock works. A nil one has the defaults.
type PostgresConfig struct {
	// Prefix goes before each key. The server gets a hash of both (64 bits), in the space of advisory locks that all users
	// of the database share. Default "endstate:lock:".
	Prefix string
	// MaxConns bounds how many of the pool's connections leases may keep; further callers wait. The functions that run under
	// the locks need connections too, so it must be less than the pool has. Default: half of the pool.
	MaxConns int
	// Timeout bounds each statement, and the wait for a connection. At least a millisecond. Default 5 s.
	Timeout time.Duration
	// Check is how often a lease's connection is asked whether it lives. One that the server closes is noticed at once; this
	// is for those that just go silent. Default 5 s.
	Check time.Duration
	// MinPoll and MaxPoll bound the time after which a waiter asks again, which grows from the one to the other and is
	// jittered. Defaults 10 ms and 500 ms.
	MinPoll, MaxPoll time.Duration
	// Logger gets a line at warn level for each lease that is lost. Default slog.Default().
	Logger *slog.Logger
}

// NewPostgres returns a lock on a pool, which stays the caller's. It sends nothing.
func NewPostgres(pool *pgxpool.Pool, cfg *PostgresConfig) (*Postgres, error) {
	if pool == nil {
		return nil, fmt.Errorf("%w: pool is nil", ErrConfig)
	}
	c := PostgresConfig{}
	if cfg != nil {
		c = *cfg
	}
	if c.Prefix == "" {
		c.Prefix = "endstate:lock:"
	}
	if err := cmp.Or(
		lease.Default("Timeout", &c.Timeout, 5*time.Second), lease.Default("Check", &c.Check, 5*time.Second),
		lease.Default("MinPoll", &c.MinPoll, 10*time.Millisecond), lease.Default("MaxPoll", &c.MaxPoll, 500*time.Millisecond),
	); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	has := int(pool.Config().MaxConns)
	if c.MaxConns == 0 {
		c.MaxConns = has / 2
	}
	switch {
	case has < 2:
		return nil, fmt.Errorf("%w: the pool has one connection; a lease keeps one, and what runs under the lock needs another", ErrConfig)
	case c.MaxConns < 0 || c.MaxConns >= has:
		return nil, fmt.Errorf("%w: MaxConns is %d; it must be from 1 to %d, since the pool has %d connections and what runs under the locks needs some too",
			ErrConfig, c.MaxConns, has-1, has)
	case c.MinPoll > c.MaxPoll:
		return nil, fmt.Errorf("%w: MinPoll is %v, which is more than MaxPoll (%v)", ErrConfig, c.MinPoll, c.MaxPoll)
	}
	return &Postgres{pool: pool, cfg: c, places: make(chan struct{}, c.MaxConns)}, nil
}

// Do implements Locker.
func (p *Postgres) Do(ctx context.Context, key string, fn func(context.Context) error) error {
	return p.do(ctx, key, fn, true)
}

// Try implements Locker. It waits for a connection, though not for the lock.
func (p *Postgres) Try(ctx context.Context, key string, fn func(context.Context) error) error {
	return p.do(ctx, key, fn, false)
}

func (p *Postgres) do(ctx context.Context, key string, fn func(context.Context) error, wait bool) error {
	if err := lease.Check(ctx, key, fn); err != nil {
		return err
	}
	held, err := p.acquire(ctx, key, wait)
	if err != nil {
		return err
	}
	return held.Run(fn)
}

// acquire waits for the key within this process, then at the server.
func (p *Postgres) acquire(ctx context.Context, key string, wait bool) (_ *lease.Lease, err error) {
	if err := inLine(ctx, &p.queues, key, wait); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.queues.Leave(key)
		}
	}()
	polls := backoff.NewExponentialBackOff()
	polls.InitialInterval, polls.MaxInterval = p.cfg.MinPoll, p.cfg.MaxPoll
	for seen := false; ; seen = true {
		l, err := p.ask(ctx, key)
		switch {
		case seen && err != nil && ctx.Err() != nil:
			return nil, gaveUp(ctx, &HeldError{Key: key})
		case !wait || !errors.Is(err, ErrHeld):
			return l, err
		case sleep.For(ctx, polls.NextBackOff()) != nil:
			return nil, gaveUp(ctx, &HeldError{Key: key})
		}
	}
}

// tryLock locks if the server is the one that the client connected to: a pooler in between gives its clients numbers of
// their own for the process that serves them. The clock is read once the lock is taken, so that tokens grow.
const tryLock = `SELECT pg_backend_pid() = $2::int4,
	CASE WHEN pg_backend_pid() = $2::int4 AND pg_try_advisory_lock($1::int8) THEN (extract(epoch FROM clock_timestamp()) * 1000000)::int8 END`

// ask asks the server once, on a connection that becomes the lease's.
func (p *Postgres) ask(ctx context.Context, key string) (*lease.Lease, error) {
	select {
	case p.places <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("lock: key %q: %w while waiting for one of the %d connections of the lock", key, context.Cause(ctx), p.cfg.MaxConns)
	}
	done := false
	defer func() {
		if !done {
			<-p.places
		}
	}()
	asking, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	failed := func(err error) error {
		if ctx.Err() != nil {
			return fmt.Errorf("lock: key %q: %w", key, context.Cause(ctx))
		}
		return fmt.Errorf("%w: key %q: %w", ErrUnavailable, key, err)
	}
	conn, err := p.pool.Acquire(asking)
	if err != nil {
		return nil, failed(err)
	}
	var direct bool
	var token *int64
	id := p.id(key)
	err = conn.QueryRow(asking, tryLock, id, int32(conn.Conn().PgConn().PID())).Scan(&direct, &token)
	if err != nil {
		// An answer that got lost leaves no lock behind: pgx has closed the connection, and the server ends its session.
		conn.Release()
		return nil, failed(err)
	}
	if token == nil {
		conn.Release()
		if !direct {
			return nil, failed(errPooler)
		}
		return nil, &HeldError{Key: key}
	}
	done = true
	return p.hold(ctx, key, id, *token, conn), nil
}

var errPooler = errors.New("a pooler such as PgBouncer is between the pool and the server; advisory locks belong to a session, so connect to the server itself")

// id is the number by which the server knows a key.
func (p *Postgres) id(key string) int64 {
	sum := sha256.Sum256([]byte(p.cfg.Prefix + key))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// hold makes a lease, which watches its connection until it is released.
func (p *Postgres) hold(ctx context.Context, key string, id, token int64, conn *pgxpool.Conn) *lease.Lease {
	l := lease.New(ctx, token, &p.queues, key)
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	watched := make(chan error, 1)
	go func() {
		err := p.watch(watching, conn.Conn().PgConn())
		if err != nil {
			err = fmt.Errorf("%w: key %q: its connection failed: %w", ErrLost, key, err)
			p.cfg.Logger.WarnContext(ctx, "lease lost", "key", key, "error", err)
			l.Lose(err)
		}
		watched <- err
	}()
	l.Release = func() error {
		defer func() { <-p.places }()
		defer conn.Release()
		stop()
		lost := <-watched
		if lost == nil {
			if lost = p.unlock(ctx, conn, id); lost != nil {
				lost = fmt.Errorf("%w: key %q: when it was to be given back: %w", ErrLost, key, lost)
				p.cfg.Logger.WarnContext(ctx, "lease lost", "key", key, "error", lost)
			}
		}
		if lost != nil {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = conn.Conn().Close(closing) // whatever it still has goes with its session
		}
		return lost
	}
	return l
}

// watch returns nil when ctx ends, or how the connection failed.
func (p *Postgres) watch(ctx context.Context, conn *pgconn.PgConn) error {
	for {
		// The server sends nothing by itself, but for its farewell.
		listening, cancel := context.WithTimeout(ctx, p.cfg.Check)
		err := conn.WaitForNotification(listening)
		silent := listening.Err() != nil
		cancel()
		switch {
		case conn.IsClosed():
			return err
		case ctx.Err() != nil:
			return nil
		case err != nil && !silent:
			return err
		}
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.Timeout)
		_, err = conn.Exec(asking, "-- does it live").ReadAll()
		cancel()
		if err != nil {
			return err
		}
	}
}

// unlock gives the lock back.
func (p *Postgres) unlock(ctx context.Context, conn *pgxpool.Conn, id int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.Timeout)
	defer cancel()
	var had bool
	if err := conn.QueryRow(ctx, "SELECT pg_advisory_unlock($1::int8)", id).Scan(&had); err != nil {
		return err
	}
	if !had {
		return errors.New("the session no longer had it: something has called pg_advisory_unlock_all, or DISCARD ALL")
	}
	return nil
}
