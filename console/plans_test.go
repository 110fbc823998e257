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

// statements writes down what is asked of the database, and the settings that pin its plans.
type statements struct {
	mu       sync.Mutex
	list     []statement
	settings map[*pgx.Conn]string
}

type statement struct {
	sql      string
	args     []any
	settings string
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
	delete(s.settings, conn)
}

func (s *statements) add(conn *pgx.Conn, sql string, args []any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch lower := strings.ToLower(sql); {
	case strings.Contains(lower, "enable_seqscan"):
		s.settings[conn] = sql[max(0, strings.Index(sql, "SET LOCAL")):] // a BEGIN may stand before it
	case strings.HasPrefix(lower, "select"), strings.HasPrefix(lower, "with"):
		s.list = append(s.list, statement{sql, args, s.settings[conn]})
	default: // the transaction's end, or the next one's beginning
		delete(s.settings, conn)
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

// Every statement of every page goes by indexes and reads no more blocks than docs/console.md says of a million events: with a hundred
// thousand, or with as many as ENDSTATE_TEST_PLAN_ROWS says, published or pending, with statistics or without. With
// ENDSTATE_TEST_PLAN_WRITE it writes down what it finds: make plans does that.
func TestPlansOfPages(t *testing.T) {
	t.Parallel()
	rows := 100_000
	if text := os.Getenv("ENDSTATE_TEST_PLAN_ROWS"); text != "" {
		var err error
		rows, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	asked := &statements{settings: map[*pgx.Conn]string{}}
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

	pages := [][2]string{
		{"overview", "/"}, // counts up to 100,000 pending events
		{"events", "/events"},
		{"events, further back", fmt.Sprintf("/events?after=%d", rows/2)},
		{"events that are published", "/events?state=published"},
		{"events of a rare type", "/events?type=rare"},
		{"events of a rare error", "/events?error=nothing"},
		{"events that are old", "/events?older_than=1000h"},
		{"event", "/events/" + id},
		{"aggregate", fmt.Sprintf("/aggregate?type=batch&key=%d", rows/2)},
		{"aggregate of any type", fmt.Sprintf("/aggregate?key=%d", rows/2)},
		{"dead letters", "/dead"},
		{"dead letters of a rare type", "/dead?type=rare"},
		{"dead letters of a rare error", "/dead?error=nothing"},
		{"dead letters that are old", "/dead?older_than=1000h"},
		{"dead letters of one aggregate", "/dead?aggregate_type=batch&aggregate_id=nothing"},
		{"events that are being retried", "/events?state=retrying"},
		{"subscription", "/subscription?name=default"},
		{"what a replay would do", "/subscription?name=default&from=2020-01-01T00:00"},
		{"history", "/history"},
	}
	costs := map[string]cost{}
	look := func(state int) {
		t.Helper()
		for _, p := range pages {
			s := w.console(console.Config{Actions: true, Guards: map[string]console.Guard{"batch": {Reader: guard.Ledger{}}}})
			asked.take()
			require.Equal(t, 200, s.get(p[1]).status, p[1])
			c := costs[p[0]]
			c.queries = 0
			for _, q := range asked.take() {
				c.queries++
				n := w.explain(q)
				c.blocks[state] += n.Hit + n.Read
				for _, table := range n.scanned() {
					require.Regexp(t, small, table, "%s: %s", p[0], q.sql)
				}
			}
			costs[p[0]] = c
		}
	}
	look(unknown)
	w.exec("ANALYZE")
	look(pending)
	w.exec("UPDATE endstate_outbox_cursors SET position = (SELECT max(seq) FROM endstate_outbox), prior_position = (SELECT max(seq) - 1000 FROM endstate_outbox), snapshot = pg_current_snapshot()")
	w.exec("VACUUM ANALYZE")
	look(published)
	var table strings.Builder
	for _, p := range pages {
		c := costs[p[0]]
		fmt.Fprintf(&table, "| %s | %d | %d | %d | %d |\n", p[0], c.queries, c.blocks[unknown], c.blocks[pending], c.blocks[published])
	}
	t.Logf("at %d events:\n%s", rows, table.String())
	if os.Getenv("ENDSTATE_TEST_PLAN_WRITE") != "" {
		writeCosts(t, table.String())
	}
	documented := readCosts(t)
	require.Len(t, documented, len(pages))
	for _, p := range pages {
		c, most := costs[p[0]], documented[p[0]]
		require.Equal(t, most.queries, c.queries, "%s: docs/console.md has another number of queries; make plans writes it anew", p[0])
		for state := range c.blocks {
			require.LessOrEqual(t, c.blocks[state], most.blocks[state]*5/4+50, "%s: more blocks than docs/console.md has for a million events", p[0])
		}
	}
}

// cost is what a page asks of the database.
type cost struct {
	queries int
	blocks  [3]int // by what became of the events
}

const (
	unknown   = iota // pending, and no statistics yet
	pending          // with statistics
	published        // all of them
)

const (
	costsFile = "../docs/console.md"
	costsHead = "| page | queries | blocks, pending, no statistics | pending | published |\n| --- | ---: | ---: | ---: | ---: |\n"
)

// costsIn finds the lines of the table in the page.
func costsIn(t *testing.T) (before, lines, after string) {
	t.Helper()
	text, err := os.ReadFile(costsFile)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(text), costsHead)
	require.True(t, found, "the table of costs")
	lines, after, _ = strings.Cut(rest, "\n\n")
	return before + costsHead, lines, "\n\n" + after
}

func readCosts(t *testing.T) map[string]cost {
	t.Helper()
	_, lines, _ := costsIn(t)
	costs := map[string]cost{}
	for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		require.Len(t, cells, 5, line)
		var n [4]int
		for i := range n {
			var err error
			n[i], err = strconv.Atoi(cells[i+1])
			require.NoError(t, err, line)
		}
		costs[cells[0]] = cost{n[0], [3]int{n[1], n[2], n[3]}}
	}
	return costs
}

func writeCosts(t *testing.T, lines string) {
	t.Helper()
	before, _, after := costsIn(t)
	require.NoError(t, os.WriteFile(costsFile, []byte(before+strings.TrimSuffix(lines, "\n")+after), 0o644))
}

// explain runs a statement again as the console does, with what pins its plan.
func (w *world) explain(q statement) (n node) {
	w.Helper()
	require.NoError(w, pgx.BeginFunc(w.Context(), w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(w.Context(), q.settings); err != nil {
			return err
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
