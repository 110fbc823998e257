package adopt_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox/adopt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newAdoption(t testing.TB, pool *pgxpool.Pool, cfg adopt.Config) *adopt.Adoption {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	a, err := adopt.New(pool, cfg)
	require.NoError(t, err)
	return a
}

func exec(t testing.TB, pool *pgxpool.Pool, statements ...string) {
	t.Helper()
	for _, s := range statements {
		_, err := pool.Exec(context.Background(), s)
		require.NoError(t, err, s)
	}
}

// list reads one column of text.
func list(t testing.TB, pool *pgxpool.Pool, query string) []string {
	t.Helper()
	rows, err := pool.Query(context.Background(), query)
	require.NoError(t, err)
	defer rows.Close()
	values := []string{}
	for rows.Next() {
		var v string
		require.NoError(t, rows.Scan(&v))
		values = append(values, v)
	}
	require.NoError(t, rows.Err())
	return values
}

// outbox makes a table whose rows are named by their ids.
func outbox(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, `CREATE TABLE event_outbox (n bigint GENERATED ALWAYS AS IDENTITY, id text PRIMARY KEY, aggregate_id uuid, event_type varchar(40), payload jsonb NOT NULL DEFAULT '{}',
	created_at timestamptz, published_at timestamptz, size int GENERATED ALWAYS AS (length(id)) STORED)`,
		// Of a the first published stays, of b the oldest, of c the one with a time; d and what has no aggregate or type are no duplicates.
		`INSERT INTO event_outbox (id, aggregate_id, event_type, created_at, published_at) VALUES
	('a1', '00000000-0000-0000-0000-00000000000a', 'done', '2025-11-15 12:00', NULL),
	('a2', '00000000-0000-0000-0000-00000000000a', 'done', '2025-11-15 12:01', '2025-11-15 14:00'),
	('a3', '00000000-0000-0000-0000-00000000000a', 'done', '2025-11-15 12:02', '2025-11-15 13:00'),
	('b1', '00000000-0000-0000-0000-00000000000b', 'done', '2025-11-15 12:05', NULL),
	('b2', '00000000-0000-0000-0000-00000000000b', 'done', '2025-11-15 12:04', NULL),
	('c1', '00000000-0000-0000-0000-00000000000c', 'done', NULL, NULL),
	('c2', '00000000-0000-0000-0000-00000000000c', 'done', '2025-11-15 12:05', NULL),
	('d1', '00000000-0000-0000-0000-00000000000d', 'done', '2025-11-15 12:05', NULL),
	('d2', '00000000-0000-0000-0000-00000000000d', 'other', '2025-11-15 12:05', NULL),
	('e1', NULL, 'done', '2025-11-15 12:05', NULL), ('e2', NULL, 'done', '2025-11-15 12:05', NULL),
	('f1', '00000000-0000-0000-0000-00000000000f', NULL, '2025-11-15 12:05', NULL), ('f2', '00000000-0000-0000-0000-00000000000f', NULL, '2025-11-15 12:05', NULL)`)
}

const original = "SELECT to_jsonb(e)::text FROM event_outbox e ORDER BY id"

// left are the objects that an adoption makes, but for the table and its primary key.
func left(t testing.TB, pool *pgxpool.Pool) []string {
	t.Helper()
	return list(t, pool, `SELECT relname::text FROM pg_class WHERE relname LIKE '%endstate%' AND relkind IN ('r', 'i') AND relname NOT LIKE '%pkey'
UNION ALL SELECT proname::text FROM pg_proc WHERE proname LIKE '%endstate%' UNION ALL SELECT tgname::text FROM pg_trigger WHERE tgname LIKE '%endstate%' ORDER BY 1`)
}

func TestAdoptAndUndo(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	outbox(t, pool)
	before := list(t, pool, original)
	a := newAdoption(t, pool, adopt.Config{Batch: 2, Add: []adopt.Column{{Name: "headers", Type: "jsonb"}, {Name: "payload", Type: "jsonb"}}})
	plan, err := a.Plan(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 4, plan.Duplicates)
	require.EqualValues(t, 3, plan.Aggregates)
	require.EqualValues(t, 1, plan.Published)
	require.Equal(t, []string{`"headers" jsonb`}, plan.Columns)
	require.Equal(t, `CREATE UNIQUE INDEX CONCURRENTLY "event_outbox_endstate_unique" ON "public"."event_outbox" ("aggregate_id", "event_type")`, plan.Index)
	require.Empty(t, left(t, pool), "a plan only reads")

	_, err = a.Undo(t.Context())
	require.ErrorIs(t, err, adopt.ErrNothing)
	r, err := a.Apply(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 4, r.Moved)
	require.EqualValues(t, 4, r.Backed)
	require.Equal(t, 1, r.Columns)
	require.Equal(t, []string{"a3", "b2", "c2", "d1", "d2", "e1", "e2", "f1", "f2"}, list(t, pool, "SELECT id FROM event_outbox ORDER BY id"))
	require.Equal(t, []string{"a1", "a2", "b1", "c1"}, list(t, pool, "SELECT id FROM event_outbox_endstate_removed ORDER BY id"))
	require.Equal(t, []string{"endstate_adoptions", "event_outbox_endstate_removed", "event_outbox_endstate_unique"}, left(t, pool))
	_, err = pool.Exec(t.Context(), "INSERT INTO event_outbox (id, aggregate_id, event_type) VALUES ('a4', '00000000-0000-0000-0000-00000000000a', 'done')")
	require.True(t, sqltx.Unique(err), "%v", err)

	// Again, there is nothing to do.
	plan, err = a.Plan(t.Context())
	require.NoError(t, err)
	require.Empty(t, plan.Steps)
	require.Equal(t, "done", plan.Step)
	r, err = a.Apply(t.Context())
	require.NoError(t, err)
	require.Zero(t, r.Moved)
	require.EqualValues(t, 4, r.Backed)

	// With other columns it is another adoption.
	_, err = newAdoption(t, pool, adopt.Config{Type: "id"}).Apply(t.Context())
	require.ErrorIs(t, err, adopt.ErrConfig)

	exec(t, pool, "ALTER TABLE event_outbox DROP COLUMN headers")
	r, err = a.Undo(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 4, r.Moved)
	require.Equal(t, before, list(t, pool, original))
	require.Equal(t, []string{"endstate_adoptions"}, left(t, pool))
	_, err = a.Undo(t.Context())
	require.ErrorIs(t, err, adopt.ErrNothing)
}

// With patterns, other types keep their duplicates, and the index is over the types that match.
func TestAdoptSomeTypes(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	outbox(t, pool)
	exec(t, pool, "UPDATE event_outbox SET event_type = 'progress' WHERE id LIKE 'b%'")
	a := newAdoption(t, pool, adopt.Config{EventTypes: []string{"don_", "it's%"}})
	_, err := a.Apply(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a1", "a2", "c1"}, list(t, pool, "SELECT id FROM event_outbox_endstate_removed ORDER BY id"))
	exec(t, pool, "INSERT INTO event_outbox (id, aggregate_id, event_type) VALUES ('b3', '00000000-0000-0000-0000-00000000000b', 'progress')")
	_, err = pool.Exec(t.Context(), "INSERT INTO event_outbox (id, aggregate_id, event_type) VALUES ('a4', '00000000-0000-0000-0000-00000000000a', 'done')")
	require.True(t, sqltx.Unique(err), "%v", err)
}

func TestAdoptHostileNames(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	names := map[string]string{"S": `My "Schema"`, "T": strings.Repeat("é", 27) + `".x;--`, "A": `agg'"\`, "B": "second id", "Y": "SELECT", "C": "größe $1", "P": "%s"}
	text := "CREATE SCHEMA S; CREATE TABLE S.T (A text, B numeric, Y text, C timestamp, P boolean); INSERT INTO S.T VALUES ('it''s \\', 1.0, 'x''', now(), false), ('it''s \\', 1.00, 'x''', now(), true), ('it''s \\', 2, 'x''', now(), true)"
	for short, name := range names {
		for _, around := range [][2]string{{" ", ";"}, {" ", "."}, {".", " "}, {"(", " "}, {" ", " "}} {
			text = strings.ReplaceAll(text, around[0]+short+around[1], around[0]+sqltx.Quote("", name)+around[1])
		}
	}
	exec(t, pool, text)
	a := newAdoption(t, pool, adopt.Config{Schema: names["S"], Table: names["T"], Aggregate: []string{names["A"], names["B"]}, Type: names["Y"], Time: names["C"], Published: names["P"]})
	r, err := a.Apply(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, r.Moved)
	require.Equal(t, []string{"false"}, list(t, pool, "SELECT "+sqltx.Quote("", names["P"])+"::text FROM "+r.Backup), "the published one stays")
	_, err = a.Undo(t.Context())
	require.NoError(t, err)
}

func TestAdoptRefuses(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	exec(t, pool, "CREATE TABLE parts (aggregate_id text, event_type text, created_at timestamptz, published_at timestamptz) PARTITION BY RANGE (created_at)",
		"CREATE VIEW a_view AS SELECT * FROM parts", "CREATE TABLE few (aggregate_id text, event_type text, created_at timestamptz)")
	for table, want := range map[string]string{"parts": "is partitioned", "a_view": "is no table", "nowhere": "does not exist", "few": `has no column "published_at"`} {
		_, err := newAdoption(t, pool, adopt.Config{Table: table}).Apply(t.Context())
		require.ErrorIs(t, err, adopt.ErrSchema)
		require.ErrorContains(t, err, want)
	}
	for want, cfg := range map[string]adopt.Config{"Batch": {Batch: -1}, "LockTimeout": {LockTimeout: -1}, "Name is empty": {Add: []adopt.Column{{}}}, "has no Type": {Add: []adopt.Column{{Name: "x"}}}} {
		_, err := adopt.New(pool, cfg)
		require.ErrorIs(t, err, adopt.ErrConfig)
		require.ErrorContains(t, err, want)
	}
	_, err := adopt.New(nil, adopt.Config{})
	require.ErrorIs(t, err, adopt.ErrConfig)
}

// A unique index that is there already is enough, and one over unpublished rows only is not.
func TestAdoptWithAnIndex(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	outbox(t, pool)
	exec(t, pool, "DELETE FROM event_outbox WHERE id IN ('a1', 'b1', 'c1')", "CREATE UNIQUE INDEX trap ON event_outbox (aggregate_id, event_type) WHERE published_at IS NULL")
	r, err := newAdoption(t, pool, adopt.Config{}).Apply(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, r.Moved)
	exec(t, pool, "DROP INDEX event_outbox_endstate_unique", "CREATE UNIQUE INDEX theirs ON event_outbox (aggregate_id, event_type)")
	r, err = newAdoption(t, pool, adopt.Config{}).Apply(t.Context())
	require.NoError(t, err)
	require.Zero(t, r.Moved)
	require.NotContains(t, left(t, pool), "event_outbox_endstate_unique")
}

// A lock that somebody holds keeps the adoption waiting, and it keeps writers waiting no longer than its lock timeout.
func TestAdoptYieldsToWriters(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	outbox(t, pool)
	reader, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = reader.Exec(t.Context(), "LOCK TABLE event_outbox IN ROW EXCLUSIVE MODE") // as a writer's transaction that goes on
	require.NoError(t, err)
	const limit = 200 * time.Millisecond
	a := newAdoption(t, pool, adopt.Config{LockTimeout: limit, Add: []adopt.Column{{Name: "headers", Type: "jsonb"}}})
	applied := make(chan error, 1)
	go func() {
		_, err := a.Apply(context.Background())
		applied <- err
	}()
	require.Eventually(t, func() bool {
		return len(list(t, pool, "SELECT 'x' FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'ALTER TABLE%'")) > 0
	}, time.Minute, time.Millisecond)
	for i := range 30 { // none would return as long as the reader is there, if the command kept its place in the queue
		exec(t, pool, fmt.Sprintf("INSERT INTO event_outbox (id, aggregate_id, event_type) VALUES ('w%d', gen_random_uuid(), 'done')", i))
	}
	select {
	case err := <-applied:
		require.Fail(t, "it went past the writer", "%v", err)
	default:
	}
	require.NoError(t, reader.Commit(t.Context()))
	require.NoError(t, <-applied)
}

// F25: writers that write duplicates all the time, and two runs at once: in the end the index stands, and every row that was
// written is in the table or its backup.
func TestAdoptUnderDuplicates(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	outbox(t, pool)
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var mu sync.Mutex
	var written []string
	refused := 0
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("w%d-%d", w, i)
				_, err := pool.Exec(context.Background(), "INSERT INTO event_outbox (id, aggregate_id, event_type, created_at) VALUES ($1, $2::text::uuid, 'done', now())",
					id, fmt.Sprintf("00000000-0000-0000-0000-%012x", i%40))
				mu.Lock()
				switch {
				case err == nil:
					written = append(written, id)
				case sqltx.Unique(err):
					refused++
				default:
					t.Errorf("a writer got %v", err)
				}
				mu.Unlock()
			}
		})
	}
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(written) > 400 }, time.Minute, time.Millisecond)
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := newAdoption(t, pool, adopt.Config{Batch: 7}).Apply(context.Background())
			errs <- err
		}()
	}
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
	stop()
	writers.Wait()
	require.NotZero(t, refused, "nobody tried to write a duplicate behind the barrier")
	have := map[string]int{}
	for _, id := range list(t, pool, "SELECT id FROM event_outbox UNION ALL SELECT id FROM event_outbox_endstate_removed") {
		have[id]++
	}
	require.Len(t, have, len(written)+13)
	for _, id := range written {
		require.Equal(t, 1, have[id], id)
	}
	require.Empty(t, list(t, pool, "SELECT min(id) FROM event_outbox WHERE aggregate_id IS NOT NULL AND event_type IS NOT NULL GROUP BY aggregate_id, event_type HAVING count(*) > 1"))
	require.Equal(t, []string{"endstate_adoptions", "event_outbox_endstate_removed", "event_outbox_endstate_unique"}, left(t, pool))
}

func TestAdoptRefusesWhatRemovedRowsWouldTakeAlong(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ with, without string }{
		"cascade": {`CREATE TABLE "Attempts" (event text CONSTRAINT of_event REFERENCES event_outbox ON DELETE CASCADE)`,
			`ALTER TABLE "Attempts" DROP CONSTRAINT of_event`},
		"set null":    {`CREATE TABLE attempts (event text REFERENCES event_outbox ON DELETE SET NULL)`, `DROP TABLE attempts`},
		"inheritance": {`CREATE TABLE archive () INHERITS (event_outbox)`, `DROP TABLE archive`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.Pool(t)
			outbox(t, pool)
			before := list(t, pool, original)
			exec(t, pool, tt.with)
			a := newAdoption(t, pool, adopt.Config{})
			_, err := a.Plan(t.Context())
			require.ErrorIs(t, err, adopt.ErrSchema)
			_, err = a.Apply(t.Context())
			require.ErrorIs(t, err, adopt.ErrSchema)
			require.Equal(t, before, list(t, pool, original))
			require.Empty(t, left(t, pool), "nothing was begun")

			exec(t, pool, tt.without)
			_, err = a.Apply(t.Context())
			require.NoError(t, err)
			exec(t, pool, "CREATE TABLE later (event text REFERENCES event_outbox ON DELETE CASCADE)")
			_, err = a.Apply(t.Context())
			require.NoError(t, err, "there is nothing to remove any more")
			_, err = a.Undo(t.Context())
			require.NoError(t, err)
			require.Equal(t, before, list(t, pool, original))
		})
	}
}
