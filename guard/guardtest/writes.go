package guardtest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
)

func (s *suite) finalWritesNothing() {
	ref, rec := s.finalized()
	tx := s.begin()
	changes := s.changes(tx)
	got, err := s.Guard.Claim(s.ctx, tx, ref)
	require.NoError(s.t, err)
	s.requireSame(rec, got)
	require.Empty(s.t, got.XID, "the claim of a final aggregate took a transaction id")
	s.requireNothingWritten(tx, changes)
	if s.postgres(tx) {
		// Losers don't wait for each other either.
		other := s.begin()
		changes := s.changes(other)
		got, err = s.Guard.Claim(s.ctx, other, ref)
		require.NoError(s.t, err)
		s.requireSame(rec, got)
		s.requireNothingWritten(other, changes)
	}
	s.commit(tx)
	s.requireSame(rec, s.look(ref))
}

func (s *suite) lateSettleWritesNothing() {
	ref, rec := s.finalized()
	tx := s.begin()
	changes := s.changes(tx)
	_, err := s.Guard.Settle(s.ctx, tx, ref, s.to(s.States[1]))
	require.ErrorIs(s.t, err, guard.ErrNotOpen)
	s.requireNothingWritten(tx, changes)
	s.commit(tx)
	s.requireSame(rec, s.look(ref))
}

// requireNothingWritten checks that no row was written since changes were counted; and that PostgreSQL gave the transaction
// no id, without which it can neither write a row nor lock one, and that it holds no advisory lock. SQLite has one write
// lock for all, which a claim may take.
func (s *suite) requireNothingWritten(tx endstate.Tx, changes int) {
	s.t.Helper()
	require.Equal(s.t, changes, s.changes(tx), "rows were written")
	if !s.postgres(tx) {
		return
	}
	require.Empty(s.t, s.xid(tx), "the transaction was assigned an id")
	require.Zero(s.t, scan[int](s, tx, `SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype IN ('advisory', 'tuple', 'transactionid')`),
		"locks held, in pg_locks")
}

// xid is the transaction's id, or empty.
func (s *suite) xid(tx endstate.Tx) string {
	s.t.Helper()
	return scan[string](s, tx, "SELECT coalesce(pg_current_xact_id_if_assigned()::text, '')")
}

// changes counts the rows that were written: on SQLite by the connection, on PostgreSQL by the transaction and those before
// it on its connection that haven't been added to pg_stat_user_tables yet.
func (s *suite) changes(tx endstate.Tx) int {
	s.t.Helper()
	if s.postgres(tx) {
		return scan[int](s, tx, "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::int FROM pg_stat_xact_user_tables")
	}
	return scan[int](s, tx, "SELECT total_changes()")
}

// clock is the database's clock.
func (s *suite) clock(tx endstate.Tx) time.Time {
	s.t.Helper()
	if s.postgres(tx) {
		return scan[time.Time](s, tx, "SELECT clock_timestamp()")
	}
	at, err := time.Parse(time.RFC3339Nano, scan[string](s, tx, "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"))
	require.NoError(s.t, err)
	return at
}
