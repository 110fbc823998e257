package relay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// F37: rows that SQL users can insert and Go can't read are refused, or dead letters with a reason, or published; nobody else waits.
func TestBadRowsStopNobody(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		insert := func(id, headers, occurred string) error {
			return db.Try(func(ctx context.Context, tx endstate.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO endstate_outbox (partition, id, aggregate_type, aggregate_id, type, payload, headers, occurred_at)
VALUES (1, '`+id+`', 'hand', '`+id+`', 'made', `+map[bool]string{true: "CAST('{}' AS BLOB)", false: "'{}'"}[db.SQLite]+`, '`+headers+`', '`+occurred+`')`)
				return err
			})
		}
		good := "2026-01-02T03:04:05Z"
		require.NoError(t, insert(uuid.NewString(), `{"a": "b"}`, good))
		bad := 0
		for _, row := range [][2]string{{`{"n": 1}`, good}, {`{"n": ["x"]}`, good}, {`[]`, good}, {`"x"`, good}, {`null`, good}, {`{}`, "infinity"}, {`{}`, "-infinity"}, {`{}`, "12026-01-02T03:04:05Z"}} {
			err := insert(uuid.NewString(), row[0], row[1])
			if !db.SQLite {
				require.ErrorContains(t, err, "23514", "%v", row)
			} else if row[0] != "null" { // which Go reads as no headers
				require.NoError(t, err)
				bad++
			}
		}
		if db.SQLite {
			require.NoError(t, insert("no-uuid", "{}", good))
			bad++
		} else {
			// As in a table that was made otherwise.
			db.Exec(t, "ALTER TABLE endstate_outbox DROP CONSTRAINT endstate_outbox_headers_check, DROP CONSTRAINT endstate_outbox_occurred_at_check")
			require.NoError(t, insert(uuid.NewString(), `{"n": 1}`, good))
			require.NoError(t, insert(uuid.NewString(), `{}`, "infinity"))
			bad = 2
		}
		db.aggregates(t, 20, 2)
		r := &recorder{}
		run(t, db.relay(t, r, quick()))
		db.settled(t)
		require.GreaterOrEqual(t, len(r.published()), 41)
		require.Equal(t, bad, db.parked(t, "dead_at IS NOT NULL AND last_error LIKE 'the row can''t be read: %'"))
		if db.SQLite {
			require.Equal(t, 1, db.parked(t, "last_error LIKE 'the row can''t be read: id: %'"))
		}
	})
}

// Somebody deletes the row of an event that is parked, as by hand, or as a purge may beside a replay. Nobody can publish it, and what
// waits behind it is published.
func TestAParkedEventWhoseRowIsDeletedHoldsUpNobody(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 3, 4)
		r := &recorder{fail: func(e outbox.Event) error {
			if e.AggregateID == "a0" && e.Type == "1" {
				return errors.New("refused")
			}
			return nil
		}}
		log := &dbtest.Log{}
		cfg := quick()
		cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
		stop := run(t, db.relay(t, r, cfg))
		eventually(t, "it is parked, and what is behind it", func() bool { return db.parked(t, "aggregate_id = 'a0'") == 3 })
		stop()
		db.Exec(t, "DELETE FROM endstate_outbox WHERE aggregate_id = 'a0' AND type = '1'")
		run(t, db.relay(t, r, cfg))
		eventually(t, "nothing is parked", func() bool { return db.parked(t, "1 = 1") == 0 })
		require.Equal(t, []string{"0", "2", "3"}, r.first("a0"))
		require.Contains(t, log.String(), "events are gone from the outbox")
	})
}

// F37: readings are bounded by bytes, whatever the sizes are that come one after the other.
func TestMixedSizes(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.Migrate(t, outbox.Writer{})
	var big []outbox.Event
	for i := range 150 {
		e := event(fmt.Sprint(i), "")
		e.AggregateID, e.ContentType, e.Payload = uuid.NewString(), "text/plain", []byte("ab")
		if i%2 == 0 {
			e.Payload = []byte(strings.Repeat("x", 10<<20))
		}
		big = append(big, e)
	}
	for chunk := 0; chunk < len(big); chunk += 10 {
		db.In(t, func(ctx context.Context, tx endstate.Tx) {
			_, err := outbox.Writer{MaxPayload: 11 << 20}.Put(ctx, tx, big[chunk:chunk+10]...)
			require.NoError(t, err)
		})
	}
	sizes := map[string]int{}
	largest := 0
	r := publisherFunc(func(_ context.Context, batch []outbox.Event) []error {
		size := 0
		for _, e := range batch {
			sizes[e.Type] = len(e.Payload)
			size += len(e.Payload)
		}
		largest = max(largest, size)
		return nil
	})
	cfg := quick()
	cfg.LeaseTTL = 2 * time.Second
	stop := run(t, db.relay(t, r, cfg))
	db.settled(t)
	stop()
	require.Len(t, sizes, 150)
	for i := range 150 {
		require.Equal(t, map[bool]int{true: 10 << 20, false: 2}[i%2 == 0], sizes[fmt.Sprint(i)])
	}
	require.Less(t, largest, 11<<20)
}

// F37: a reading that times out is tried smaller, down to one event.
func TestReadingsThatTimeOut(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	db := on(t, url)
	db.Migrate(t, outbox.Writer{})
	log := &dbtest.Log{}
	// 20 ms are far too short for 8 MB on most machines.
	for timeout := 20 * time.Millisecond; !strings.Contains(log.String(), "a reading timed out"); timeout /= 2 {
		require.Greater(t, timeout, time.Millisecond, "the fault doesn't fire")
		var events []outbox.Event
		for i := range 200 {
			e := event(fmt.Sprint(i), "")
			e.AggregateID, e.ContentType, e.Payload = fmt.Sprint(i%40), "text/plain", make([]byte, 1<<20)
			events = append(events, e)
		}
		for chunk := 0; chunk < len(events); chunk += 20 {
			db.Put(t, events[chunk:chunk+20]...)
		}
		slow := on(t, fmt.Sprintf("%s&options=-c%%20statement_timeout%%3D%dms", url, timeout.Milliseconds()))
		r, cfg := &recorder{}, quick()
		cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		stop := run(t, slow.relay(t, r, cfg))
		eventually(t, "all", func() bool { return len(r.published()) >= 200 })
		db.settled(t)
		stop()
		for _, e := range r.published() {
			require.Len(t, e.Payload, 1<<20)
		}
	}
}
