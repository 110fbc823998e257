package guardtest

import (
	"errors"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
)

func (s *suite) claimOpen() {
	ref, tx := s.Open(s.t), s.begin()
	rec, err := s.Guard.Claim(s.ctx, tx, ref)
	require.NoError(s.t, err)
	require.False(s.t, rec.Final)
	require.Nil(s.t, rec.Provenance)
	if rec.XID != "" {
		require.Equal(s.t, s.xid(tx), rec.XID, "Record.XID is not the transaction's id")
	}
	// A second claim in the same transaction has nobody to wait for.
	s.claimOf(tx, ref)
}

func (s *suite) settle() {
	ref, tx, to := s.Open(s.t), s.begin(), s.to(s.States[0])
	before := s.clock(tx)
	s.claimOf(tx, ref)
	rec, err := s.Guard.Settle(s.ctx, tx, ref, to)
	require.NoError(s.t, err)
	s.requireRecord(rec, to)
	if s.Provenance {
		// The database's clock counts; SQLite's has milliseconds.
		require.False(s.t, rec.Provenance.At.Before(before.Truncate(time.Millisecond)), "At %v is before the transaction, which began at %v", rec.Provenance.At, before)
		require.False(s.t, rec.Provenance.At.After(s.clock(tx)), "At is after now")
	}
	within, err := s.Guard.Claim(s.ctx, tx, ref)
	require.NoError(s.t, err)
	s.requireSame(rec, within)
	s.commit(tx)
	s.requireSame(rec, s.look(ref))
}

func (s *suite) rollback() {
	ref, tx := s.Open(s.t), s.begin()
	s.claimOf(tx, ref)
	_, err := s.Guard.Settle(s.ctx, tx, ref, s.to(s.States[0]))
	require.NoError(s.t, err)
	s.rollbackTx(tx)

	// It is as open as ever: another attempt wins, with another state.
	tx, to := s.begin(), s.to(s.States[1])
	s.claimOf(tx, ref)
	_, err = s.Guard.Settle(s.ctx, tx, ref, to)
	require.NoError(s.t, err)
	s.commit(tx)
	s.requireRecord(s.look(ref), to)
}

func (s *suite) claimOnly() {
	ref, tx := s.Open(s.t), s.begin()
	s.claimOf(tx, ref)
	s.commit(tx)
	require.False(s.t, s.look(ref).Final, "a claim alone finalized %v", ref)
}

func (s *suite) compareAndSet() {
	ref, rec := s.finalized()
	for _, state := range s.States {
		tx := s.begin()
		_, err := s.Guard.Settle(s.ctx, tx, ref, s.to(state))
		require.ErrorIs(s.t, err, guard.ErrNotOpen, "Settle of a final aggregate")
		s.commit(tx)
		s.requireSame(rec, s.look(ref))
	}

	// Also within the transaction that settled it.
	ref = s.Open(s.t)
	tx, to := s.begin(), s.to(s.States[0])
	s.claimOf(tx, ref)
	_, err := s.Guard.Settle(s.ctx, tx, ref, to)
	require.NoError(s.t, err)
	_, err = s.Guard.Settle(s.ctx, tx, ref, s.to(s.States[1]))
	require.ErrorIs(s.t, err, guard.ErrNotOpen, "second Settle in one transaction")
	s.commit(tx)
	s.requireRecord(s.look(ref), to)
}

func (s *suite) notTerminal() {
	ref, tx := s.Open(s.t), s.begin()
	s.claimOf(tx, ref)
	_, err := s.Guard.Settle(s.ctx, tx, ref, s.to(s.NotTerminal))
	require.ErrorIs(s.t, err, guard.ErrNotTerminal, "Settle in state %q", s.NotTerminal)
	// Nothing was written, and the transaction is usable.
	s.claimOf(tx, ref)
	s.commit(tx)
	require.False(s.t, s.look(ref).Final)
}

func (s *suite) absent() {
	if s.Absent == nil {
		return
	}
	ref, tx := s.Absent(s.t), s.begin()
	changes := s.changes(tx)
	_, err := s.Guard.Claim(s.ctx, tx, ref)
	require.ErrorIs(s.t, err, guard.ErrNotFound, "Claim")
	if r := s.reader(); r != nil {
		_, err = r.Read(s.ctx, tx, ref)
		require.ErrorIs(s.t, err, guard.ErrNotFound, "Read")
	}
	require.Equal(s.t, changes, s.changes(tx), "rows were written")
	_, err = s.Guard.Settle(s.ctx, tx, ref, s.to(s.States[0]))
	require.True(s.t, errors.Is(err, guard.ErrNotFound) || errors.Is(err, guard.ErrNotOpen), "Settle of an absent aggregate returned %v", err)
}

// reader is the guard as a Reader, or nil if it can't be read. A guard that is made of others may tell by a method Readable.
func (s *suite) reader() guard.Reader {
	if r, ok := s.Guard.(interface{ Readable() bool }); ok && !r.Readable() {
		return nil
	}
	r, _ := s.Guard.(guard.Reader)
	return r
}

func (s *suite) read() {
	r := s.reader()
	if r == nil {
		return
	}
	ref, holder, to := s.Open(s.t), s.begin(), s.to(s.States[0])
	s.claimOf(holder, ref)
	_, err := s.Guard.Settle(s.ctx, holder, ref, to)
	require.NoError(s.t, err)

	// Another transaction holds it, and what that wrote isn't committed.
	tx := s.begin()
	changes := s.changes(tx)
	rec, err := r.Read(s.ctx, tx, ref)
	require.NoError(s.t, err)
	require.False(s.t, rec.Final, "Read returned what was not committed")
	s.requireNothingWritten(tx, changes)
	s.rollbackTx(tx)

	s.commit(holder)
	tx = s.begin()
	changes = s.changes(tx)
	rec, err = r.Read(s.ctx, tx, ref)
	require.NoError(s.t, err)
	s.requireRecord(rec, to)
	s.requireNothingWritten(tx, changes)
}
