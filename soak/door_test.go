package soak

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// door is what workers call: the library, or something that is broken on purpose.
type door interface {
	// call finalizes a key, or tries to, and fills in what came of it.
	call(ctx context.Context, dice *rand.Rand, r *record)
}

// group is the keys that are finalized in one way.
type group struct {
	name   string // and aggregate type
	guard  guard.Guard
	events []string
}

// groups are the ways; a key's number tells its group.
func groups() []group {
	status := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE")}
	return []group{
		{"status", status, []string{"completed", resultType}},
		{"ledger", guard.Ledger{}, []string{"completed"}},
		{"all", guard.All(status, guard.Ledger{}), []string{"completed", resultType}},
		{"quiet", status, nil}, // nothing tells a winner whose acknowledgement got lost that it won
	}
}

func groupOf(key int64) int { return int(max(key, -key)) % len(groups()) }

// library calls the library in each of its ways.
type library struct {
	pool     *pgxpool.Pool
	pgx      []*finalize.Finalizer[pgx.Tx]
	sql      []*finalize.Finalizer[*sql.Tx]
	sweepers []*finalize.Sweeper[pgx.Tx]
}

// newLibrary makes finalizers whose DoPrepared uses a lock, if there is one.
func newLibrary(pool *pgxpool.Pool, db *sql.DB, locker finalize.Locker) (*library, error) {
	l := &library{pool: pool}
	for _, g := range groups() {
		cfg := &finalize.Config{Aggregate: g.name, Guard: g.guard, Logger: discard(), Trace: tellSwept(),
			Lock: finalize.LockConfig{Locker: locker, Timeout: 10 * time.Second}}
		onPGX, err := finalize.New(pool, cfg)
		if err != nil {
			return nil, err
		}
		onSQL, err := finalize.NewSQL(db, cfg)
		if err != nil {
			return nil, err
		}
		sweeper, err := finalize.NewSweeper(onPGX, sweepOne, &finalize.SweeperConfig{Due: due})
		if err != nil {
			return nil, err
		}
		l.pgx, l.sql, l.sweepers = append(l.pgx, onPGX), append(l.sql, onSQL), append(l.sweepers, sweeper)
	}
	return l, nil
}

// What a worker does itself to a call.
const (
	notReady       = "the callback said ErrNotReady"
	callbackFailed = "the callback failed"
	deadlinePassed = "the call's deadline passed"
)

func causes() []string { return []string{notReady, callbackFailed, deadlinePassed} }

var errCallback = errors.New("the callback fails on purpose")

func (l *library) call(ctx context.Context, dice *rand.Rand, r *record) {
	n := groupOf(r.Key)
	key, trigger, out := guard.Int(r.Key), finalize.Trigger(r.Call), outcome(r)
	if dice.IntN(50) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(dice.IntN(3000))*time.Microsecond)
		defer cancel()
	}
	callback := func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
		switch n := dice.IntN(100); {
		case n < 8:
			return finalize.Outcome{}, finalize.ErrNotReady
		case n < 12:
			return finalize.Outcome{}, errCallback
		case n < 20: // this work takes a while
			if _, err := tx.Exec(ctx, "SELECT pg_sleep(0.002)"); err != nil {
				return finalize.Outcome{}, err
			}
		}
		_, err := tx.Exec(ctx, "INSERT INTO writes VALUES ($1, $2)", r.Key, out.State)
		return out, err
	}
	onPGX := func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) { return callback(ctx, tx) }
	onSQL := func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
		return callback(ctx, endstate.PostgresTx(tx))
	}
	var receipt finalize.Receipt
	var err error
	switch dice.IntN(10) {
	case 0, 1:
		receipt, err = l.pgx[n].Do(ctx, key, trigger, onPGX)
	case 2:
		receipt, err = l.pgx[n].DoPrepared(ctx, key, trigger, func(context.Context) (finalize.Func[pgx.Tx], error) { return onPGX, nil })
	case 3, 4, 5, 6:
		receipt, err = l.pgx[n].Settle(ctx, key, trigger, out)
	case 7:
		receipt, err = l.sql[n].Do(ctx, key, trigger, onSQL)
	case 8:
		receipt, err = l.sql[n].Settle(ctx, key, trigger, out)
	case 9:
		receipt, err = l.doTx(ctx, n, key, trigger, onPGX)
	}
	r.told(receipt, err)
}

// outcome is what a call wants.
func outcome(r *record) finalize.Outcome {
	out := finalize.Outcome{State: state(r.Call)}
	for _, event := range groups()[groupOf(r.Key)].events {
		out.Events = append(out.Events, outbox.Event{Type: event, Payload: []byte(out.State), ContentType: "text/plain"})
	}
	return out
}

// sweep settles several keys of one group in one call.
func (l *library) sweep(ctx context.Context, records []*record) {
	var items []finalize.Item
	for _, r := range records {
		items = append(items, finalize.Item{Key: guard.Int(r.Key), Outcome: outcome(r)})
	}
	// The error is one of the results'.
	results, _ := l.pgx[groupOf(records[0].Key)].SettleMany(ctx, finalize.Trigger(records[0].Call), items)
	for i, result := range results {
		records[i].told(result.Receipt, result.Err)
	}
}

// doTx finalizes inside a transaction of the caller's, who then knows no better than database drivers do what became of it.
func (l *library) doTx(ctx context.Context, n int, key guard.Key, trigger finalize.Trigger, fn finalize.Func[pgx.Tx]) (finalize.Receipt, error) {
	tx, err := l.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return finalize.Receipt{}, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	r, err := l.pgx[n].DoTx(ctx, tx, key, trigger, fn)
	if err == nil {
		err = commit(ctx, tx)
	}
	if err != nil && !r.Won && errors.Is(err, finalize.ErrOutcomeUnknown) {
		return r, nil // a loser wrote nothing
	}
	return r, err
}

// commit commits, and says ErrOutcomeUnknown unless the server itself refused.
func commit(ctx context.Context, tx pgx.Tx) error {
	err := tx.Commit(ctx)
	var said *pgconn.PgError
	if err == nil || errors.As(err, &said) && said.Severity == "ERROR" || errors.Is(err, pgx.ErrTxCommitRollback) {
		return err
	}
	return fmt.Errorf("%w: %w", finalize.ErrOutcomeUnknown, err)
}

// told fills in what a call of the library returned.
func (r *record) told(receipt finalize.Receipt, err error) {
	switch {
	case err == nil:
		r.Result, r.State = lost, receipt.State
		if receipt.Won {
			r.Result = won
		}
		if receipt.Provenance {
			r.Receipt = fmt.Sprintf("%s %d %s %x", receipt.Trigger, receipt.At.UnixMicro(), receipt.Token, receipt.Digest[:])
		}
		return
	case errors.Is(err, finalize.ErrNotReady):
		r.Result, r.Cause = open, notReady
	case errors.Is(err, errCallback):
		r.Result, r.Cause = open, callbackFailed
	case errors.Is(err, finalize.ErrOutcomeUnknown):
		r.Result = unknown
	case errors.Is(err, context.DeadlineExceeded):
		r.Result, r.Cause = failed, deadlinePassed
	default:
		r.Result = failed
	}
	if said, ok := errors.AsType[*pgconn.PgError](err); ok {
		r.Code = said.Code
	}
	r.Why = err.Error()
	r.Why = r.Why[:min(len(r.Why), 1000)]
}
