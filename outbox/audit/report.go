package audit

import (
	"math"
	"time"
)

// Report is what an audit found.
type Report struct {
	Events     int64 `json:"total_events"`
	Aggregates int64 `json:"unique_aggregates"` // pairs of an aggregate's id and an event type
	Duplicates int64 `json:"duplicates"`        // events beyond the first of each aggregate
	// Percentage is Duplicates for a hundred Aggregates, and Average is Events for one, both rounded to two decimals.
	Percentage float64 `json:"duplicate_percentage"`
	Average    float64 `json:"average_per_aggregate"`
	// Duplicated is the number of aggregates with duplicates.
	Duplicated int64 `json:"duplicated_aggregates"`
	// PublishedEvents counts all that were published. None, where some were, shows that Config.Published is wrong.
	PublishedEvents int64 `json:"published_events"`
	// Published counts the published events beyond the first published one of each aggregate: consumers have seen them.
	Published int64 `json:"published_duplicates"`
	// PairsWithinWindow counts neighbours, in an aggregate's order of time, that are at most the window apart.
	PairsWithinWindow int64 `json:"pairs_within_window"`
	// NullTimes are events that have no time, and NullKeys rows without an aggregate's id or a type, which are no events of
	// any aggregate.
	NullTimes int64 `json:"null_times"`
	NullKeys  int64 `json:"null_keys"`
	// Worst are the aggregates with the most events, at most Config.Top and only ones with duplicates. Among equals the one
	// that began first comes first.
	Worst []Aggregate `json:"worst"`

	Window time.Duration `json:"-"` // of Config
}

// Aggregate is one aggregate with duplicates.
type Aggregate struct {
	ID     string `json:"aggregate_id"` // of several columns: joined by slashes
	Type   string `json:"event_type"`
	Events int64  `json:"events"`
	// First and Last are nil if no event has a time.
	First *time.Time `json:"first"`
	Last  *time.Time `json:"last"`
	// MedianGap is the median time between neighbours, in milliseconds; nil if fewer than two events have a time.
	MedianGap *float64 `json:"median_gap_ms"`
	Pattern   Pattern  `json:"pattern"`
	Published int64    `json:"published"` // how many of the events were published
	// Timeline has the events from First to Last in Buckets parts of equal length.
	Timeline [Buckets]Bucket `json:"-"`
}

// Buckets is the number of parts in an Aggregate's Timeline.
const Buckets = 60

// Bucket is one part of a timeline.
type Bucket struct{ Events, Published int64 }

// Pattern is what the gaps between an aggregate's events suggest.
type Pattern string

// The patterns, by the median gap.
const (
	// TightLoop is a median gap of at most a second: something ran in a loop.
	TightLoop Pattern = "tight_loop"
	// Overlap is one of at most the window: triggers overlapped.
	Overlap Pattern = "overlap"
	// Spread is a longer one: something came back to the aggregate long after it was done, a sweep or a restart.
	Spread Pattern = "spread"
	// Unknown is that of an aggregate of whose events fewer than two have a time.
	Unknown Pattern = "unknown"
)

func patternOf(medianGap *float64, window time.Duration) Pattern {
	switch {
	case medianGap == nil:
		return Unknown
	case *medianGap <= 1000:
		return TightLoop
	case *medianGap <= float64(window)/float64(time.Millisecond):
		return Overlap
	}
	return Spread
}

// Clean reports whether there are no duplicates.
func (r *Report) Clean() bool { return r.Duplicates == 0 }

// complete derives what follows from the counts of events and duplicates.
func (r *Report) complete() {
	r.Aggregates = r.Events - r.Duplicates
	if r.Aggregates > 0 {
		r.Percentage = twoDecimals(100 * float64(r.Duplicates) / float64(r.Aggregates))
		r.Average = twoDecimals(float64(r.Events) / float64(r.Aggregates))
	}
	for i := range r.Worst {
		r.Worst[i].Pattern = patternOf(r.Worst[i].MedianGap, r.Window)
	}
}

func twoDecimals(x float64) float64 { return math.Round(100*x) / 100 }
