package audit_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox/audit"
)

// An audit that takes too long, or whose caller is gone, is an error and no half report.
func TestTimeout(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		db.incident(t)
		report, err := db.try(t.Context(), audit.Config{Timeout: time.Nanosecond})
		require.ErrorIs(t, err, audit.ErrTimeout)
		require.Nil(t, report)
		ctx, cancel := context.WithCancel(t.Context())
		report, err = db.try(ctx, audit.Config{Progress: func(done, _ int, _ string) {
			if done == 2 {
				cancel()
			}
		}})
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, report)
	})
}

// A connection that is lost midway leaves an error.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		if !db.postgres() {
			return
		}
		db.incident(t)
		ended := false
		report, err := db.try(t.Context(), audit.Config{Progress: func(done, _ int, _ string) {
			if done == 2 {
				require.NoError(t, db.sql.QueryRow(`SELECT bool_or(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction'`).Scan(&ended))
			}
		}})
		require.True(t, ended)
		require.Error(t, err)
		require.Nil(t, report)
	})
}

// An audit behind a writer's lock waits for its timeout, and no longer.
func TestTimeoutBehindALock(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		if !db.postgres() {
			return
		}
		db.outbox(t)
		tx, err := db.sql.Begin()
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback()) }()
		_, err = tx.Exec("LOCK TABLE event_outbox")
		require.NoError(t, err)
		_, err = db.try(t.Context(), audit.Config{Timeout: 300 * time.Millisecond})
		require.ErrorIs(t, err, audit.ErrTimeout)
		require.ErrorContains(t, err, "300ms")
	})
}
