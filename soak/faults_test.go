package soak

import (
	"context"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/internal/testserver"
)

// fault is a kind of fault, which strikes again and again.
type fault struct {
	name  string
	every time.Duration // about how often
	// strike makes it happen, or returns false if there was nothing to strike.
	strike func(ctx context.Context) bool
	struck atomic.Int64
}

// run strikes until ctx ends.
func (f *fault) run(ctx context.Context) {
	for {
		wait := f.every/2 + time.Duration(rand.Int64N(int64(f.every)))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if f.strike(ctx) {
			f.struck.Add(1)
		}
	}
}

// cut is a place at which the proxy cuts a connection. Whoever comes by first after each strike is cut.
func cut(proxy *pgfault.Proxy, name string, at func(sql string) bool, do pgfault.Action) *fault {
	var due atomic.Bool
	f := &fault{name: name + ": " + do.String(), every: 300 * time.Millisecond}
	f.strike = func(context.Context) bool {
		due.Store(true)
		return false // it is counted where it happens
	}
	proxy.Arm(&pgfault.Fault{Do: do, Times: math.MaxInt, Match: func(sql string) bool {
		hit := at(sql) && due.CompareAndSwap(true, false)
		if hit {
			f.struck.Add(1)
		}
		return hit
	}})
	return f
}

func commits(sql string) bool { return strings.EqualFold(sql, "commit") }

// settles tells a statement that settles one key or many, in a transaction or not.
func settles(sql string) bool {
	return strings.HasPrefix(sql, "WITH") && strings.Contains(sql, "settle0 AS")
}

func cuts(proxy *pgfault.Proxy) []*fault {
	var faults []*fault
	for _, do := range []pgfault.Action{pgfault.CutBefore, pgfault.CutWhileWorking, pgfault.CutAfterReply} {
		faults = append(faults, cut(proxy, "connection at COMMIT", commits, do), cut(proxy, "connection at a settle", settles, do))
	}
	return faults
}

// application is the name of the workers' connections.
const application = "soak-worker"

// terminate ends one of the sessions that are at work.
func terminate(direct *pgxpool.Pool) *fault {
	return &fault{name: "pg_terminate_backend", every: 250 * time.Millisecond, strike: func(ctx context.Context) bool {
		tag, err := direct.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name = $1 AND state <> 'idle' ORDER BY random() LIMIT 1`, application)
		return err == nil && tag.RowsAffected() == 1 // the server may be away
	}}
}

// kill kills a worker in the middle of calls, and starts another one.
func kill(workers *workers) *fault {
	return &fault{name: "kill -9 of a process", every: 3 * time.Second, strike: func(context.Context) bool {
		return workers.replace(rand.IntN(processes)) > 0
	}}
}

// pause stops a worker for longer than idle_in_transaction_session_timeout.
func pause(workers *workers) *fault {
	return &fault{name: "SIGSTOP of a process", every: 10 * time.Second, strike: func(ctx context.Context) bool {
		n := rand.IntN(processes)
		workers.signal(n, syscall.SIGSTOP)
		select {
		case <-ctx.Done():
		case <-time.After(idleTimeout + 200*time.Millisecond):
		}
		workers.signal(n, syscall.SIGCONT)
		return true
	}}
}

const idleTimeout = 200 * time.Millisecond

// stop stops the server without a shutdown, and starts it again.
func stop(t *testing.T, server *testserver.Postgres) *fault {
	return &fault{name: "server stopped immediately", every: 15 * time.Second, strike: func(context.Context) bool {
		server.Stop(true)
		if err := server.Start(); err != nil {
			t.Error(err)
		}
		return true
	}}
}

// strikeAll lets the faults strike while f runs.
func strikeAll(ctx context.Context, faults []*fault, f func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	for _, fault := range faults {
		group.Go(func() { fault.run(ctx) })
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
