package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/guard"
)

// statements writes down what is asked of the database, and which of it in a transaction whose plans are pinned.
type statements struct {
	mu     sync.Mutex
	list   []statement
	pinned map[*pgx.Conn]bool
}

type statement struct {
	sql    string
	args   []any
	pinned bool
}

func (s *statements) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.add(conn, data.SQL, data.Args)
	return ctx
}
func (*statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (s *statements) TraceBatchQuery(_ context.Context, conn *pgx.Conn, data pgx.TraceBatchQueryData) {
	s.add(conn, data.SQL, data.Args)
}

func (s *statements) TraceBatchEnd(_ context.Context, conn *pgx.Conn, _ pgx.TraceBatchEndData) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pinned[conn] = false
}

func (s *statements) add(conn *pgx.Conn, sql string, args []any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch lower := strings.ToLower(sql); {
	case strings.Contains(lower, "enable_seqscan"):
		s.pinned[conn] = true
	case strings.HasPrefix(lower, "select"), strings.HasPrefix(lower, "with"):
		s.list = append(s.list, statement{sql, args, s.pinned[conn]})
	default: // the transaction's end, or the next one's beginning
		s.pinned[conn] = false
	}
}

func (s *statements) take() []statement {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.list
	s.list = nil
	return list
}

// node is one of what EXPLAIN says.
type node struct {
	Type     string `json:"Node Type"`
	Relation string `json:"Relation Name"`
	Hit      int    `json:"Shared Hit Blocks"`
	Read     int    `json:"Shared Read Blocks"`
	Plans    []node
}

// scanned are the tables that a plan goes through from one end to the other.
func (n node) scanned() (list []string) {
	if n.Type == "Seq Scan" {
		list = append(list, n.Relation)
	}
	for _, child := range n.Plans {
		list = append(list, child.scanned()...)
	}
	return list
}

// small are tables of a few rows, where a scan is the best plan.
var small = regexp.MustCompile(`^endstate_outbox_(subscriptions|cursors|relays)$|^pg_`)

// Every statement of every page goes by indexes and reads a bounded number of blocks, with a million events as with a hundred
// thousand, published or pending, with statistics or without. ENDSTATE_TEST_PLAN_ROWS says how many there are.
func TestPlansOfPages(t *testing.T) {
	t.Parallel()
	rows := 100_000
	if text := os.Getenv("ENDSTATE_TEST_PLAN_ROWS"); text != "" {
		var err error
		rows, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	asked := &statements{pinned: map[*pgx.Conn]bool{}}
	w := newWorld(t, "pgx", func(c *pgxpool.Config) { c.ConnConfig.Tracer = asked })
	w.relay("default")()
	w.exec(fmt.Sprintf(`INSERT INTO endstate_outbox (id, aggregate_type, aggregate_id, type, payload, partition, created_at, dedup_key)
SELECT gen_random_uuid(), 'batch', n::text, CASE WHEN n %% 2 = 0 THEN 'completed' ELSE 'result' END, '{}', endstate_outbox_partition('batch', n::text), now() - make_interval(secs => (%[1]d - n) * 3600.0 / %[1]d), 'batch/i:' || n
FROM generate_series(1, %[1]d) n`, rows))
	w.exec(fmt.Sprintf(`INSERT INTO endstate_ledger (aggregate, "key", state, "trigger", token, at) SELECT 'batch', 'i:' || n, 'DONE', 'trigger ' || n %% 4, gen_random_uuid(), now() - make_interval(secs => (%[1]d - n) * 36000.0 / %[1]d)
FROM generate_series(1, %[1]d) n`, rows))
	w.exec(fmt.Sprintf(`INSERT INTO endstate_inbox (consumer, "key", digest, state, attempts, at) SELECT 'results', gen_random_uuid()::text, '\x00', 'handled', 1, now() FROM generate_series(1, %d)`, rows))
	w.exec(`INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, attempts, last_error, dead_at)
SELECT 'default', partition, seq, id, aggregate_type, aggregate_id, 3, 'refused', created_at FROM endstate_outbox WHERE seq % 20 = 0`)
	w.exec(`INSERT INTO endstate_outbox_samples (subscription, partition, at, position) SELECT 'default', p, now() - make_interval(secs => n), 0 FROM generate_series(0, 7) p, generate_series(1, 10000) n`)
	w.exec(fmt.Sprintf(`INSERT INTO endstate_outbox_audit (subscription, action, event_id, by_whom, reason) SELECT 'default', 'retry', gen_random_uuid(), 'ada', 'why' FROM generate_series(1, %d)`, rows/10))
	var id string
	require.NoError(t, w.pool.QueryRow(t.Context(), fmt.Sprintf("SELECT id::text FROM endstate_outbox WHERE dedup_key = 'batch/i:%d'", rows/2)).Scan(&id))

	pages := []struct {
		name, path string
		most       int // blocks
	}{
		{"overview", "/", 450_000}, // counts up to 100,000 pending events
		{"events", "/events", 40_000},
		{"events by type", "/events?type=rare", 700_000},
		{"event", "/events/" + id, 2_000},
		{"aggregate", fmt.Sprintf("/aggregate?type=batch&key=%d", rows/2), 40_000},
		{"aggregate of any type", fmt.Sprintf("/aggregate?key=%d", rows/2), 40_000},
		{"dead letters", "/dead", 40_000},
		{"dead letters by error", "/dead?error=nothing", 700_000},
		{"subscription", "/subscription?name=default", 450_000},
		{"history", "/history", 1_000},
	}
	look := func(state string) {
		t.Helper()
		for _, p := range pages {
			s := w.console(console.Config{Guards: map[string]console.Guard{"batch": {Reader: guard.Ledger{}}}})
			asked.take()
			require.Equal(t, 200, s.get(p.path).status)
			queries, blocks := 0, 0
			for _, q := range asked.take() {
				queries++
				n := w.explain(q)
				blocks += n.Hit + n.Read
				for _, table := range n.scanned() {
					require.Regexp(t, small, table, "%s, %s: %s", p.name, state, q.sql)
				}
			}
			t.Logf("%s, %s: %d queries, %d blocks", state, p.name, queries, blocks)
			require.Less(t, queries, 30, "%s, %s", p.name, state)
			require.Less(t, blocks, p.most, "%s, %s", p.name, state)
		}
	}
	look("pending, no statistics")
	w.exec("ANALYZE")
	look("pending")
	w.exec("UPDATE endstate_outbox_cursors SET position = (SELECT max(seq) FROM endstate_outbox), prior_position = (SELECT max(seq) - 1000 FROM endstate_outbox), snapshot = pg_current_snapshot()")
	w.exec("VACUUM ANALYZE")
	look("published")
}

// explain runs a statement again as the console does, with what pins its plan.
func (w *world) explain(q statement) (n node) {
	w.Helper()
	require.NoError(w, pgx.BeginFunc(w.Context(), w.pool, func(tx pgx.Tx) error {
		if q.pinned {
			if _, err := tx.Exec(w.Context(), "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; SET LOCAL jit = off"); err != nil {
				return err
			}
		}
		var text []byte
		if err := tx.QueryRow(w.Context(), "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) "+q.sql, q.args...).Scan(&text); err != nil {
			return err
		}
		var explained []struct{ Plan node }
		if err := json.Unmarshal(text, &explained); err != nil {
			return err
		}
		n = explained[0].Plan
		return nil
	}))
	return n
}
