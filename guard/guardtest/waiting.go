package guardtest

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqltx"
)

func (s *suite) waitForCommit() {
	ref, first, to := s.Open(s.t), s.begin(), s.to(s.States[0])
	s.claimOf(first, ref)
	second := s.second(first, s.claimIn(s.ctx, ref))
	_, err := s.Guard.Settle(s.ctx, first, ref, to)
	require.NoError(s.t, err)
	s.commit(first)
	got := <-second
	require.NoError(s.t, got.err)
	s.requireRecord(got.rec, to)
	require.Empty(s.t, got.rec.XID)
}

func (s *suite) waitForRollback() {
	ref, first := s.Open(s.t), s.begin()
	s.claimOf(first, ref)
	second := s.second(first, s.claimIn(s.ctx, ref))
	_, err := s.Guard.Settle(s.ctx, first, ref, s.to(s.States[0]))
	require.NoError(s.t, err)
	s.rollbackTx(first)
	got := <-second
	require.NoError(s.t, got.err)
	require.False(s.t, got.rec.Final, "the second claim saw a state that was rolled back")
}

func (s *suite) waitCancelled() {
	ref, first := s.Open(s.t), s.begin()
	s.claimOf(first, ref)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	second := s.second(first, s.claimIn(ctx, ref))
	cancel()
	require.Error(s.t, (<-second).err, "a claim whose context was cancelled while it waited returned a record")
}

// waitToSettle settles without a claim, which compares and sets as well.
func (s *suite) waitToSettle() {
	ref, first, to := s.Open(s.t), s.begin(), s.to(s.States[0])
	s.claimOf(first, ref)
	_, err := s.Guard.Settle(s.ctx, first, ref, to)
	require.NoError(s.t, err)
	second := s.second(first, func(tx endstate.Tx) (guard.Record, error) {
		return s.Guard.Settle(s.ctx, tx, ref, s.to(s.States[1]))
	})
	s.commit(first)
	got := <-second
	if s.postgres(first) || !sqltx.Conflicted(got.err) { // SQLite may have broken it off
		require.ErrorIs(s.t, got.err, guard.ErrNotOpen)
	}
	s.requireRecord(s.look(ref), to)
}

type told struct {
	rec guard.Record
	err error
}

func (s *suite) claimIn(ctx context.Context, ref guard.Ref) func(endstate.Tx) (guard.Record, error) {
	return func(tx endstate.Tx) (guard.Record, error) { return s.Guard.Claim(ctx, tx, ref) }
}

// second calls the guard in another transaction than first, which holds the aggregate, makes sure that the call waits, and
// returns where its result will arrive.
func (s *suite) second(first endstate.Tx, call func(endstate.Tx) (guard.Record, error)) <-chan told {
	s.t.Helper()
	result := make(chan told, 1)
	tx := s.begin()
	run := func() {
		rec, err := call(tx)
		_ = tx.Rollback(context.WithoutCancel(s.ctx)) // it may hold the aggregate now
		result <- told{rec, err}
	}
	if !s.postgres(first) {
		// SQLite has no view of who waits. But without patience the call must find the database busy, so with it, it waits.
		timeout := scan[int](s, tx, "PRAGMA busy_timeout")
		require.NotZero(s.t, timeout, "the connections of Harness.Begin have no busy timeout")
		s.setBusyTimeout(tx, 0)
		rec, err := call(tx)
		require.Error(s.t, err, "the second transaction did not wait for the first; it was told %+v", rec)
		require.True(s.t, sqltx.Conflicted(err), "the second transaction failed with another error than busy: %v", err)
		s.setBusyTimeout(tx, timeout)
		s.rollbackTx(tx)
		tx = s.begin()
		s.setBusyTimeout(tx, timeout)
		s.inBackground(run)
		return result
	}
	watcher := s.begin()
	pid, holder := scan[int](s, tx, "SELECT pg_backend_pid()"), scan[int](s, first, "SELECT pg_backend_pid()")
	s.inBackground(run)
	for !scan[bool](s, watcher, "SELECT $1::int = ANY (pg_blocking_pids($2::int))", holder, pid) {
		select {
		case got := <-result:
			require.Fail(s.t, "the second transaction did not wait for the first", "it was told %+v", got)
		default:
			runtime.Gosched()
		}
	}
	s.rollbackTx(watcher)
	return result
}

func (s *suite) setBusyTimeout(tx endstate.Tx, milliseconds int) {
	s.t.Helper()
	require.Equal(s.t, milliseconds, scan[int](s, tx, fmt.Sprintf("PRAGMA busy_timeout = %d", milliseconds)))
}

// inBackground runs f in a goroutine that has ended before the test's transactions are rolled back.
func (s *suite) inBackground(f func()) {
	var wg sync.WaitGroup
	wg.Go(f)
	s.t.Cleanup(wg.Wait) // the test's context, which f works on, has been cancelled by then
}

// independent checks that only one aggregate is held. SQLite has one write lock for all: there the holder holds nothing.
func (s *suite) independent() {
	a, b, holder, tx := s.Open(s.t), s.Open(s.t), s.begin(), s.begin()
	if s.postgres(holder) {
		s.claimOf(holder, a)
	}
	s.claimOf(tx, b)
	_, err := s.Guard.Settle(s.ctx, tx, b, s.to(s.States[0]))
	require.NoError(s.t, err)
	s.commit(tx)
	s.rollbackTx(holder)
	require.False(s.t, s.look(a).Final, "settling %v finalized %v", b, a)
}
