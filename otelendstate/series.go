package otelendstate

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// maxSeries bounds how many combinations of attributes an instrument has. What comes later is counted as other: a trigger or an
// event's type that somebody made of a key shall not fill memory, here or at a back end.
const maxSeries = 1000

// other stands for what is too rare, or too many, to be told apart.
const other = "_OTHER"

// values are those of a series' attributes, in their order; an empty one is left out.
type values [6]string

// options are what a measurement is recorded with. They are made once for each combination of values, so that recording
// allocates nothing.
type options struct {
	add    []metric.AddOption
	record []metric.RecordOption
}

// series are the combinations of attributes that instruments have measured.
type series struct {
	keys []attribute.Key

	mu    sync.RWMutex
	known map[values]*options
}

func newSeries(keys ...attribute.Key) *series {
	return &series{keys: keys, known: map[values]*options{}}
}

func (s *series) of(v values) *options {
	s.mu.RLock()
	o := s.known[v]
	s.mu.RUnlock()
	if o != nil {
		return o
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxSeries {
		for i, key := range s.keys {
			if v[i] != "" && (key == trigger || key == eventType || key == errorType) {
				v[i] = other
			}
		}
	}
	if o = s.known[v]; o == nil {
		var attrs []attribute.KeyValue
		for i, key := range s.keys {
			if v[i] != "" {
				attrs = append(attrs, key.String(v[i]))
			}
		}
		set := metric.WithAttributeSet(attribute.NewSet(attrs...))
		o = &options{[]metric.AddOption{set}, []metric.RecordOption{set}}
		s.known[v] = o
	}
	return o
}

type counter struct {
	metric.Int64Counter
	series *series
}

func (c *counter) add(ctx context.Context, n int, v values) {
	c.Add(ctx, int64(n), c.series.of(v).add...)
}

type histogram struct {
	metric.Float64Histogram
	series *series
}

func (h *histogram) record(ctx context.Context, d time.Duration, v values) {
	h.Record(ctx, d.Seconds(), h.series.of(v).record...)
}

type gauge struct {
	metric.Int64Gauge
	series *series
}

func (g *gauge) record(ctx context.Context, n int, v values) {
	g.Record(ctx, int64(n), g.series.of(v).record...)
}
