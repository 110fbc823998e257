package finalize

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// Where the server has said that a wait was cancelled, another call is to blame; where nothing came, it may be the database.
func TestBusySaysWhoMayBeToBlame(t *testing.T) {
	t.Parallel()
	const silent = "the database gives no answer"
	waited := busy(&pgconn.PgError{Severity: "ERROR", Code: sqltx.QueryCanceled, Routine: "ProcessInterrupts"})
	require.ErrorIs(t, waited, ErrBusy)
	require.Equal(t, sqltx.QueryCanceled, sqltx.State(waited))
	require.NotContains(t, waited.Error(), silent)
	lost := busy(context.DeadlineExceeded)
	require.ErrorIs(t, lost, ErrBusy)
	require.ErrorIs(t, lost, context.DeadlineExceeded)
	require.ErrorContains(t, lost, silent)
}

// An interrupt that no limit has armed is kept for a long time.
func TestAnIdleInterruptStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInterrupt().(*interrupt)
		time.Sleep(24 * time.Hour)
		require.False(t, i.timer.Stop())
		select {
		case <-i.over:
			t.Fatal("it has run")
		default:
		}
	})
}
