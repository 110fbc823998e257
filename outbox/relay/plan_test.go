package relay_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// planRows is how many events the tests of plans have. make plans has ten million.
func planRows(t *testing.T) int {
	t.Helper()
	text := os.Getenv("ENDSTATE_TEST_PLAN_ROWS")
	if text == "" {
		return 100_000
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// plan is a node of what EXPLAIN says.
type plan struct {
	Node      string `json:"Node Type"`
	Relation  string `json:"Relation Name"`
	Index     string `json:"Index Name"`
	Condition string `json:"Index Cond"`
	Hit       int    `json:"Shared Hit Blocks"`
	Read      int    `json:"Shared Read Blocks"`
	Plans     []plan
}

// compared are what an index's condition is about.
var compared = regexp.MustCompile(`(\w+|ROW\([a-z_, ]+\)) (=|<|>|<=|>=) `)

// scans are the ways to an outbox's tables, but for those of a few rows.
func (p plan) scans() (list []string) {
	switch p.Relation {
	case "endstate_outbox", "endstate_outbox_parked":
		text := cmp.Or(p.Index, p.Node) + ":"
		for _, match := range compared.FindAllString(p.Condition, -1) {
			text += " " + match
		}
		// Whether any event waits, either index of those that do tells by its first row.
		list = append(list, strings.Replace(text, "parked_due: subscription =  partition = ", "parked_waiting: subscription =  partition = ", 1))
	}
	for _, child := range p.Plans {
		list = append(list, child.scans()...)
	}
	slices.Sort(list)
	return list
}

// reader is a connection on which a relay's readings are prepared.
type reader struct {
	*pgxpool.Conn
	pins string
}

const readerOwner = "00000000-0000-0000-0000-000000000001"

func (db *database) reader(t *testing.T) *reader {
	t.Helper()
	ctx := context.Background()
	conn, err := db.Pool.Acquire(ctx)
	require.NoError(t, err)
	t.Cleanup(conn.Release)
	r := &reader{Conn: conn}
	var readings map[string]string
	r.pins, readings = relay.Readings(db.relay(t, &recorder{}, nil))
	for name, statement := range readings {
		_, err := conn.Exec(ctx, "PREPARE endstate_"+name+" AS "+statement)
		require.NoError(t, err)
	}
	return r
}

// explain runs a reading with a plan for its arguments, or for any.
func (r *reader) explain(t *testing.T, mode, call string) (p plan) {
	t.Helper()
	ctx := context.Background()
	require.NoError(t, pgx.BeginFunc(ctx, r.Conn, func(tx pgx.Tx) error {
		for _, statement := range []string{r.pins, "SET LOCAL plan_cache_mode = " + mode} {
			_, err := tx.Exec(ctx, statement)
			require.NoError(t, err)
		}
		var text []byte
		require.NoError(t, tx.QueryRow(ctx, "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE "+call).Scan(&text))
		var explained []struct{ Plan plan }
		require.NoError(t, json.Unmarshal(text, &explained))
		p = explained[0].Plan
		return nil
	}))
	return p
}

// owned makes the default subscription, whose cursors the reader owns.
func (db *database) owned(t *testing.T) {
	t.Helper()
	stop := run(t, db.relay(t, &recorder{}, quick()))
	eventually(t, "cursors", func() bool { return outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox_cursors") == 8 })
	stop()
	db.Exec(t, "INSERT INTO endstate_outbox_relays (id, subscription, name, expires_at) VALUES ('"+readerOwner+"', 'default', 'reader', 'infinity')")
	db.Exec(t, "UPDATE endstate_outbox_cursors SET owner = '"+readerOwner+"', careful = 0")
}

// fill writes n events, each of an aggregate of its own or all of one.
func (db *database) fill(t *testing.T, n int, aggregate string) {
	t.Helper()
	db.Exec(t, fmt.Sprintf(`INSERT INTO endstate_outbox (id, aggregate_type, aggregate_id, type, payload, partition)
SELECT gen_random_uuid(), 'batch', id, 'completed', '{}', endstate_outbox_partition('batch', id) FROM (SELECT %s AS id FROM generate_series(1, %d) n) e`, aggregate, n))
}

// The plans of readings don't depend on what the tables held when they were made, nor on statistics, nor does the work: with few
// events and many, published or pending, of many aggregates or one.
func TestPlansOfReadings(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.Migrate(t, *writer)
	db.owned(t)
	r := db.reader(t)
	calls := map[string]string{
		"new": "endstate_new('default', '" + readerOwner + "', '[0,1,2,3,4,5,6,7]', 125)",
		"due": "endstate_due('default', '" + readerOwner + "', 1000, 1, false, false)",
	}
	// For each of a thousand events it is what leads to it by an index, its page, and whether one waits before it; of those that are
	// due, a thousand of each partition are looked at.
	most := map[string]int{"new": 6000, "due": 60_000}
	want := map[string][]string{}
	look := func(state string) {
		t.Helper()
		for name, call := range calls {
			for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
				p := r.explain(t, mode, call)
				if want[name+mode] == nil {
					want[name+mode] = p.scans()
					for _, scan := range want[name+mode] {
						require.Regexp(t, `^endstate_outbox_\S+: \S`, scan)
					}
				}
				assert.Equal(t, want[name+mode], p.scans(), "%s, %s, %s", name, state, mode)
				t.Logf("%s, %s, %s: %d buffers", name, state, mode, p.Hit+p.Read)
				assert.Less(t, p.Hit+p.Read, most[name], "%s, %s, %s", name, state, mode)
			}
		}
	}
	look("empty")
	require.Contains(t, want["new"+"force_generic_plan"], "endstate_outbox_txid: txid = ")
	rows := planRows(t)
	db.fill(t, rows, "'a' || n")
	look("pending, no statistics")
	db.Exec(t, "ANALYZE endstate_outbox")
	look("pending")
	db.fill(t, rows, "'one'")
	look("pending of one aggregate, old statistics")
	db.Exec(t, "ANALYZE endstate_outbox")
	look("pending of one aggregate")
	db.Exec(t, "UPDATE endstate_outbox_cursors c SET position = (SELECT max(seq) FROM endstate_outbox), prior_position = (SELECT max(seq) - 1000 FROM endstate_outbox), snapshot = pg_current_snapshot()")
	look("published")
	// A transaction that was open when the cursors passed it, all of whose rows are of one partition: the others' readings end at
	// their own, which the range in the index says.
	db.Exec(t, "UPDATE endstate_outbox_cursors SET prior_position = position, snapshot = (SELECT (txid || ':' || txid::text::bigint + 1 || ':' || txid)::pg_snapshot FROM endstate_outbox WHERE aggregate_id = 'one' LIMIT 1)")
	look("late of one aggregate")
	db.Exec(t, "UPDATE endstate_outbox_cursors SET snapshot = pg_current_snapshot()")
	db.Exec(t, `INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, next_attempt_at)
SELECT 'default', partition, seq, id, aggregate_type, aggregate_id, CASE WHEN aggregate_id <> 'one' THEN now() END FROM endstate_outbox WHERE seq % 20 = 0`)
	look("parked, no statistics")
	db.Exec(t, "ANALYZE endstate_outbox_parked")
	look("parked")
}

// Many events of one aggregate, and so in one partition, hold back nobody elsewhere.
func TestManyEventsOfOneAggregateLetOthersPass(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.Migrate(t, *writer)
	db.fill(t, planRows(t), "'one'")
	var others []outbox.Event
	for a := range 200 {
		for i := range 5 {
			e := event(fmt.Sprint(i), "")
			e.AggregateID = fmt.Sprint("a", a)
			if outbox.Partition(e.AggregateType, e.AggregateID) != outbox.Partition(e.AggregateType, "one") {
				others = append(others, e)
			}
		}
	}
	db.Put(t, others...)
	r := &tally{want: int64(len(others))}
	run(t, db.relay(t, r, quick()))
	eventually(t, "the others are out", func() bool { return r.others.Load() == r.want })
	require.Less(t, r.before.Load(), int64(10*1000), "events of the one before the last of the others")
}

// tally counts publications of the one aggregate before those of all others are there.
type tally struct {
	want           int64
	others, before atomic.Int64
}

func (y *tally) Publish(_ context.Context, batch []outbox.Event) []error {
	for _, e := range batch {
		if e.AggregateID != "one" {
			y.others.Add(1)
		} else if y.others.Load() < y.want {
			y.before.Add(1)
		}
	}
	return nil
}
