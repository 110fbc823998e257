package audit_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox/audit"
)

const completed = "cj_assessment.completed"

var start = time.Date(2025, 11, 15, 18, 59, 43, 0, time.UTC)

// incident fills the table as the incident left it: 25 batches, one with 83 events within six seconds, and one with 13 over
// days.
func (db *database) incident(t testing.TB) {
	t.Helper()
	db.outbox(t)
	for i := range 83 {
		db.put(t, "2f8dc826-d6c6-4d5b-b9d2-1ed94fb47a50", completed, start.Add(time.Duration(i)*73*time.Millisecond), start.Add(time.Hour))
	}
	first, last := time.Date(2025, 11, 15, 12, 1, 16, 0, time.UTC), time.Date(2025, 11, 21, 11, 49, 52, 0, time.UTC)
	for i := range 13 {
		var published any
		if i < 3 {
			published = last
		}
		db.put(t, "test-batch-123", completed, first.Add(last.Sub(first)*time.Duration(i)/12), published)
	}
	for i := range 23 {
		db.put(t, fmt.Sprintf("batch-%d", i), completed, start.Add(time.Duration(i)*time.Hour), nil)
	}
}

// The figures of the incident's record.
func TestIncident(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		db.incident(t)
		var steps []string
		r := db.run(t, audit.Config{Progress: func(done, of int, next string) { steps = append(steps, fmt.Sprint(done, "/", of, " ", next)) }})
		require.Equal(t, []string{"0/3 looking at the columns", "1/3 counting events", "2/3 looking for duplicates", "3/3 "}, steps)
		require.EqualValues(t, 25, r.Aggregates)
		require.EqualValues(t, 119, r.Events)
		require.EqualValues(t, 94, r.Duplicates)
		require.Equal(t, 376.00, r.Percentage)
		require.Equal(t, 4.76, r.Average)
		require.EqualValues(t, 2, r.Duplicated)
		require.EqualValues(t, 82+2, r.Published)
		require.EqualValues(t, 82, r.PairsWithinWindow)
		require.Len(t, r.Worst, 2)

		loop := r.Worst[0]
		require.EqualValues(t, 83, loop.Events)
		require.Equal(t, audit.TightLoop, loop.Pattern)
		require.Equal(t, 73.0, *loop.MedianGap)
		require.Equal(t, start, *loop.First)
		require.Equal(t, start.Add(82*73*time.Millisecond), *loop.Last)
		spread := r.Worst[1]
		require.EqualValues(t, 13, spread.Events)
		require.EqualValues(t, 3, spread.Published)
		require.Equal(t, audit.Spread, spread.Pattern)
		for _, worst := range r.Worst {
			var events, published int64
			for _, b := range worst.Timeline {
				events, published = events+b.Events, published+b.Published
			}
			require.Equal(t, worst.Events, events)
			require.Equal(t, worst.Published, published)
			require.NotZero(t, worst.Timeline[0].Events)
			require.NotZero(t, worst.Timeline[audit.Buckets-1].Events)
		}

		text, err := json.Marshal(r)
		require.NoError(t, err)
		var fields map[string]any
		require.NoError(t, json.Unmarshal(text, &fields))
		require.Equal(t, 376.0, fields["duplicate_percentage"])
		worst := fields["worst"].([]any)[0].(map[string]any)
		require.Equal(t, map[string]any{"aggregate_id": "2f8dc826-d6c6-4d5b-b9d2-1ed94fb47a50", "event_type": completed, "events": 83.0,
			"first": "2025-11-15T18:59:43Z", "last": "2025-11-15T18:59:48.986Z", "median_gap_ms": 73.0, "pattern": "tight_loop", "published": 83.0}, worst)
	})
}

func TestEmptyAndClean(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		db.outbox(t)
		r := db.run(t, audit.Config{})
		require.True(t, r.Clean())
		text, err := json.Marshal(r)
		require.NoError(t, err)
		require.JSONEq(t, `{"total_events":0,"unique_aggregates":0,"duplicates":0,"duplicate_percentage":0,"average_per_aggregate":0,"duplicated_aggregates":0,
			"published_events":0,"published_duplicates":0,"pairs_within_window":0,"null_times":0,"null_keys":0,"worst":[]}`, string(text))
		db.put(t, "b1", "x", start, nil)
		db.put(t, "b1", "y", start, nil) // of another type, thus of another aggregate
		db.put(t, "b2", "x", start, nil)
		r = db.run(t, audit.Config{})
		require.True(t, r.Clean())
		require.EqualValues(t, 3, r.Aggregates)
		require.Equal(t, 1.0, r.Average)
	})
}

// Patterns go by the median gap, whose limits belong to them, as the window does to the pairs within it.
func TestPatterns(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		db.outbox(t)
		gaps := []struct {
			id      string
			gaps    []time.Duration
			median  float64
			pattern audit.Pattern
		}{
			{"loop", []time.Duration{time.Second}, 1000, audit.TightLoop},
			{"just no loop", []time.Duration{1001 * time.Millisecond}, 1001, audit.Overlap},
			{"median of two", []time.Duration{time.Second, 4 * time.Second}, 2500, audit.Overlap},
			{"median of three", []time.Duration{time.Millisecond, time.Hour, 90 * time.Minute}, 3_600_000, audit.Spread},
			{"window", []time.Duration{time.Minute}, 60_000, audit.Overlap},
			{"beyond", []time.Duration{time.Minute + time.Millisecond}, 60_001, audit.Spread},
			{"at once", []time.Duration{0, 0}, 0, audit.TightLoop},
		}
		for _, g := range gaps {
			at := start
			db.put(t, g.id, "x", at, nil)
			for _, gap := range g.gaps {
				at = at.Add(gap)
				db.put(t, g.id, "x", at, nil)
			}
		}
		r := db.run(t, audit.Config{Window: time.Minute})
		found := map[string]audit.Aggregate{}
		for _, a := range r.Worst {
			found[a.ID] = a
		}
		for _, g := range gaps {
			require.Equal(t, g.pattern, found[g.id].Pattern, g.id)
			require.NotNil(t, found[g.id].MedianGap, g.id)
			require.Equal(t, g.median, *found[g.id].MedianGap, g.id)
		}
		require.EqualValues(t, 1+1+2+1+1+0+2, r.PairsWithinWindow)
	})
}

// The worst come by their number of events, then by their first time, then by their id's and type's bytes.
func TestOrderOfTheWorst(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		db.outbox(t)
		put := func(id, kind string, n int, at any) {
			for range n {
				db.put(t, id, kind, at, nil)
			}
		}
		put("z", "x", 3, start)
		put("b", "x", 2, start.Add(time.Second))
		put("Z", "x", 2, start.Add(2*time.Second))
		put("a", "y", 2, start.Add(2*time.Second))
		put("a", "x", 2, start.Add(2*time.Second))
		put("é", "x", 2, start.Add(2*time.Second))
		put("without a time", "x", 2, nil)
		put("single", "x", 1, start)
		order := func(r *audit.Report) (list []string) {
			for _, a := range r.Worst {
				list = append(list, a.ID+"/"+a.Type)
			}
			return list
		}
		all := []string{"z/x", "b/x", "Z/x", "a/x", "a/y", "é/x", "without a time/x"}
		r := db.run(t, audit.Config{})
		require.Equal(t, all, order(r))
		require.EqualValues(t, 2, r.NullTimes)
		last := r.Worst[len(all)-1]
		require.Equal(t, audit.Aggregate{ID: "without a time", Type: "x", Events: 2, Pattern: audit.Unknown}, last)
		require.Equal(t, all[:3], order(db.run(t, audit.Config{Top: 3})))
		none := db.run(t, audit.Config{Top: -1})
		require.Empty(t, none.Worst)
		require.Equal(t, r.PairsWithinWindow, none.PairsWithinWindow)
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		db.outbox(t)
		for i := range 4 {
			db.put(t, "b", "a_b*.done", start.Add(time.Duration(i)*time.Hour), nil)
			db.put(t, "b", "aXb[]?.Done", start, nil)
			db.put(t, "b", "other", start, start)
		}
		db.put(t, nil, "other", start, nil)
		db.put(t, "c", nil, start, nil)
		db.put(t, "b", "other", nil, nil)
		for _, tt := range []struct {
			patterns []string
			events   int
		}{
			{nil, 13}, {[]string{"%"}, 13}, {[]string{"a_b%"}, 8}, {[]string{`a\_b%`}, 4}, {[]string{"%.done"}, 4}, {[]string{"%.DONE"}, 0},
			{[]string{"%[]?%"}, 4}, {[]string{"%*%"}, 4}, {[]string{"a_b*.done", "oth%"}, 9}, {[]string{"'; DROP TABLE event_outbox; --"}, 0}, {[]string{`\\`}, 0},
		} {
			require.EqualValues(t, tt.events, db.run(t, audit.Config{EventTypes: tt.patterns}).Events, "%q", tt.patterns)
		}
		r := db.run(t, audit.Config{})
		require.EqualValues(t, 2, r.NullKeys)
		require.EqualValues(t, 1, r.NullTimes)
		require.EqualValues(t, 3, r.Published)

		// From Since on, and before Until. A row without a time is in no such range, and is still reported.
		r = db.run(t, audit.Config{EventTypes: []string{"a_b*.done", "other"}, Since: start.Add(time.Hour), Until: start.Add(3 * time.Hour)})
		require.EqualValues(t, 2, r.Events)
		require.EqualValues(t, 1, r.Duplicates)
		require.EqualValues(t, 1, r.NullTimes)
		require.True(t, db.run(t, audit.Config{Since: start.Add(3 * time.Hour), EventTypes: []string{"a_b*.done"}}).Clean())

		r = db.run(t, audit.Config{NoPublished: true})
		require.Zero(t, r.Published)
	})
}

// What a time is stored as makes no difference.
func TestTimes(t *testing.T) {
	t.Parallel()
	// Two seconds apart, both before noon in UTC.
	instants := []time.Time{time.Date(2025, 11, 15, 11, 59, 57, 250e6, time.UTC), time.Date(2025, 11, 15, 11, 59, 59, 250e6, time.UTC)}
	texts := func(layout string, zone *time.Location) []any {
		return []any{instants[0].In(zone).Format(layout), instants[1].In(zone).Format(layout)}
	}
	cet := time.FixedZone("CET", 3600)
	numbers := func(f func(time.Time) int64) []any { return []any{f(instants[0]), f(instants[1])} }
	const goString = "2006-01-02 15:04:05.999999999 -0700 MST"
	for _, tt := range []struct {
		name       string
		pg, sqlite string // the column's type
		values     []any
		whole      bool // seconds only
	}{
		{name: "timestamptz", pg: "timestamptz", values: []any{instants[0].In(cet), instants[1]}},
		{name: "timestamp", pg: "timestamp", values: []any{instants[0], instants[1]}},
		{name: "text in UTC", pg: "text", sqlite: "text", values: texts(time.RFC3339Nano, time.UTC)},
		{name: "text with a zone", pg: "varchar(40)", sqlite: "text", values: texts(time.RFC3339Nano, cet)},
		{name: "text without a zone", pg: "text", sqlite: "datetime", values: texts("2006-01-02 15:04:05.000", time.UTC)},
		{name: "Go's text", sqlite: "text", values: texts(goString, cet)},
		{name: "Go's text, western", sqlite: "datetime", values: texts(goString, time.FixedZone("NST", -12600))},
		{name: "driver's time", sqlite: "datetime", values: []any{instants[0].In(cet), instants[1]}},
		{name: "seconds", pg: "bigint", sqlite: "integer", values: numbers(time.Time.Unix), whole: true},
		{name: "fractions of seconds", pg: "float8", sqlite: "real", values: []any{float64(instants[0].UnixMilli()) / 1000, float64(instants[1].UnixMilli()) / 1000}},
		{name: "milliseconds", pg: "bigint", sqlite: "integer", values: numbers(time.Time.UnixMilli)},
		{name: "microseconds", pg: "numeric", sqlite: "integer", values: numbers(time.Time.UnixMicro)},
		{name: "nanoseconds", pg: "bigint", sqlite: "integer", values: numbers(time.Time.UnixNano)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, db *database) {
				kind := tt.pg
				if !db.postgres() {
					kind = tt.sqlite
				}
				if kind == "" {
					return // the other database's
				}
				db.exec(t, "CREATE TABLE event_outbox (aggregate_id bigint, event_type text, created_at "+kind+", published boolean)")
				for i, v := range tt.values {
					db.insert(t, "INSERT INTO event_outbox VALUES (12, 'x', $1, $2)", []any{v, i == 0})
				}
				r := db.run(t, audit.Config{Published: "published", Since: instants[0].Truncate(time.Second), Until: instants[1].Add(time.Second)})
				require.EqualValues(t, 1, r.Duplicates)
				require.Zero(t, r.NullTimes)
				require.Equal(t, 2000.0, *r.Worst[0].MedianGap)
				first := instants[0]
				if tt.whole {
					first = first.Truncate(time.Second)
				}
				require.Equal(t, first, *r.Worst[0].First)
				require.EqualValues(t, 1, r.Worst[0].Published)
				require.Equal(t, "12", r.Worst[0].ID)
			})
		})
	}
}

// What is no time is an event without one.
func TestNoTimes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		db.outbox(t)
		values := []any{"infinity", "-infinity", nil}
		if !db.postgres() {
			values = []any{"infinity", "yesterday or so", "", nil, []byte{1, 2}}
		}
		for _, v := range values {
			db.put(t, "b", "x", v, nil)
		}
		db.put(t, "b", "x", start, nil)
		r := db.run(t, audit.Config{})
		require.EqualValues(t, len(values), r.NullTimes)
		require.EqualValues(t, len(values), r.Duplicates)
		require.Zero(t, r.PairsWithinWindow)
		require.Equal(t, start, *r.Worst[0].First)
		require.Nil(t, r.Worst[0].MedianGap)
	})
}

// All figures are of one moment, whatever is written meanwhile, and nothing of the audit's is.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		db.incident(t)
		r := db.run(t, audit.Config{Progress: func(done, _ int, _ string) {
			if done == 2 { // the events have been counted
				db.put(t, "batch-1", completed, start, nil)
			}
		}})
		require.EqualValues(t, 94, r.Duplicates)
		require.EqualValues(t, 25, r.Aggregates)
		require.EqualValues(t, 95, db.run(t, audit.Config{}).Duplicates)
	})
}
