package adopt_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox/adopt"
)

func newMove(t testing.TB, pool *pgxpool.Pool, cfg adopt.MoveConfig) *adopt.Move {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	if cfg.AggregateType == "" {
		cfg.AggregateName = "order"
	}
	m, err := adopt.NewMove(pool, cfg)
	require.NoError(t, err)
	return m
}

// moveWorld is a database with the library's outbox.
func moveWorld(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := dbtest.Pool(t)
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return adopt.MoveConfig{}.Outbox.Migrate(t.Context(), tx) }))
	return pool
}

// moved are the events of the library's outbox as text, in order.
const moved = `SELECT concat_ws(' ', aggregate_type, aggregate_id, type, convert_from(payload, 'UTF8'), content_type, headers, to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'))
FROM endstate_outbox ORDER BY seq`

func TestMoveTakesTheShapesPeopleHave(t *testing.T) {
	t.Parallel()
	for name, shape := range map[string]struct {
		table  string // its definition, and three rows, of which the second is published
		cfg    adopt.MoveConfig
		events []string
		held   string // what the published column holds afterwards, everywhere
	}{
		"bigserial, text, timestamp": {
			`CREATE TABLE event_outbox (id bigserial PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL, payload text NOT NULL, created_at timestamp NOT NULL, published_at timestamp);
INSERT INTO event_outbox (aggregate_id, event_type, payload, created_at, published_at) VALUES
	('7', 'paid', '{"b": 1,  "a": 2}', '2026-05-01 12:00', NULL), ('7', 'paid', '{}', '2026-05-01 12:00', now()), ('8', 'paid', '{}', '2026-05-01 12:01', NULL)`,
			adopt.MoveConfig{TimeZone: "Europe/Stockholm"},
			[]string{`order 7 paid {"b": 1,  "a": 2} application/json {"source-id": "1"} 2026-05-01 10:00`, `order 8 paid {} application/json {"source-id": "3"} 2026-05-01 10:01`},
			"published_at IS NOT NULL",
		},
		"uuid, json, a status, headers": {
			`CREATE TYPE state AS ENUM ('NEW', 'SENT');
CREATE TABLE mail (uid uuid PRIMARY KEY DEFAULT gen_random_uuid(), kind text, root uuid NOT NULL, what varchar(40) NOT NULL, body json NOT NULL, meta jsonb, at timestamptz NOT NULL DEFAULT now(), n int GENERATED ALWAYS AS IDENTITY, state state NOT NULL DEFAULT 'NEW');
INSERT INTO mail (kind, root, what, body, meta, at, state) VALUES
	('cart', '00000000-0000-0000-0000-000000000007', 'left', '{"b": 1,  "a": 2}', '{"trace": "x", "n": 5, "nil": null}', '2026-05-01 12:00Z', 'NEW'),
	('cart', '00000000-0000-0000-0000-000000000007', 'left', '{}', NULL, '2026-05-01 12:00Z', 'SENT'), (NULL, '00000000-0000-0000-0000-000000000008', 'left', '{}', '[]', '2026-05-01 11:00Z', 'NEW')`,
			adopt.MoveConfig{Table: "mail", ID: "uid", AggregateType: "kind", Aggregate: "root", Type: "what", Payload: "body", Headers: "meta", Time: "at", Order: "n", Published: "state", PublishedValue: "SENT", PendingValue: "NEW"},
			[]string{`cart 00000000-0000-0000-0000-000000000007 left {"b": 1,  "a": 2} application/json {"n": "5", "nil": "", "trace": "x"} 2026-05-01 12:00`},
			"state = 'SENT'",
		},
		"text ids, jsonb, a boolean, by time": {
			`CREATE DOMAIN short AS text CHECK (VALUE <> '');
CREATE DOMAIN code AS short;
CREATE TABLE event_outbox (id code PRIMARY KEY, aggregate_id int NOT NULL, event_type text NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL, key text, sent boolean NOT NULL DEFAULT false);
INSERT INTO event_outbox VALUES ('z', 7, 'paid', '{"b": 1,  "a": 2}', '2026-05-01 12:00Z', 'k', false), ('y', 7, 'paid', '{}', '2026-05-01 12:00Z', NULL, true), ('0199A9C4-8a3e-7cc1-b9ef-7f3c6fb1d1a4', 7, 'paid', '{}', '2026-05-01 12:01Z', NULL, false)`,
			adopt.MoveConfig{Published: "sent", DedupKey: "key"},
			[]string{`order 7 paid {"a": 2, "b": 1} application/json {"source-id": "z"} 2026-05-01 12:00`, `order 7 paid {} application/json {"source-id": "0199A9C4-8a3e-7cc1-b9ef-7f3c6fb1d1a4"} 2026-05-01 12:01`},
			"sent",
		},
		"partitions, bytea": {
			`CREATE TABLE event_outbox (id bigint GENERATED ALWAYS AS IDENTITY, aggregate_id text NOT NULL, event_type text NOT NULL, payload bytea NOT NULL, created_at timestamptz NOT NULL, published_at timestamptz, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);
CREATE TABLE old PARTITION OF event_outbox FOR VALUES FROM (MINVALUE) TO ('2026-05-01'); CREATE TABLE new PARTITION OF event_outbox FOR VALUES FROM ('2026-05-01') TO (MAXVALUE);
INSERT INTO event_outbox (aggregate_id, event_type, payload, created_at, published_at) VALUES ('7', 'paid', 'one', '2026-05-01 12:00Z', NULL), ('7', 'paid', 'two', '2026-05-01 12:00Z', now()), ('7', 'paid', 'three', '2026-04-01 12:00Z', NULL)`,
			adopt.MoveConfig{ContentType: "text/plain"},
			[]string{`order 7 paid one text/plain {"source-id": "1"} 2026-05-01 12:00`, `order 7 paid three text/plain {"source-id": "3"} 2026-04-01 12:00`},
			"published_at IS NOT NULL",
		},
	} {
		for _, quoted := range []string{"off", "on"} {
			t.Run(name+", quote_all_identifiers "+quoted, func(t *testing.T) {
				t.Parallel()
				pool := moveWorld(t)
				exec(t, pool, fmt.Sprintf("ALTER DATABASE %s SET quote_all_identifiers = %s", pgx.Identifier{pool.Config().ConnConfig.Database}.Sanitize(), quoted))
				pool.Reset()
				exec(t, pool, strings.Split(shape.table, ";\n")...)
				m := newMove(t, pool, shape.cfg)
				want := int64(len(shape.events))
				if name == "uuid, json, a status, headers" {
					// One has no aggregate type: said before anything is touched.
					_, err := m.Apply(t.Context())
					require.ErrorIs(t, err, adopt.ErrSchema)
					require.ErrorContains(t, err, "has an aggregate type of 0 bytes")
					require.Empty(t, list(t, pool, moved))
					exec(t, pool, "DELETE FROM mail WHERE kind IS NULL")
				}
				plan, err := m.Plan(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, plan.Pending)
				require.False(t, plan.Moving)
				result, err := m.Apply(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, result.Moved)
				require.Equal(t, shape.events, list(t, pool, moved))
				table := shape.cfg.Table
				if table == "" {
					table = "event_outbox"
				}
				require.Equal(t, []string{"0"}, list(t, pool, fmt.Sprintf("SELECT count(*)::text FROM %s WHERE NOT (%s)", table, shape.held)), "the old relay finds nothing")
				plan, err = m.Plan(t.Context())
				require.NoError(t, err)
				require.Zero(t, plan.Pending)
				require.True(t, plan.Moving)

				// A relay of ours published the first. The rest goes back, as it was.
				exec(t, pool, "INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('default', '[]', '', 'begin')",
					`INSERT INTO endstate_outbox_cursors (subscription, partition, token, position, prior_position, snapshot, cluster)
SELECT 'default', p, gen_random_uuid(), (SELECT min(seq) FROM endstate_outbox), 0, pg_current_snapshot(), 0 FROM generate_series(0, 7) p`)
				result, err = m.Undo(t.Context())
				require.NoError(t, err)
				require.Equal(t, want-1, result.Moved)
				require.Equal(t, shape.events[:1], list(t, pool, moved))
				require.Equal(t, []string{strconv.FormatInt(want-1, 10)}, list(t, pool, fmt.Sprintf("SELECT count(*)::text FROM %s WHERE NOT (%s)", table, shape.held)))
				_, err = m.Undo(t.Context())
				require.ErrorIs(t, err, adopt.ErrNothing)
			})
		}
	}
}

func TestMoveRefusesWhatItCantTake(t *testing.T) {
	t.Parallel()
	const usual = "id bigserial PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL, created_at timestamptz NOT NULL"
	for said, table := range map[string]string{
		`column "payload" of "public"."event_outbox" does not exist`:   "CREATE TABLE event_outbox (" + usual + ", published_at timestamptz)",
		`"payload" of "public"."event_outbox" is of type xml`:          "CREATE TABLE event_outbox (" + usual + ", payload xml, published_at timestamptz)",
		"is of type smallint, which doesn't tell what is published":    "CREATE TABLE event_outbox (" + usual + ", payload text NOT NULL, published_at smallint NOT NULL DEFAULT 0)",
		"is of type timestamp with time zone, which doesn't tell":      "CREATE TABLE event_outbox (" + usual + ", payload text NOT NULL, published_at timestamptz NOT NULL DEFAULT 'epoch')",
		`"event_outbox" is no table`:                                   "CREATE VIEW event_outbox AS SELECT 1 AS id",
		`column "id" of "public"."event_outbox" may be NULL`:           "CREATE TABLE event_outbox (id uuid, aggregate_id text NOT NULL, event_type text NOT NULL, created_at timestamptz NOT NULL, payload text NOT NULL, published_at timestamptz)",
		"has a payload that is not valid JSON":                         "CREATE TABLE event_outbox (" + usual + ", payload text NOT NULL, published_at timestamptz); INSERT INTO event_outbox (aggregate_id, event_type, payload, created_at) VALUES ('7', 'paid', 'x', now())",
		"has a payload of 1048577 bytes; Outbox.MaxPayload is 1048576": "CREATE TABLE event_outbox (" + usual + ", payload text NOT NULL, published_at timestamptz); INSERT INTO event_outbox (aggregate_id, event_type, payload, created_at) VALUES ('7', 'paid', repeat('1', 1048577), now())",
		"has a type of 0 bytes":                                        "CREATE TABLE event_outbox (" + usual + ", payload text NOT NULL, published_at timestamptz); INSERT INTO event_outbox (aggregate_id, event_type, payload, created_at) VALUES ('7', '', '{}', now())",
		`table "event_outbox" does not exist`:                          "",
	} {
		t.Run(said, func(t *testing.T) {
			t.Parallel()
			pool := moveWorld(t)
			exec(t, pool, table)
			_, err := newMove(t, pool, adopt.MoveConfig{}).Apply(t.Context())
			require.ErrorIs(t, err, adopt.ErrSchema)
			require.ErrorContains(t, err, said)
			require.Empty(t, list(t, pool, "SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal"))
		})
	}
}

// Writers go on in the old table, and a relay of the service's own that holds the rows that it publishes goes on, too. All events
// reach the old consumers or the outbox, each once, and those of an aggregate in order.
func TestMoveWhileWritersGoOn(t *testing.T) {
	t.Parallel()
	pool := moveWorld(t)
	exec(t, pool, `CREATE TABLE event_outbox (id bigserial PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL, payload text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), published_at timestamptz)`,
		`CREATE TABLE aggregates (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)`, `INSERT INTO aggregates SELECT i FROM generate_series(0, 9) i`)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	var written atomic.Int64
	write := func() error {
		return pgx.BeginFunc(context.WithoutCancel(ctx), pool, func(tx pgx.Tx) error {
			var n int
			id := rand.IntN(10)
			if err := tx.QueryRow(context.WithoutCancel(ctx), "UPDATE aggregates SET n = n + 1 WHERE id = $1 RETURNING n", id).Scan(&n); err != nil {
				return err
			}
			_, err := tx.Exec(context.WithoutCancel(ctx), "INSERT INTO event_outbox (aggregate_id, event_type, payload) VALUES ($1::text, 'counted', $2::text)", strconv.Itoa(id), strconv.Itoa(n))
			written.Add(1)
			return err
		})
	}
	for range 4 {
		group.Go(func() {
			for ctx.Err() == nil {
				if err := write(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var published []string
	relayed, endRelay := context.WithCancel(ctx)
	defer endRelay()
	var relaying sync.WaitGroup
	relaying.Go(func() {
		for relayed.Err() == nil {
			err := pgx.BeginFunc(context.WithoutCancel(ctx), pool, func(tx pgx.Tx) error {
				rows, err := tx.Query(context.WithoutCancel(ctx), `WITH picked AS (SELECT id FROM event_outbox WHERE published_at IS NULL ORDER BY id LIMIT 20 FOR UPDATE)
UPDATE event_outbox e SET published_at = now() FROM picked WHERE picked.id = e.id RETURNING e.id, e.aggregate_id || ' ' || e.payload`)
				if err != nil {
					return err
				}
				type event struct {
					ID   int64
					Text string
				}
				events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[event])
				slices.SortFunc(events, func(a, b event) int { return int(a.ID - b.ID) })
				for _, e := range events {
					published = append(published, e.Text)
				}
				return err
			})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	require.Eventually(t, func() bool { return written.Load() > 200 }, time.Minute, time.Millisecond)
	m := newMove(t, pool, adopt.MoveConfig{Batch: 10})
	endRelay()
	relaying.Wait()
	backlog := written.Load() + 50
	require.Eventually(t, func() bool { return written.Load() > backlog }, time.Minute, time.Millisecond)

	// Killed once in the middle, and run twice at a time.
	broken, kill := context.WithCancel(ctx)
	killed := newMove(t, pool, adopt.MoveConfig{Batch: 10, Progress: func(string, int64) { kill() }})
	_, err := killed.Apply(broken)
	require.ErrorIs(t, err, context.Canceled)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if _, err := m.Apply(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	after := written.Load() + 200
	require.Eventually(t, func() bool { return written.Load() > after }, time.Minute, time.Millisecond)
	stop()
	group.Wait()
	_, err = m.Finish(t.Context())
	require.NoError(t, err)

	require.Equal(t, []string{"0"}, list(t, pool, "SELECT count(*)::text FROM event_outbox WHERE published_at IS NULL"))
	var total int
	for id, n := range list(t, pool, "SELECT n::text FROM aggregates ORDER BY id") {
		var got []string
		for _, e := range append(slices.Clone(published), list(t, pool, "SELECT aggregate_id || ' ' || convert_from(payload, 'UTF8') FROM endstate_outbox ORDER BY seq")...) {
			if aggregate, text, _ := strings.Cut(e, " "); aggregate == strconv.Itoa(id) {
				got = append(got, text)
			}
		}
		last, err := strconv.Atoi(n)
		require.NoError(t, err)
		want := make([]string, last)
		for i := range want {
			want[i] = strconv.Itoa(i + 1)
		}
		require.Equal(t, want, got, "aggregate %d", id)
		total += last
	}
	require.EqualValues(t, written.Load(), total)
	require.Empty(t, list(t, pool, "SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal"))
	_, err = m.Finish(t.Context())
	require.ErrorIs(t, err, adopt.ErrNothing)
}

// What was set aside or never shown to the cursor goes back, a dead letter stays, and a relay that runs has to end first.
func TestUndoAMoveAfterTheRelayHasBegun(t *testing.T) {
	t.Parallel()
	pool := moveWorld(t)
	exec(t, pool, `CREATE TABLE event_outbox (id uuid PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL, payload text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), published_at timestamptz)`)
	ids := map[string]uuid.UUID{}
	put := func(names ...string) {
		for _, name := range names {
			ids[name] = uuid.Must(uuid.NewV7())
			exec(t, pool, fmt.Sprintf("INSERT INTO event_outbox (id, aggregate_id, event_type, payload) VALUES ('%s', '7', '%s', '{}')", ids[name], name))
		}
	}
	put("published", "parked", "dead")
	m := newMove(t, pool, adopt.MoveConfig{})
	_, err := m.Apply(t.Context())
	require.NoError(t, err)

	// A transaction that is open when the cursor passes its event, and one that comes after.
	late, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = late.Rollback(context.Background()) }()
	_, err = late.Exec(t.Context(), "INSERT INTO event_outbox (id, aggregate_id, event_type, payload) VALUES (gen_random_uuid(), '8', 'late', '{}')")
	require.NoError(t, err)
	exec(t, pool, "INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('default', '[]', '', 'begin')",
		`INSERT INTO endstate_outbox_cursors (subscription, partition, token, position, prior_position, snapshot, cluster)
SELECT 'default', p, gen_random_uuid(), 100, 0, pg_current_snapshot(), 0 FROM generate_series(0, 7) p`)
	require.NoError(t, late.Commit(t.Context()))
	exec(t, pool, "SELECT setval('endstate_outbox_seq_seq', 100)")
	put("after")
	for _, name := range []string{"parked", "dead"} {
		exec(t, pool, fmt.Sprintf(`INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, dead_at)
SELECT 'default', partition, seq, id, aggregate_type, aggregate_id, CASE type WHEN 'dead' THEN now() END FROM endstate_outbox WHERE type = '%s'`, name))
	}
	exec(t, pool, "INSERT INTO endstate_outbox_relays (id, subscription, name, expires_at) VALUES (gen_random_uuid(), 'default', 'here', now() + interval '1 day')")
	_, err = m.Undo(t.Context())
	require.ErrorIs(t, err, adopt.ErrRelay)
	exec(t, pool, "DELETE FROM endstate_outbox_relays")
	result, err := m.Undo(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int64{3, 1}, []int64{result.Moved, result.Left})
	require.Equal(t, []string{"after", "late", "parked"}, list(t, pool, "SELECT event_type FROM event_outbox WHERE published_at IS NULL ORDER BY 1"))
	require.Equal(t, []string{"dead", "published"}, list(t, pool, "SELECT type FROM endstate_outbox ORDER BY 1"))
	require.Equal(t, []string{"dead"}, list(t, pool, "SELECT e.type FROM endstate_outbox_parked p JOIN endstate_outbox e USING (partition, seq)"))

	// There and back again.
	result, err = m.Apply(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(3), result.Moved)
}

func TestMoveConfigs(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	for said, cfg := range map[string]adopt.MoveConfig{
		"AggregateType or AggregateName must be set":  {},
		"PublishedValue and PendingValue go together": {AggregateName: "order", PublishedValue: "SENT"},
		"PublishedValue is the PendingValue":          {AggregateName: "order", PublishedValue: "SENT", PendingValue: "SENT"},
		"MoveConfig.Batch is -1":                      {AggregateName: "order", Batch: -1},
		"MoveConfig.LockTimeout is 1ns":               {AggregateName: "order", LockTimeout: 1},
		"MoveConfig.Table":                            {AggregateName: "order", Table: "a\x00b"},
	} {
		_, err := adopt.NewMove(pool, cfg)
		require.ErrorIs(t, err, adopt.ErrConfig)
		require.ErrorContains(t, err, said)
	}
	_, err := adopt.NewMove(nil, adopt.MoveConfig{AggregateName: "order"})
	require.ErrorContains(t, err, "pool is nil")
}
