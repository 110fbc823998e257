package finalize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sleep"
)

// SweepFunc is the work of one finalization, as Func is, for whichever aggregate a sweep found.
type SweepFunc[Tx any] func(ctx context.Context, tx Tx, key guard.Key) (Outcome, error)

// SweeperConfig says what a Sweeper sweeps and how often. A nil *SweeperConfig works where the guard can find what is due,
// such as a guard.Status with Touched.
type SweeperConfig struct {
	// Trigger is the trigger of its calls. Default "sweep".
	Trigger Trigger
	// Every is the time between two sweeps, give or take a quarter, so that several hosts don't sweep in step. Default 1
	// minute.
	Every time.Duration
	// Idle is for how long nobody may have touched an open aggregate, by the database's clock, before it is due. Default 5
	// minutes.
	Idle time.Duration
	// Due finds what is due in place of the guard, such as status.DueWhere("due_at < now()"); Idle is then not used.
	Due guard.DueFunc
	// Tenants yields a context for each tenant to sweep for, from which Config.Tenant names it and the pool knows what to show:
	// derived from ctx, so that it ends with it. One tenant after the other is swept; an error of one's is no reason to leave
	// out the others, an error that is yielded ends the sweep. Default: the sweep's own context alone.
	Tenants func(ctx context.Context) iter.Seq2[context.Context, error]
	// AtOnce is how many aggregates are finalized at a time. Each takes a connection. Default 4.
	AtOnce int
	// Timeout bounds each call with fn, and how long the search for due aggregates, or Tenants, may take to come to the next one.
	// Nobody waits for a sweep, and so nobody else would give up a connection that has gone silent. Default 5 minutes.
	Timeout time.Duration
}

// Sweeper finds the aggregates that nobody has finalized, though they should be final by now, and finalizes them: the monitor
// and the recovery of stuck work in one. Its calls are triggers like any other, through the same door. So it may run on any
// number of hosts, beside all other triggers; what another one finalized meanwhile is lost to it, and no harm is done. When
// every trigger of an aggregate failed, during an outage for instance, a later sweep finalizes it.
type Sweeper[Tx any] struct {
	fin *Finalizer[Tx]
	fn  SweepFunc[Tx]
	cfg SweeperConfig
}

// Swept are the figures of one sweep.
type Swept struct {
	Found    int // aggregates that were due
	Won      int // finalized by the sweep
	Lost     int // final already when their turn came
	NotReady int // fn returned ErrNotReady
	Busy     int // ErrBusy or ErrInProgress: another call was at work
	Failed   int // every other error
	Panicked int // fn panicked, or exited its goroutine
	Elapsed  time.Duration
	// Err is why the sweep ended before it had found all: an error of the database's, or the context's.
	Err error
}

// NewSweeper returns a Sweeper that finalizes by fn what is due.
func NewSweeper[Tx any](fin *Finalizer[Tx], fn SweepFunc[Tx], config *SweeperConfig) (*Sweeper[Tx], error) {
	fail := func(field, why string) error { return fmt.Errorf("%w: SweeperConfig.%s %s", ErrConfig, field, why) }
	if fin == nil || fn == nil {
		return nil, fmt.Errorf("%w: NewSweeper: fin or fn is nil", ErrConfig)
	}
	var cfg SweeperConfig
	if config != nil {
		cfg = *config
	}
	cfg.Trigger = cmp.Or(cfg.Trigger, "sweep")
	cfg.Every = cmp.Or(cfg.Every, time.Minute)
	cfg.Idle = cmp.Or(cfg.Idle, 5*time.Minute)
	cfg.AtOnce = cmp.Or(cfg.AtOnce, 4)
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Minute)
	if err := checkName(string(cfg.Trigger)); err != nil {
		return nil, fail("Trigger", err.Error())
	}
	switch {
	case cfg.Every < 0:
		return nil, fail("Every", "is negative")
	case cfg.Idle < 0:
		return nil, fail("Idle", "is negative")
	case cfg.AtOnce < 0:
		return nil, fail("AtOnce", "is negative")
	case cfg.Timeout < 0:
		return nil, fail("Timeout", "is negative")
	}
	if cfg.Due == nil {
		finder, ok := fin.cfg.Guard.(guard.DueFinder)
		if !ok {
			return nil, fail("Due", fmt.Sprintf("is nil, and the guard (%T) can't find what is due", fin.cfg.Guard))
		}
		var err error
		if cfg.Due, err = finder.Due(cfg.Idle); err != nil {
			return nil, fail("Due", fmt.Sprintf("is nil, and the guard can't find what is due: %v", err))
		}
	}
	return &Sweeper[Tx]{fin, fn, cfg}, nil
}

// Run sweeps until ctx ends, which is no error, and then waits for what it is at work on. The first sweep comes after a random
// part of Every. Errors of sweeps are logged and told to Trace.Swept; the next sweep tries again. It may be called by
// several goroutines, though one does.
func (s *Sweeper[Tx]) Run(ctx context.Context) error {
	for pause := rand.N(s.cfg.Every) + 1; sleep.For(ctx, pause) == nil; pause = s.cfg.Every*3/4 + rand.N(s.cfg.Every/2+1) {
		s.Sweep(ctx)
	}
	return nil
}

// sweepWindow is how many keys are shuffled, so that two hosts that sweep at once don't go through them side by side, each
// waiting for the other at every one.
const sweepWindow = 200

// Sweep sweeps once, and returns when all that was found is done with. Errors and panics of one aggregate don't stop it: they
// are counted, logged, and the next sweep finds it again.
func (s *Sweeper[Tx]) Sweep(ctx context.Context) Swept {
	w := &sweep[Tx]{Sweeper: s, places: make(chan struct{}, s.cfg.AtOnce)}
	start := time.Now()
	err := w.all(ctx)
	w.figures.Elapsed = time.Since(start)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	w.figures.Err = withCause(ctx, err)
	s.tell(ctx, w.figures, w.first)
	return w.figures
}

// sweep is one sweep.
type sweep[Tx any] struct {
	*Sweeper[Tx]
	places  chan struct{}
	group   sync.WaitGroup
	mu      sync.Mutex
	figures Swept
	first   error // of an aggregate
}

// all sweeps for each tenant.
func (w *sweep[Tx]) all(ctx context.Context) error {
	looking, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	defer w.group.Wait() // also when Due panics
	if w.cfg.Tenants == nil {
		return w.tenant(ctx)
	}
	var first error
	failed := 0
	for tenant, err := range inTime(w.cfg.Timeout, giveUp, w.cfg.Tenants(looking)) {
		if err != nil {
			return errors.Join(fmt.Errorf("find the tenants: %w", withCause(looking, err)), first)
		}
		if err := w.tenant(tenant); err != nil {
			if failed++; first == nil {
				first = err
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	if failed > 1 {
		first = fmt.Errorf("%d tenants could not be swept; the first: %w", failed, first)
	}
	return errors.Join(context.Cause(looking), first)
}

// late is why a sweep gave something up.
func late(timeout time.Duration) error {
	return fmt.Errorf("SweeperConfig.Timeout (%v): %w", timeout, context.DeadlineExceeded)
}

// inTime is all, which is given up when it takes longer than timeout to come to its next value.
func inTime[V any](timeout time.Duration, giveUp context.CancelCauseFunc, all iter.Seq2[V, error]) iter.Seq2[V, error] {
	return func(yield func(V, error) bool) {
		timer := time.AfterFunc(timeout, func() { giveUp(late(timeout)) })
		defer timer.Stop()
		for v, err := range all {
			timer.Stop()
			if !yield(v, err) {
				return
			}
			timer.Reset(timeout)
		}
	}
}

// tenant sweeps for the tenant that ctx names.
func (w *sweep[Tx]) tenant(ctx context.Context) error {
	name, err := w.fin.tenant(ctx)
	if err != nil {
		return err
	}
	// Due takes a connection for each page, and none while its keys are worked on. Whether there is one is known here.
	if err = w.fin.db.query(ctx, func(endstate.Querier) error { return nil }); err == nil {
		err = w.run(ctx, w.fin.db.querier())
	}
	if err != nil && name != "" {
		err = fmt.Errorf("tenant %s: %w", name, err)
	}
	return err
}

// run puts each due key through the door.
func (w *sweep[Tx]) run(ctx context.Context, q endstate.Querier) error {
	looking, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	window := make([]guard.Key, 0, sweepWindow)
	for key, err := range inTime(w.cfg.Timeout, giveUp, w.cfg.Due(looking, q)) {
		if err != nil {
			w.finalize(ctx, window)
			return withCause(looking, err)
		}
		if window = append(window, key); len(window) == cap(window) {
			w.finalize(ctx, window)
			window = window[:0]
		}
	}
	w.finalize(ctx, window)
	return context.Cause(looking)
}

func (w *sweep[Tx]) finalize(ctx context.Context, keys []guard.Key) {
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys {
		select {
		case <-ctx.Done():
			return
		case w.places <- struct{}{}:
		}
		w.group.Go(func() {
			defer func() { <-w.places }()
			w.one(ctx, key)
		})
	}
}

// one finalizes one aggregate. A panic, or a Goexit, ends here.
func (w *sweep[Tx]) one(ctx context.Context, key guard.Key) {
	var r Receipt
	var err error
	returned := false
	defer func() {
		if !returned {
			err = errPanicked
			ref, _ := w.fin.ref(ctx, key)
			w.fin.cfg.Logger.ErrorContext(ctx, "sweep: the callback panicked",
				append(named(ref), "panic", recover(), "stack", string(debug.Stack()))...)
		}
		w.count(ctx, r, err)
	}()
	calling, cancel := context.WithTimeoutCause(ctx, w.cfg.Timeout, late(w.cfg.Timeout))
	defer cancel()
	r, err = w.fin.Do(calling, key, w.cfg.Trigger, func(ctx context.Context, tx Tx) (Outcome, error) { return w.fn(ctx, tx, key) })
	returned = true
}

var errPanicked = errors.New("finalize: the callback panicked")

func (w *sweep[Tx]) count(ctx context.Context, r Receipt, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := &w.figures
	f.Found++
	switch {
	case err == nil && r.Won:
		f.Won++
	case err == nil:
		f.Lost++
	case errors.Is(err, ErrNotReady):
		f.NotReady++
	case errors.Is(err, ErrBusy), errors.Is(err, ErrInProgress):
		f.Busy++
	case errors.Is(err, errPanicked):
		f.Panicked++
	default:
		f.Failed++
		if w.first == nil && !errors.Is(err, context.Cause(ctx)) { // a shutdown is no reason to warn
			w.first = err
		}
	}
}

// tell logs a sweep's figures, at the level that they deserve.
func (s *Sweeper[Tx]) tell(ctx context.Context, f Swept, first error) {
	level := slog.LevelDebug
	attrs := []any{"aggregate", s.fin.cfg.Aggregate, "found", f.Found, "won", f.Won, "lost", f.Lost, "not_ready", f.NotReady,
		"busy", f.Busy, "failed", f.Failed, "panicked", f.Panicked, "elapsed", f.Elapsed.Round(time.Millisecond)}
	if f.Found > 0 {
		level = slog.LevelInfo
	}
	if first != nil {
		level, attrs = slog.LevelWarn, append(attrs, "first_error", first)
	}
	if f.Err != nil && ctx.Err() == nil {
		level, attrs = slog.LevelWarn, append(attrs, "error", f.Err)
	}
	s.fin.cfg.Logger.Log(ctx, level, "swept", attrs...)
	if t := s.fin.cfg.Trace.Swept; t != nil {
		t(ctx, f)
	}
}
