package inbox_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// A driver's COMMIT needn't say that it rolled back.
func TestASwallowedErrorIsNoSuccess(t *testing.T) {
	for _, database := range []string{"pgx", "sql"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			c := newConsumer(t, "table", database)
			_, err := c.way(func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
				_, err := tx.Exec(ctx, "SELECT 1 / 0")
				require.Error(t, err)
				return nil
			})(t.Context(), event())
			require.ErrorIs(t, err, inbox.ErrTxAborted)
			require.Equal(t, "failed", c.text(`SELECT state FROM endstate_inbox`))
		})
	}
}

// A driver that answers late would say of the record, or of COMMIT, what it owes for another statement.
func TestLeavingRowsOpenIsNoSuccess(t *testing.T) {
	for _, database := range []string{"pgx", "sql"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			c := newConsumer(t, "table", database)
			var left pgx.Rows
			_, err := c.way(func(ctx context.Context, tx endstate.Querier, event outbox.Event) (err error) {
				_, err = tx.Exec(ctx, "UPDATE batches SET status = 'COMPLETE'")
				require.NoError(t, err)
				left, err = tx.Query(ctx, "SELECT generate_series(1, 100000)")
				require.NoError(t, err)
				require.True(t, left.Next())
				return nil
			})(t.Context(), event())
			left.Close()
			require.ErrorContains(t, err, "busy")
			require.Equal(t, "failed", c.text(`SELECT state FROM endstate_inbox`))
			require.Zero(t, c.count(`SELECT count(*) FROM batches WHERE status = 'COMPLETE'`))
		})
	}
}

// A deferred constraint fails at COMMIT, each time: it counts as the event's failure.
func TestAFailureAtCommitIsTheEvents(t *testing.T) {
	for _, database := range []string{"pgx", "sql"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			c := newConsumer(t, "table", database)
			c.exec(`CREATE TABLE parents (id int PRIMARY KEY)`)
			c.exec(`CREATE TABLE children (parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)`)
			_, err := c.way(func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
				_, err := tx.Exec(ctx, `INSERT INTO children VALUES (1)`)
				return err
			})(t.Context(), event())
			require.Equal(t, "23503", sqltx.State(err), "%v", err)
			require.Zero(t, c.count(`SELECT count(*) FROM children`))
			require.Equal(t, "failed", c.text(`SELECT state FROM endstate_inbox`))
		})
	}
}

// What a newer version, or somebody's hand, left in the table under the event's key: it may stand for an effect that happened, so
// the event isn't handled, and it stays the broker's until somebody has looked.
func TestARecordThatIsNotOurs(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		for change, says := range map[string]string{
			"state = 'paused'": `its record is in state "paused", which isn't known`,
			"digest = x'00'":   "its record has a digest of 1 bytes instead of 32",
		} {
			if !c.sqlite() {
				change = strings.Replace(change, "x'00'", `'\x00'`, 1)
			}
			e := event()
			_, err := c.way(charge)(t.Context(), e)
			require.NoError(t, err)
			before := c.credits()
			c.exec(`UPDATE endstate_inbox SET ` + change + ` WHERE key = '` + e.ID.String() + `'`)
			_, err = c.way(charge)(t.Context(), e)
			require.ErrorContains(t, err, says)
			require.Equal(t, before, c.credits())
		}
	})
}
