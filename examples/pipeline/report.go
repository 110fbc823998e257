package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// report is what came of it, by the database, the metrics and the spans.
type report struct {
	terminal, events, closed, charged int
	batchesClosed, batchesCharged     int
	calls                             map[string]int64 // by trigger and outcome
	trace                             tracetest.SpanStubs
}

func (w *world) report(ctx context.Context) (*report, error) {
	r := &report{calls: map[string]int64{}}
	if err := w.db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM batches WHERE status LIKE 'COMPLETE%'), (SELECT count(*) FROM endstate_outbox),
		(SELECT count(*) FROM lifecycle), (SELECT count(*) FROM credits), (SELECT count(DISTINCT batch) FROM lifecycle), (SELECT count(DISTINCT batch) FROM credits)`,
	).Scan(&r.terminal, &r.events, &r.closed, &r.charged, &r.batchesClosed, &r.batchesCharged); err != nil {
		return nil, err
	}
	var all metricdata.ResourceMetrics
	if err := w.metrics.Collect(ctx, &all); err != nil {
		return nil, err
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "endstate.finalize.calls" {
				for _, p := range sum.DataPoints {
					r.calls[text(p.Attributes, "endstate.trigger")+" "+text(p.Attributes, "endstate.outcome")] += p.Value
				}
			}
		}
	}
	first, _ := w.winners.Load("batch-01")
	for _, s := range w.spans.GetSpans() {
		if s.SpanContext.TraceID() == first {
			r.trace = append(r.trace, s)
		}
	}
	return r, nil
}

func text(set attribute.Set, key attribute.Key) string {
	v, _ := set.Value(key)
	return v.AsString()
}

// wrong says what isn't as it should be.
func (r *report) wrong(opts options) (wrong []string) {
	for what, n := range map[string]int{
		"batches that are terminal": r.terminal, "batches closed": r.closed, "different batches closed": r.batchesClosed,
		"credits charged": r.charged, "different batches charged": r.batchesCharged, "pairs of events": r.events / 2,
	} {
		if n != opts.batches {
			wrong = append(wrong, fmt.Sprintf("%s: %d, not %d", what, n, opts.batches))
		}
	}
	for _, name := range []string{"finalize batch", "publish assessment.completed", "process assessment.completed", "publish assessment.consumed", "process assessment.consumed"} {
		if !slices.ContainsFunc(r.trace, func(s tracetest.SpanStub) bool { return s.Name == name }) {
			wrong = append(wrong, "the trace of batch-01 lacks the span "+name)
		}
	}
	slices.Sort(wrong)
	return wrong
}

func (r *report) print(to io.Writer) error {
	var b strings.Builder
	var calls int64
	for _, n := range r.calls {
		calls += n
	}
	fmt.Fprintf(&b, "%d calls of %d triggers completed %d batches, whose %d events closed %d batches and charged %d credits.\n\n", calls, len(triggers), r.terminal, r.events, r.closed, r.charged)
	b.WriteString("calls of a trigger and their outcome\n")
	for _, of := range slices.Sorted(maps.Keys(r.calls)) {
		fmt.Fprintf(&b, "  %-20s %d\n", of, r.calls[of])
	}
	b.WriteString("\nthe trace of batch-01\n")
	r.tree(&b, trace.SpanID{}, "  ")
	_, err := io.WriteString(to, b.String())
	return err
}

// shown are the attributes that stand beside a span.
var shown = []attribute.Key{"endstate.trigger", "endstate.outcome", "endstate.state", "messaging.system", "messaging.consumer.group.name", "error.type"}

// tree writes the spans below a parent, in the order in which they began.
func (r *report) tree(b *strings.Builder, parent trace.SpanID, indent string) {
	var children []tracetest.SpanStub
	for _, s := range r.trace {
		if s.Parent.SpanID() == parent {
			children = append(children, s)
		}
	}
	slices.SortStableFunc(children, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	for _, s := range children {
		set := attribute.NewSet(s.Attributes...)
		var beside []string
		for _, key := range shown {
			if v := text(set, key); v != "" {
				beside = append(beside, v)
			}
		}
		fmt.Fprintf(b, "%-56s %8s  %s\n", indent+s.Name, s.EndTime.Sub(s.StartTime).Round(10*time.Microsecond), strings.Join(beside, ", "))
		r.tree(b, s.SpanContext.SpanID(), indent+"  ")
	}
}
