package finalize_test

import (
	"context"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"
)

// requireOpen checks that nothing at all was written for a batch.
func (w *world) requireOpen(id string) {
	w.t.Helper()
	require.Empty(w.t, w.state(id), "state of %s", id)
	require.Empty(w.t, w.events(id), "events of %s", id)
	require.Zero(w.t, w.writes(id), "the callback's own writes for %s", id)
	require.Zero(w.t, w.count("SELECT count(*) FROM transitions WHERE id = $1", id), "transitions of %s", id)
}

// requireFinal checks that a batch is in a terminal state with these events, after one transition.
func (w *world) requireFinal(id, state string, events ...string) {
	w.t.Helper()
	require.Equal(w.t, state, w.state(id), "state of %s", id)
	require.Equal(w.t, append([]string{}, events...), w.events(id), "events of %s", id)
	if w.hasStatus() {
		require.Equal(w.t, []string{state}, w.text("SELECT new FROM transitions WHERE id = $1", id), "transitions of %s", id)
	}
}

// requireInvariants checks I1 and I2 on all rows: at most one terminal transition, none out of a terminal state, and events
// if and only if there is one, each type once. Outcomes without events are those whose state is ERROR_QUIET.
func (w *world) requireInvariants() {
	w.t.Helper()
	terminal := func(column string) string {
		return fmt.Sprintf("(coalesce(%[1]s, '') LIKE 'COMPLETE%%' OR coalesce(%[1]s, '') LIKE 'ERROR%%')", column)
	}
	require.Empty(w.t, w.text("SELECT id FROM transitions WHERE "+terminal("new")+" GROUP BY id HAVING count(*) > 1"), "I1: more than one terminal transition")
	require.Empty(w.t, w.text("SELECT id FROM transitions WHERE "+terminal("old")), "I1: left a terminal state")
	require.Empty(w.t, w.text("SELECT aggregate_id FROM endstate_outbox WHERE aggregate_type = $1 GROUP BY aggregate_id, type, dedup_key HAVING count(*) > 1", aggregate), "I2: one event twice")
	final := "SELECT id FROM batches WHERE " + terminal("status")
	quiet := "status"
	if w.guard == "ledger" {
		final, quiet = `SELECT substr("key", 3) FROM endstate_ledger WHERE "key" LIKE 't:%'`, "state"
	}
	require.Empty(w.t, w.text("SELECT DISTINCT aggregate_id FROM endstate_outbox WHERE aggregate_type = $1 AND type <> 'elsewhere' AND aggregate_id NOT IN ("+final+")", aggregate), "I2: events without a state")
	require.Empty(w.t, w.text(final+" AND "+quiet+" <> 'ERROR_QUIET' EXCEPT SELECT aggregate_id FROM endstate_outbox WHERE aggregate_type = $1", aggregate), "I2: a state without its events")
	if w.guard == "all" {
		require.Empty(w.t, w.text("SELECT id FROM batches WHERE "+terminal("status")+` AND NOT EXISTS (SELECT 1 FROM endstate_ledger WHERE "key" = 't:' || id AND state = status)`), "status without its ledger entry")
		require.Empty(w.t, w.text(`SELECT "key" FROM endstate_ledger WHERE NOT EXISTS (SELECT 1 FROM batches WHERE "key" = 't:' || id AND state = status)`), "ledger entry without its status")
	}
}

// requireNothingHeld checks I7: every connection is back in its pool, and no transaction or lock is left in the database.
func (w *world) requireNothingHeld() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	inUse := func() int {
		if w.pool != nil {
			return int(w.pool.Stat().AcquiredConns())
		}
		return w.sqlDB.Stats().InUse
	}
	// A connection that was broken off is closed in the background.
	require.Eventually(w.t, func() bool { return inUse() == 0 }, time.Minute, time.Millisecond, "I7: connections that are not back in the pool")
	if w.sqlite() {
		conn, err := w.db.Conn(ctx)
		require.NoError(w.t, err)
		defer conn.Close()
		_, err = conn.ExecContext(ctx, "PRAGMA busy_timeout = 0; BEGIN IMMEDIATE; ROLLBACK; PRAGMA busy_timeout = 10000")
		require.NoError(w.t, err, "I7: somebody holds the write lock")
		return
	}
	// A backend that was told to go may take a moment.
	w.eventually(`SELECT count(*) = 0 FROM pg_stat_activity a WHERE application_name = $1
		AND (state <> 'idle' OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND locktype IN ('advisory', 'transactionid', 'tuple')))`, w.app)
}

// eventually waits until a query says true.
func (w *world) eventually(query string, args ...any) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	for {
		var yes bool
		require.NoError(w.t, w.db.QueryRowContext(ctx, query, args...).Scan(&yes), query)
		if yes {
			return
		}
	}
}

// waiting waits until n of the finalizer's backends wait for a lock.
func (w *world) waiting(n int) {
	w.t.Helper()
	w.eventually("SELECT count(*) >= $2 FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'", w.app, n)
}
