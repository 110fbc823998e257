package soak

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/pgfault"
)

// fault is a kind of fault at a place, which strikes again and again.
type fault struct {
	name  string
	every time.Duration // about how often
	// strike makes it happen, or returns false if there was nothing to strike.
	strike func(ctx context.Context, dice *rand.Rand) bool
	armed  bool // at a proxy, which demands that it fires in each round
	struck atomic.Int64
	rests  atomic.Bool // strikes no more
}

// run strikes until ctx ends, so many times rarer than usual.
func (f *fault) run(ctx context.Context, dice *rand.Rand, pace time.Duration) {
	every := f.every * pace
	wait := time.Duration(dice.Int64N(int64(every)))
	for ; ; wait = every/2 + time.Duration(dice.Int64N(int64(every))) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if !f.rests.Load() && f.strike(ctx, dice) {
			f.struck.Add(1)
		}
	}
}

// cuts are the ways in which the proxy cuts a connection at a place. Whoever comes by first after a strike is cut, in that strike's
// way: no other is due meanwhile, so that each has its share of a place where few come by.
func cuts(proxy *pgfault.Proxy, place string, at func(sql string) bool, ways ...pgfault.Action) (faults []*fault) {
	var due atomic.Pointer[fault]
	for _, do := range ways {
		f := &fault{name: fmt.Sprintf("connection cut at %s: %s", place, do), every: 500 * time.Millisecond, armed: true}
		if do == pgfault.HalfOpen {
			f.every = time.Second // each holds somebody up for as long as they have patience
		}
		f.strike = func(context.Context, *rand.Rand) bool {
			due.CompareAndSwap(nil, f)
			return false // it is counted where it happens
		}
		proxy.Arm(&pgfault.Fault{Do: do, Times: math.MaxInt, Match: func(sql string) bool {
			hit := at(sql) && due.CompareAndSwap(f, nil)
			if hit {
				f.struck.Add(1)
			}
			return hit
		}})
		faults = append(faults, f)
	}
	return faults
}

func commits(sql string) bool { return strings.EqualFold(sql, "commit") }

// settles reports whether a statement settles one key or many, in a transaction or not.
func settles(sql string) bool {
	return strings.HasPrefix(sql, "WITH") && strings.Contains(sql, "settle0 AS")
}

// moves reports whether a statement moves cursors.
func moves(sql string) bool {
	return strings.HasPrefix(sql, "UPDATE") && strings.Contains(sql, "SET token = m.next")
}

// faults are the kinds, each at its places. Those of processes and sessions are of each role.
func (r *round) faults() []*fault {
	var all []*fault
	for _, place := range []struct {
		role, name string
		at         func(sql string) bool
	}{
		{producing, "a producer's COMMIT", commits}, {producing, "a settle", settles}, {relaying, "a relay's move", moves},
		{consuming, "a consumer's move", moves}, {consuming, "a consumer's COMMIT", commits},
	} {
		all = append(all, cuts(r.proxies[place.role], place.name, place.at, pgfault.CutBefore, pgfault.CutWhileWorking, pgfault.CutAfterReply, pgfault.HalfOpen)...)
	}
	for _, role := range []string{producing, relaying, consuming} {
		all = append(all, r.terminate(role), r.kill(role), r.pause(role))
	}
	all = append(all,
		r.server("PostgreSQL: stopped without a shutdown", 30*time.Second, func() bool { r.servers.restart(); return true }),
		r.server("PostgreSQL: fail-over to the synchronous standby", 30*time.Second, r.failOver),
		r.statementTimeout(), r.clock(),
		r.broker("NATS: kill -9", 10*time.Second, func() bool { r.brokers.killNATS(); return true }),
		r.broker("Kafka: leaders move", 3*time.Second, func() bool { r.brokers.kafka.ShufflePartitionLeaders(); return true }),
		r.broker("Kafka: a broker is replaced", 10*time.Second, r.brokers.replaceBroker),
		r.broker("Kafka: a group's coordinator moves", 10*time.Second, func() bool { r.brokers.kafka.RehashCoordinators(); return true }),
		r.broker("Redis: kill -9", 10*time.Second, func() bool { r.brokers.redis.Kill(); return r.started(r.brokers.redis.Start()) }),
		r.broker("Redis: hangs", 10*time.Second, func() bool {
			r.brokers.redis.Pause()
			time.Sleep(1500 * time.Millisecond) // longer than clients wait
			r.brokers.redis.Resume()
			return true
		}))
	if r.servers.disk != "" {
		all = append(all, r.server("PostgreSQL: disk full", 30*time.Second, func() bool { return r.servers.fillDisk(300 * time.Millisecond) }))
	}
	return all
}

func (r *round) started(err error) bool {
	if err != nil {
		r.t.Error(err)
	}
	return err == nil
}

// server is a fault that stops servers: no other strikes them at the same time.
func (r *round) server(name string, every time.Duration, strike func() bool) *fault {
	return &fault{name: name, every: every, strike: func(context.Context, *rand.Rand) bool {
		r.servers.mu.Lock()
		defer r.servers.mu.Unlock()
		return strike()
	}}
}

// broker is a fault of a broker's: no other strikes a broker at the same time.
func (r *round) broker(name string, every time.Duration, strike func() bool) *fault {
	return &fault{name: name, every: every, strike: func(context.Context, *rand.Rand) bool {
		r.brokers.mu.Lock()
		defer r.brokers.mu.Unlock()
		return strike()
	}}
}

// terminate ends one of the sessions that are at work.
func (r *round) terminate(role string) *fault {
	return &fault{name: "pg_terminate_backend: " + role, every: 500 * time.Millisecond, strike: func(ctx context.Context, _ *rand.Rand) bool {
		r.servers.mu.RLock()
		defer r.servers.mu.RUnlock()
		tag, err := r.servers.direct.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name = $1 AND state <> 'idle' ORDER BY random() LIMIT 1`, role)
		return err == nil && tag.RowsAffected() == 1
	}}
}

// kill kills a process, a producer in the middle of calls, and starts another one.
func (r *round) kill(role string) *fault {
	return &fault{name: "kill -9: " + role, every: 20 * time.Second, strike: func(_ context.Context, dice *rand.Rand) bool {
		posts := r.workers.of(role)
		died := r.workers.kill(posts[dice.IntN(len(posts))])
		return died > 0 || role != producing
	}}
}

const idleTimeout = 200 * time.Millisecond

// pause stops a process for longer than idle_in_transaction_session_timeout, and than a lease lasts.
func (r *round) pause(role string) *fault {
	return &fault{name: "SIGSTOP past the lease: " + role, every: 30 * time.Second, strike: func(ctx context.Context, dice *rand.Rand) bool {
		posts := r.workers.of(role)
		n := posts[dice.IntN(len(posts))]
		r.workers.signal(n, syscall.SIGSTOP)
		select {
		case <-ctx.Done():
		case <-time.After(max(leaseTTL, lockTTL) + 500*time.Millisecond):
		}
		r.workers.signal(n, syscall.SIGCONT)
		return true
	}}
}

// failOver promotes the standby, to which the proxies then lead.
func (r *round) failOver() bool {
	if !r.servers.failOver() {
		return false
	}
	for _, proxy := range r.proxies {
		if err := proxy.Lead(r.servers.primary.URL()); err != nil {
			r.t.Error(err)
		}
	}
	return true
}

// statementTimeout has the server break off all statements that take more than a moment, for a while.
func (r *round) statementTimeout() *fault {
	return &fault{name: "PostgreSQL: statement_timeout", every: 10 * time.Second, strike: func(context.Context, *rand.Rand) bool {
		r.servers.mu.RLock()
		defer r.servers.mu.RUnlock()
		const text = "canceling statement due to statement timeout"
		before := r.servers.logged(text)
		r.tell("ALTER SYSTEM SET statement_timeout = '3ms'")
		r.tell("SELECT pg_reload_conf()")
		time.Sleep(300 * time.Millisecond)
		r.tell("ALTER SYSTEM RESET statement_timeout")
		r.tell("SELECT pg_reload_conf()")
		return r.servers.logged(text) > before
	}}
}

// clock moves the database's clock, which is the one that counts, by more than a lease lasts, and back.
func (r *round) clock() *fault {
	return &fault{name: "PostgreSQL: its clock moves", every: 10 * time.Second, strike: func(_ context.Context, dice *rand.Rand) bool {
		r.servers.mu.RLock()
		defer r.servers.mu.RUnlock()
		r.tell(fmt.Sprintf("UPDATE moved.clock SET by = '%d seconds'", []int{-4, 4}[dice.IntN(2)]))
		time.Sleep(500 * time.Millisecond)
		r.tell("UPDATE moved.clock SET by = '0'")
		return true
	}}
}

// tell has the server do something, however often its session is ended.
func (r *round) tell(statement string) {
	for began := time.Now(); ; {
		_, err := r.servers.direct.Exec(context.Background(), statement)
		if err == nil {
			return
		}
		if time.Since(began) > time.Minute {
			r.t.Errorf("%s: %v", statement, err)
			return
		}
	}
}

// strikeAll lets the faults strike while f runs. The seed says when, and whom.
func strikeAll(ctx context.Context, seed uint64, faults []*fault, pace time.Duration, f func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	for i, fault := range faults {
		group.Go(func() { fault.run(ctx, rand.New(rand.NewPCG(seed, uint64(i))), pace) })
	}
	defer group.Wait()
	defer cancel()
	f()
}

// requireStruck fails the test if a kind of fault did not strike.
func requireStruck(t *testing.T, faults []*fault, h *history) {
	t.Helper()
	for _, f := range faults {
		require.NotZero(t, f.struck.Load(), "%s did not strike", f.name)
	}
	for _, cause := range causes() {
		require.NotZero(t, h.causes[cause], "%s: never", cause)
	}
	for _, result := range []string{won, lost, open, unknown, failed} {
		require.NotZero(t, h.results[result], "no call was %s", result)
	}
}
