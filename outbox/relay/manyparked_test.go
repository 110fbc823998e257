package relay_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// many is how many events these tests have parked, and piece of how many a statement may go over.
const many, piece = 250, 100

// parkAll parks many events that the cursors have passed, of one aggregate each or all of one, after which set says when they are due. On
// PostgreSQL, sizes has from then on how many parked events each statement changed.
func (db *database) parkAll(t *testing.T, oneAggregate bool, set string) {
	t.Helper()
	events := make([]outbox.Event, many)
	for i := range events {
		if events[i] = event(fmt.Sprint(i), ""); !oneAggregate {
			events[i].AggregateID = fmt.Sprint(i)
		}
	}
	db.Put(t, events...)
	cfg := quick()
	cfg.Start = relay.End
	stop := run(t, db.relay(t, &recorder{}, cfg))
	eventually(t, "the cursors are at the end", func() bool {
		return outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_cursors WHERE placements = 0") == outbox.Partitions
	})
	stop()
	db.Exec(t, `INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id)
SELECT 'default', partition, seq, id, aggregate_type, aggregate_id FROM endstate_outbox`)
	db.Exec(t, "UPDATE endstate_outbox_parked SET "+set)
	if db.SQLite {
		return
	}
	db.Exec(t, "CREATE TABLE sizes (n int)")
	db.Exec(t, "CREATE FUNCTION size() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO sizes SELECT count(*) FROM changed; RETURN NULL; END'")
	db.Exec(t, "CREATE TRIGGER size AFTER UPDATE ON endstate_outbox_parked REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION size()")
}

// inPieces is quick, with smaller statements.
func inPieces() *relay.Config {
	cfg := quick()
	cfg.BatchSize = piece
	relay.SetPiece(cfg, piece)
	return cfg
}

// requirePieces requires that many parked events were changed, by no statement all of them.
func (db *database) requirePieces(t *testing.T) {
	t.Helper()
	if !db.SQLite {
		require.LessOrEqual(t, outboxdbtest.One[int](t, db, "SELECT max(n) FROM sizes"), piece)
		require.GreaterOrEqual(t, outboxdbtest.One[int](t, db, "SELECT sum(n) FROM sizes"), many)
	}
}

// Events that wait behind nothing any more, since what they waited for was discarded meanwhile, are found.
func TestManyStrandedEventsAreFound(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		db.parkAll(t, false, "next_attempt_at = NULL")
		r := &recorder{}
		run(t, db.relay(t, r, inPieces()))
		db.settled(t)
		require.Len(t, r.published(), many)
		db.requirePieces(t)
	})
}

// An outage's end makes all that is parked due.
func TestManyParkedEventsAreDueAfterAnOutage(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		later := "clock_timestamp() + interval '1 hour'"
		if db.SQLite {
			later = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '1 hour')"
		}
		db.parkAll(t, false, "next_attempt_at = "+later)
		var away atomic.Bool
		away.Store(true)
		r := &recorder{fail: func(outbox.Event) error {
			if away.Load() {
				return errors.New("away")
			}
			return nil
		}}
		cfg := inPieces()
		blocked := make(chan error, 10)
		cfg.Trace = &relay.Trace{Blocked: func(_ context.Context, err error) { blocked <- err }}
		run(t, db.relay(t, r, cfg))
		db.Put(t, event("fresh", ""))
		require.Error(t, <-blocked)
		away.Store(false)
		db.settled(t)
		require.Len(t, r.published(), many+1)
		db.requirePieces(t)
	})
}

// A dead relay may have been publishing any of the parked events that were due; those that wait behind another one are suspects no longer
// than it is known what that one does.
func TestManySuspectsOfADeadRelay(t *testing.T) {
	t.Parallel()
	each(t, kinds, writer, func(t *testing.T, db *database) {
		db.parkAll(t, true, "next_attempt_at = parked_at WHERE seq = (SELECT min(seq) FROM endstate_outbox)")
		db.Exec(t, "UPDATE endstate_outbox_cursors SET careful = 1")
		cfg := inPieces()
		cfg.MinBackoff, cfg.MaxBackoff = time.Hour, time.Hour
		r := &recorder{fail: func(outbox.Event) error { return errors.New("refused") }}
		run(t, db.relay(t, r, cfg))
		eventually(t, "the suspects are acquitted", func() bool {
			return outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_cursors WHERE careful > 0") == 0
		})
		require.Zero(t, db.parked(t, "suspect"))
		db.requirePieces(t)
	})
}
