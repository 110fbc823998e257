package finalize

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sleep"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// On SQLite, which writes one transaction at a time and flushes each, many aggregates are settled in one. On PostgreSQL it
// would hold the aggregates that come first while it waits for those that come later.
var _ bulkSettler = (*sqlDB)(nil)

func (d *sqlDB) bulkSize(*attempt) int {
	if d.dialect == sqltx.SQLite {
		return 100
	}
	return 0
}

// warn warns of a SQLite handle whose connections don't wait for one another's writes. Calls try again, but in no order, and the
// service's own statements fail.
func (d *sqlDB) warn(ctx context.Context, q endstate.Querier) error {
	if d.dialect != sqltx.SQLite {
		return nil
	}
	var timeout int
	if err := q.QueryRow(ctx, "PRAGMA busy_timeout").Scan(&timeout); err != nil {
		return fmt.Errorf("read PRAGMA busy_timeout: %w", err)
	}
	if timeout == 0 {
		d.cfg.Logger.WarnContext(ctx, "SQLite connections without a busy_timeout fail as soon as two write at once; set it in the data source name, such as _pragma=busy_timeout(10000) (modernc.org/sqlite) or _busy_timeout=10000 (mattn/go-sqlite3)",
			"aggregate", d.cfg.Aggregate)
	}
	return nil
}

// turnToWrite waits until no other call of this finalizer writes, in the order in which they came: left to the database, which
// lets anybody have the next turn, some would wait forever in a storm. The function lets the next one go, once.
func (d *sqlDB) turnToWrite(ctx context.Context) (written func(), err error) {
	if d.writes == nil {
		return func() {}, nil
	}
	waiting, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, ErrBusy)
	defer cancel()
	select {
	case d.writes <- struct{}{}:
		return sync.OnceFunc(func() { <-d.writes }), nil
	case <-waiting.Done():
	}
	if taken, of := d.taken(); ctx.Err() == nil && of > 0 && taken >= of {
		return nil, fmt.Errorf("%w (%d of %d); enlarge the pool, or shorten callbacks: %w", ErrPoolExhausted, taken, of, errNoConnection)
	}
	return nil, fmt.Errorf("waiting for another write of this process: %w", context.Cause(waiting))
}

// errSQLiteBusy is ErrBusy where it is the whole database that another call holds.
var errSQLiteBusy = fmt.Errorf("%w: other writers kept the database busy for ClaimTimeout", ErrBusy)

func (d *sqlDB) settleBulk(ctx context.Context, attempts []*attempt) ([]settled, error) {
	began, pause := time.Now(), d.backoff()
	for {
		results, err := d.settleBulkOnce(ctx, attempts)
		switch {
		case !sqltx.Busy(err):
			return results, err
		case time.Since(began) >= d.cfg.ClaimTimeout:
			return nil, fmt.Errorf("%w: %w", errSQLiteBusy, err)
		case sleep.For(ctx, pause.NextBackOff()) != nil:
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

func (d *sqlDB) settleBulkOnce(ctx context.Context, attempts []*attempt) ([]settled, error) {
	s, err := d.begin(ctx)
	if err != nil {
		return nil, withCause(ctx, err)
	}
	defer s.rollback(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.ClaimTimeout, ErrBusy)
	defer cancel()
	results := make([]settled, len(attempts))
	for i, a := range attempts {
		rec, err := d.cfg.Guard.Claim(ctx, s.guardTx, a.ref)
		if errors.Is(err, guard.ErrNotFound) || errors.Is(err, guard.ErrAnomaly) {
			continue // it is told so alone
		}
		if err == nil && !rec.Final {
			rec, err = s.write(ctx, a)
			results[i].won = true
		}
		if err != nil {
			return nil, withCause(ctx, err)
		}
		results[i].rec, results[i].done = rec, true
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := s.end(ctx); err != nil {
		return nil, withCause(ctx, err)
	}
	return results, nil
}
