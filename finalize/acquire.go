package finalize

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrPoolExhausted is returned when a call got no connection of the pool within ClaimTimeout, since all were taken: by callbacks
// that take long, or that wait for a second connection themselves. The aggregate may be free. Nothing was written.
var ErrPoolExhausted = errors.New("finalize: every connection of the pool is taken")

// errNoConnection ends the wait for a connection.
var errNoConnection = errors.New("no connection within ClaimTimeout")

// acquire takes a connection of the pool. Waiting for one is not waiting for an aggregate, and has a time of its own.
func (d *pgxDB) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	waiting, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, errNoConnection)
	defer cancel()
	conn, err := d.pool.Acquire(waiting)
	if err != nil {
		taken, of := d.taken()
		return nil, notAcquired(waiting, taken, of, err)
	}
	return conn, nil
}

// taken is how many connections of the pool are in use, and how many it may have; 0: any number.
func (d *pgxDB) taken() (taken, of int) {
	s := d.pool.Stat()
	return int(s.AcquiredConns()), int(s.MaxConns())
}

// acquire is that of pgxDB.
func (d *sqlDB) acquire(ctx context.Context) (*sql.Conn, error) {
	waiting, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, errNoConnection)
	defer cancel()
	conn, err := d.db.Conn(waiting)
	if err != nil {
		taken, of := d.taken()
		return nil, notAcquired(waiting, taken, of, err)
	}
	return conn, nil
}

func (d *sqlDB) taken() (taken, of int) {
	s := d.db.Stats()
	return s.InUse, s.MaxOpenConnections
}

// notAcquired says why there is no connection.
func notAcquired(waiting context.Context, taken, of int, err error) error {
	err = withCause(waiting, fmt.Errorf("acquire a connection: %w", err))
	if waiting.Err() != nil && of > 0 && taken >= of {
		err = fmt.Errorf("%w (%d of %d): %w", ErrPoolExhausted, taken, of, err)
	}
	return err
}
