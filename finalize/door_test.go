package finalize_test

import (
	"context"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// work is a finalize.Func over whichever transaction the combination has.
type work func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error)

// stages are the two parts of a DoPrepared over whichever transaction the combination has. Without a Commit, Prepare returns no
// Func.
type stages struct {
	Prepare func(context.Context) (string, error)
	Commit  func(ctx context.Context, tx endstate.Tx, prepared string) (finalize.Outcome, error)
}

// door is a Finalizer of either type.
type door struct {
	do        func(ctx context.Context, key guard.Key, trigger finalize.Trigger, fn work) (finalize.Receipt, error)
	settle    func(ctx context.Context, key guard.Key, trigger finalize.Trigger, out finalize.Outcome) (finalize.Receipt, error)
	many      func(ctx context.Context, trigger finalize.Trigger, items []finalize.Item) ([]finalize.Result, error)
	sweeper   func(fn func(ctx context.Context, tx endstate.Tx, key guard.Key) (finalize.Outcome, error), cfg *finalize.SweeperConfig) (sweeper, error)
	forget    func(ctx context.Context, key guard.Key) error
	lookAgain func()                  // at the catalog
	queued    func(key guard.Key) int // how many calls wait for another one of the same finalizer
	prepare   func(ctx context.Context, key guard.Key, trigger finalize.Trigger, stages stages) (finalize.Receipt, error)
	begin     func(ctx context.Context, isolation string) (*callersTx, error)
	migrate   func(ctx context.Context) error
	check     func(ctx context.Context) error
}

// sweeper is a Sweeper of either type.
type sweeper interface {
	Run(ctx context.Context) error
	Sweep(ctx context.Context) finalize.Swept
}

// callersTx is a transaction that the test opened, to call DoTx in.
type callersTx struct {
	endstate.Tx
	doTx func(ctx context.Context, key guard.Key, trigger finalize.Trigger, fn work) (finalize.Receipt, error)
}

func doorOf[Tx any](f *finalize.Finalizer[Tx], wrap func(Tx) endstate.Tx, begin func(ctx context.Context, isolation string) (Tx, error)) door {
	adapt := func(fn work) finalize.Func[Tx] {
		if fn == nil {
			return nil
		}
		return func(ctx context.Context, tx Tx) (finalize.Outcome, error) { return fn(ctx, wrap(tx)) }
	}
	return door{
		do: func(ctx context.Context, key guard.Key, trigger finalize.Trigger, fn work) (finalize.Receipt, error) {
			return f.Do(ctx, key, trigger, adapt(fn))
		},
		settle: f.Settle,
		many:   f.SettleMany,
		sweeper: func(fn func(ctx context.Context, tx endstate.Tx, key guard.Key) (finalize.Outcome, error), cfg *finalize.SweeperConfig) (sweeper, error) {
			return finalize.NewSweeper(f, func(ctx context.Context, tx Tx, key guard.Key) (finalize.Outcome, error) {
				return fn(ctx, wrap(tx), key)
			}, cfg)
		},
		forget:    f.Forget,
		queued:    f.Queued,
		lookAgain: f.LookAgain,
		prepare: func(ctx context.Context, key guard.Key, trigger finalize.Trigger, s stages) (finalize.Receipt, error) {
			if s.Prepare == nil {
				return f.DoPrepared(ctx, key, trigger, nil)
			}
			return f.DoPrepared(ctx, key, trigger, func(ctx context.Context) (finalize.Func[Tx], error) {
				prepared, err := s.Prepare(ctx)
				if err != nil || s.Commit == nil {
					return nil, err
				}
				return func(ctx context.Context, tx Tx) (finalize.Outcome, error) { return s.Commit(ctx, wrap(tx), prepared) }, nil
			})
		},
		migrate: f.Migrate,
		check:   f.Check,
		begin: func(ctx context.Context, isolation string) (*callersTx, error) {
			tx, err := begin(ctx, isolation)
			if err != nil {
				return nil, err
			}
			return &callersTx{wrap(tx), func(ctx context.Context, key guard.Key, trigger finalize.Trigger, fn work) (finalize.Receipt, error) {
				return f.DoTx(ctx, tx, key, trigger, adapt(fn))
			}}, nil
		},
	}
}
