package finalize

import (
	"context"
	"log/slog"
	"time"

	"github.com/endstate-go/endstate/guard"
)

// Trace is a set of callbacks for metrics and traces, each optional, after the manner of net/http/httptrace. They run on
// the caller's goroutine, or one that SettleMany or a Sweeper waits for, and must be safe for concurrent use; a slow one
// slows the call. A panic in one goes on to the caller (a Sweeper counts it), and leaves no transaction open.
type Trace struct {
	// Began is called when a call begins. The context that it returns is the call's from there on, and its callback's: one with
	// a span, for instance. Won, Lost, NotReady or Failed is called with it at the call's end, unless a callback panics.
	Began func(ctx context.Context, call Call) context.Context
	// Running is called before each run of a callback (of Do, DoTx and DoPrepared's both stages, in a Sweeper too), which gets
	// the context that it returns. Attempt is 0 before the first stage of DoPrepared.
	Running func(ctx context.Context, call Call) context.Context
	// Ran is called with that context after the run, with the callback's error, also when it panics.
	Ran func(ctx context.Context, call Call, err error)
	// Won is called when this call finalized the aggregate (after DoTx: if the caller commits).
	Won func(ctx context.Context, call Call, receipt Receipt)
	// Lost is called when the aggregate was final already.
	Lost func(ctx context.Context, call Call, receipt Receipt)
	// Hot is called when a key is finalized again and again, though it is final: see Config.Hot. It is called by one of the
	// calls that lost, once when the key becomes hot, and then once a window for as long as it stays so.
	Hot func(ctx context.Context, key HotKey)
	// Swept is called at the end of each sweep of a Sweeper on this finalizer.
	Swept func(ctx context.Context, swept Swept)
	// NotReady is called when the callback returned ErrNotReady.
	NotReady func(ctx context.Context, call Call)
	// Failed is called when the call returns another error.
	Failed func(ctx context.Context, call Call, err error)
	// Retry is called before a transaction that the database broke off, or whose COMMIT turned out to be lost, is run
	// again after wait.
	Retry func(ctx context.Context, call Call, cause error, wait time.Duration)
	// Resolving is called when a COMMIT got no answer and the database is going to be asked what became of it.
	Resolving func(ctx context.Context, call Call, cause error)
	// LockUnavailable is called when the lock could not be had, before the call goes on without it (FailOpen) or fails.
	LockUnavailable func(ctx context.Context, call Call, err error)
	// LockLost is called after work during which the lease was lost, whatever became of the work.
	LockLost func(ctx context.Context, call Call, err error)
}

// Call is one call of Do, DoPrepared, DoTx or Settle, or one item of a SettleMany.
type Call struct {
	Ref     guard.Ref
	Trigger Trigger
	// Attempt counts the transactions of this call, from 1. It is 0 when the call was answered from memory, or by another
	// call of this process for the same key.
	Attempt int
	// Elapsed is the time since the call began.
	Elapsed time.Duration
}

// running runs a callback between its hooks.
func running[T any](ctx context.Context, f *core, a *attempt, callback func(context.Context) (T, error)) (result T, err error) {
	if t := f.cfg.Trace.Running; t != nil {
		ctx = t(ctx, a.call())
	}
	if t := f.cfg.Trace.Ran; t != nil {
		err = errPanicked
		defer func() { t(ctx, a.call(), err) }()
	}
	return callback(ctx)
}

func (f *core) won(ctx context.Context, a *attempt, r Receipt) {
	if f.cfg.Logger.Enabled(ctx, slog.LevelDebug) {
		f.cfg.Logger.DebugContext(ctx, "finalized", a.attrs("state", r.State, "events", len(a.events), "elapsed", time.Since(a.start))...)
	}
	if t := f.cfg.Trace.Won; t != nil {
		t(ctx, a.call(), r)
	}
}

func (f *core) lost(ctx context.Context, c Call, r Receipt) {
	f.tellLost(ctx, c, r, f.hot.of(c.Ref), f.now())
}

// repeated is lost for a call that was answered from memory. It allocates nothing unless somebody listens.
func (f *core) repeated(ctx context.Context, ref guard.Ref, trigger Trigger, known *terminal, now time.Duration, differs bool) Receipt {
	r := known.receipt
	r.Differs = differs
	c := Call{Ref: ref, Trigger: trigger}
	if began := f.cfg.Trace.Began; began != nil {
		ctx = began(ctx, c)
	}
	counter := known.heat.Load()
	if counter == nil {
		counter = f.hot.of(ref)
		known.heat.Store(counter)
	}
	f.tellLost(ctx, c, r, counter, now)
	return r
}

func (f *core) tellLost(ctx context.Context, c Call, r Receipt, counter *heat, now time.Duration) {
	if f.cfg.Logger.Enabled(ctx, slog.LevelDebug) {
		f.cfg.Logger.DebugContext(ctx, "already final", c.attrs("state", r.State, "winner", string(r.Trigger))...)
	}
	if counter != nil {
		f.heated(ctx, counter, c, r.State, now)
	}
	if t := f.cfg.Trace.Lost; t != nil {
		t(ctx, c, r)
	}
}

func (f *core) notReady(ctx context.Context, a *attempt) {
	if f.cfg.Logger.Enabled(ctx, slog.LevelDebug) {
		f.cfg.Logger.DebugContext(ctx, "not ready", a.attrs()...)
	}
	if t := f.cfg.Trace.NotReady; t != nil {
		t(ctx, a.call())
	}
}

func (f *core) failed(ctx context.Context, a *attempt, err error) {
	if f.cfg.Logger.Enabled(ctx, slog.LevelDebug) {
		f.cfg.Logger.DebugContext(ctx, "not finalized", a.attrs("error", err)...)
	}
	if t := f.cfg.Trace.Failed; t != nil {
		t(ctx, a.call(), err)
	}
}

func (f *core) retrying(ctx context.Context, a *attempt, cause error, wait time.Duration) {
	f.cfg.Logger.DebugContext(ctx, "transaction broken off, running it again", a.attrs("wait", wait, "cause", cause)...)
	if t := f.cfg.Trace.Retry; t != nil {
		t(ctx, a.call(), cause, wait)
	}
}

func (f *core) resolving(ctx context.Context, a *attempt, cause error) {
	f.cfg.Logger.WarnContext(ctx, "commit got no answer, asking what became of it", a.attrs("cause", cause)...)
	if t := f.cfg.Trace.Resolving; t != nil {
		t(ctx, a.call(), cause)
	}
}

func (a *attempt) call() Call {
	return Call{Ref: a.ref, Trigger: Trigger(a.Trigger), Attempt: a.number, Elapsed: time.Since(a.start)}
}

func (a *attempt) attrs(more ...any) []any { return a.call().attrs(more...) }

func (c Call) attrs(more ...any) []any {
	return append(append(named(c.Ref), "trigger", string(c.Trigger)), more...)
}

// named are the attributes that name an aggregate.
func named(ref guard.Ref) []any {
	attrs := make([]any, 0, 16)
	if ref.Tenant != "" {
		attrs = append(attrs, "tenant", ref.Tenant)
	}
	return append(attrs, "aggregate", ref.Aggregate, "key", ref.Key.String())
}
