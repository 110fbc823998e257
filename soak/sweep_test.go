package soak

import (
	"context"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// sweeping is what a Sweeper is to find, and what came of each. It travels in the sweep's context. The map isn't written to, and
// each record by one call.
type sweeping map[guard.Key]*record

type sweepingKey struct{}

// runSweeper has a Sweeper go through keys of one group.
func (l *library) runSweeper(ctx context.Context, records []*record) {
	keys := sweeping{}
	for _, r := range records {
		keys[guard.Int(r.Key)] = r
	}
	l.sweepers[groupOf(records[0].Key)].Sweep(context.WithValue(ctx, sweepingKey{}, keys))
	for _, r := range records {
		if r.Result == "" { // the sweep didn't come to it
			r.Result = failed
		}
	}
}

func due(ctx context.Context, _ endstate.Querier) iter.Seq2[guard.Key, error] {
	return func(yield func(guard.Key, error) bool) {
		for key := range ctx.Value(sweepingKey{}).(sweeping) {
			if !yield(key, nil) {
				return
			}
		}
	}
}

func sweepOne(ctx context.Context, tx pgx.Tx, key guard.Key) (finalize.Outcome, error) {
	r := ctx.Value(sweepingKey{}).(sweeping)[key]
	out := outcome(r)
	_, err := tx.Exec(ctx, "INSERT INTO writes VALUES ($1, $2)", r.Key, out.State)
	return out, err
}

// tellSwept fills in what a Sweeper's calls returned, which only the trace is told.
func tellSwept() *finalize.Trace {
	tell := func(ctx context.Context, call finalize.Call, receipt finalize.Receipt, err error) {
		if keys, ok := ctx.Value(sweepingKey{}).(sweeping); ok {
			r := keys[call.Ref.Key]
			r.told(receipt, err)
		}
	}
	return &finalize.Trace{
		Won:      func(ctx context.Context, c finalize.Call, r finalize.Receipt) { tell(ctx, c, r, nil) },
		Lost:     func(ctx context.Context, c finalize.Call, r finalize.Receipt) { tell(ctx, c, r, nil) },
		NotReady: func(ctx context.Context, c finalize.Call) { tell(ctx, c, finalize.Receipt{}, finalize.ErrNotReady) },
		Failed:   func(ctx context.Context, c finalize.Call, err error) { tell(ctx, c, finalize.Receipt{}, err) },
	}
}

// lockTTL is that of the lock which DoPrepared takes, which a process's stop outlasts.
const lockTTL = time.Second
