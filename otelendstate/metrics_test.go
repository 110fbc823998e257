package otelendstate_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/otelendstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

func by(trigger, outcome string) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("endstate.aggregate", "batch"), attribute.String("endstate.trigger", trigger), attribute.String("endstate.outcome", outcome)}
}

// Each call is counted once, by its trigger and what became of it; those that went to the database are measured.
func TestCallsByTriggerAndOutcome(t *testing.T) {
	w := newWorld(t, func(_ *otelendstate.Config, f *finalize.Config) { f.Cache.Size = 1 })
	ctx := t.Context()
	do := func(key string, trigger finalize.Trigger, fn finalize.Func[*sql.Tx]) error {
		_, err := w.fin.Do(ctx, guard.Text(key), trigger, fn)
		return err
	}
	require.NoError(t, do("b1", "threshold", completed))
	require.NoError(t, do("b2", "threshold", completed)) // b1 is not in the cache any more
	require.NoError(t, do("b1", "periodic", completed))
	for range 3 {
		require.NoError(t, do("b1", "sweep", completed))
	}
	_, err := w.fin.Settle(ctx, guard.Text("b1"), "operator", finalize.Outcome{State: "ERROR"})
	require.NoError(t, err)
	require.ErrorIs(t, do("b3", "periodic", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
		return finalize.Outcome{}, finalize.ErrNotReady
	}), finalize.ErrNotReady)
	require.Error(t, do("b3", "threshold", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
		return finalize.Outcome{}, errors.New("failed")
	}))
	require.NoError(t, do("b3", "threshold", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
		return finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "other", DedupKey: "taken", Payload: []byte("{}")}}}, nil
	}))
	require.ErrorIs(t, do("b4", "threshold", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
		return finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "other", DedupKey: "taken", Payload: []byte("{}")}}}, nil
	}), finalize.ErrEventConflict)

	for of, want := range map[[2]string][2]int{
		{"threshold", "won"}: {3, 3}, {"threshold", "failed"}: {1, 1}, {"threshold", "conflict"}: {1, 1}, {"periodic", "lost"}: {1, 1},
		{"sweep", "cached"}: {3, 0}, {"operator", "differs"}: {1, 0}, {"periodic", "not_ready"}: {1, 1},
	} {
		require.Equal(t, want[0], w.count("endstate.finalize.calls", by(of[0], of[1])...), of)
		require.Equal(t, want[1], w.count("endstate.finalize.duration", by(of[0], of[1])...), of)
	}
	require.Equal(t, 11, w.count("endstate.finalize.calls"))
	require.Equal(t, 1, w.count("endstate.finalize.calls", attribute.String("error.type", "conflict")))
	require.Equal(t, 1, w.count("endstate.finalize.calls", attribute.String("error.type", "_OTHER")))
}

// The hooks that a database rarely calls.
func TestRareHooks(t *testing.T) {
	w := newWorld(t)
	hooks, ctx := w.telemetry.Finalize(), t.Context()
	call := finalize.Call{Ref: guard.Ref{Aggregate: "batch", Key: guard.Text(secretKey)}, Trigger: "event 0190-" + secretKey, Attempt: 2}
	for err, want := range map[error]string{finalize.ErrBusy: "busy", finalize.ErrOutcomeUnknown: "unknown", finalize.ErrInProgress: "in_progress", finalize.ErrLockUnavailable: "lock_unavailable"} {
		hooks.Failed(hooks.Began(ctx, call), call, fmt.Errorf("wrapped: %w", errors.Join(err, context.DeadlineExceeded)))
		require.Equal(t, 1, w.count("endstate.finalize.calls", append(by("event", want), attribute.String("error.type", want))...), want)
	}
	began := hooks.Began(ctx, call)
	hooks.Retry(began, call, stateError("40001"), time.Second)
	hooks.Resolving(began, call, context.DeadlineExceeded)
	hooks.LockUnavailable(began, call, lock.ErrUnavailable)
	hooks.LockLost(began, call, lock.ErrLost)
	hooks.Won(began, call, finalize.Receipt{State: "COMPLETE"})
	hooks.Hot(ctx, finalize.HotKey{Ref: call.Ref})
	hooks.Swept(ctx, finalize.Swept{Elapsed: time.Second})
	require.Equal(t, 1, w.count("endstate.finalize.retries", attribute.String("error.type", "40001")))
	require.Equal(t, 1, w.count("endstate.finalize.unanswered_commits", attribute.String("error.type", "timeout")))
	require.Equal(t, 1, w.count("endstate.finalize.lock_failures", attribute.String("endstate.outcome", "unavailable")))
	require.Equal(t, 1, w.count("endstate.finalize.lock_failures", attribute.String("endstate.outcome", "lost")))
	require.Equal(t, 1, w.count("endstate.finalize.hot_keys"))
	require.Equal(t, 1, w.count("endstate.finalize.sweep.duration"))
	spans := w.named("finalize batch")
	var noted []string
	for _, e := range spans[len(spans)-1].Events {
		noted = append(noted, e.Name)
	}
	require.Equal(t, []string{"transaction broken off", "commit without an answer", "lock unavailable", "lock lost"}, noted)
	require.NotContains(t, fmt.Sprint(attributesOf(w.spans.GetSpans()), w.collect()), secretKey)

	log := w.telemetry.Relay("partner")
	log.Blocked(ctx, errors.New("away"))
	log.Blocked(ctx, nil)
	log.Owns(ctx, 8)
	log.LeaseLost(ctx)
	log.Reconnecting(ctx, errors.New("away"), time.Second)
	of := attribute.String("endstate.subscription", "partner")
	for name, want := range map[string]int{"endstate.relay.outages": 1, "endstate.relay.partitions": 8, "endstate.relay.lease_losses": 1, "endstate.relay.reconnects": 1} {
		require.Equal(t, want, w.count(name, of), name)
	}
}

type stateError string

func (e stateError) Error() string    { return "state " + string(e) }
func (e stateError) SQLState() string { return string(e) }

// A relay's tries are counted by what became of them, its events by their age, and its backlog as the database has it.
func TestARelaysMetrics(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		_, err := w.fin.Do(t.Context(), guard.Text(fmt.Sprint("b", i)), "threshold", completed)
		require.NoError(t, err)
	}
	admin, err := relay.NewAdminSQL(w.db, nil)
	require.NoError(t, err)
	stop, err := w.telemetry.Observe(admin)
	require.NoError(t, err)
	w.publish(2, outbox.PublisherFunc(func(ctx context.Context, e outbox.Event) error {
		if e.AggregateID == "b1" {
			return outbox.Permanent(errors.New("too large"))
		}
		return nil
	}), &relay.Config{Destination: "https://partner.example", Subscription: "partner"})
	of := attribute.String("endstate.subscription", "partner")
	require.Equal(t, 2, w.count("messaging.client.sent.messages", of, attribute.String("messaging.system", "webhook"), attribute.String("server.address", "partner.example"))-w.count("messaging.client.sent.messages", of, attribute.String("error.type", "permanent")))
	require.Positive(t, w.count("messaging.client.sent.messages", attribute.String("error.type", "permanent")))
	require.Positive(t, w.count("messaging.client.operation.duration", of))
	require.Equal(t, 2, w.count("endstate.event.age", of, attribute.String("endstate.event.type", "batch.completed")))
	require.Equal(t, 1, w.count("endstate.relay.dead_lettered", of))
	require.Equal(t, 1, w.count("endstate.relay.failed_attempts", of))
	require.Equal(t, 1, w.count("endstate.relay.dead_letters", of))
	require.Zero(t, w.count("endstate.relay.backlog", of))
	for i := range 4 {
		_, err := w.fin.Do(t.Context(), guard.Text(fmt.Sprint("c", i)), "threshold", completed)
		require.NoError(t, err)
	}
	require.Equal(t, 4, w.count("endstate.relay.pending", of))
	require.Equal(t, 4, w.count("endstate.relay.backlog", of))
	require.Equal(t, 8, w.count("endstate.relay.unowned_partitions", of))
	oldest := w.collect()["endstate.relay.oldest_age"].(metricdata.Gauge[float64])
	require.Len(t, oldest.DataPoints, 1)
	require.GreaterOrEqual(t, oldest.DataPoints[0].Value, 0.0)
	require.NoError(t, stop())
	require.NotContains(t, w.collect(), "endstate.relay.pending")
}

// What is collected more often than Config.StatsInterval isn't read again.
func TestFiguresAreReadSeldom(t *testing.T) {
	w := newWorld(t, func(c *otelendstate.Config, _ *finalize.Config) { c.StatsInterval = time.Hour })
	admin, err := relay.NewAdminSQL(w.db, nil)
	require.NoError(t, err)
	_, err = w.fin.Do(t.Context(), guard.Text("b0"), "threshold", completed)
	require.NoError(t, err)
	w.publish(1, outbox.PublisherFunc(func(context.Context, outbox.Event) error { return nil }), &relay.Config{})
	_, err = w.telemetry.Observe(admin)
	require.NoError(t, err)
	require.Zero(t, w.count("endstate.relay.pending"))
	_, err = w.fin.Do(t.Context(), guard.Text("b1"), "threshold", completed)
	require.NoError(t, err)
	require.Zero(t, w.count("endstate.relay.pending"), "as it was read an hour ago at most")
}

func TestALocksMetrics(t *testing.T) {
	w := newWorld(t)
	locks := w.telemetry.Lock("reports", lock.NewLocal())
	require.NoError(t, locks.Do(t.Context(), "k", func(ctx context.Context) error {
		var held *lock.HeldError
		require.ErrorAs(t, locks.Try(ctx, "k", func(context.Context) error { return nil }), &held)
		return nil
	}))
	name := attribute.String("endstate.lock.name", "reports")
	for _, of := range []struct {
		instrument, outcome string
	}{{"wait", "acquired"}, {"wait", "held"}, {"hold", "released"}} {
		require.Equal(t, 1, w.count("endstate.lock."+of.instrument+".duration", name, attribute.String("endstate.outcome", of.outcome)), of)
	}
}

func TestAConsumersMetrics(t *testing.T) {
	w := newWorld(t)
	answers := []struct {
		result inbox.Result
		err    error
	}{{inbox.Result{Outcome: inbox.Applied}, nil}, {inbox.Result{Outcome: inbox.Repeated}, nil}, {inbox.Result{Outcome: inbox.Repeated}, nil}, {inbox.Result{}, inbox.ErrInProgress}}
	next := 0
	handle := w.telemetry.Handler(otelendstate.Consumer{Name: "results", System: "nats", Destination: "EVENTS"}, func(context.Context, outbox.Event) (inbox.Result, error) {
		next++
		return answers[next-1].result, answers[next-1].err
	})
	for _, want := range answers {
		result, err := handle(t.Context(), outbox.Event{Type: "t"})
		require.Equal(t, want.err, err)
		require.Equal(t, want.result, result)
	}
	of := []attribute.KeyValue{attribute.String("messaging.consumer.group.name", "results"), attribute.String("messaging.system", "nats"), attribute.String("messaging.destination.name", "EVENTS")}
	for outcome, want := range map[string]int{"applied": 1, "repeated": 2, "failed": 1} {
		with := append(slices.Clone(of), attribute.String("endstate.outcome", outcome))
		require.Equal(t, want, w.count("messaging.client.consumed.messages", with...), outcome)
		require.Equal(t, want, w.count("messaging.process.duration", with...), outcome)
	}
	require.Equal(t, 1, w.count("messaging.client.consumed.messages", attribute.String("error.type", "in_progress")))
}

// F48: a trigger that somebody makes of a key fills neither memory nor the back end.
func TestSeriesAreBounded(t *testing.T) {
	w := newWorld(t)
	hooks := w.telemetry.Finalize()
	for i := range 1500 {
		hooks.Won(t.Context(), finalize.Call{Ref: guard.Ref{Aggregate: "batch"}, Trigger: finalize.Trigger(fmt.Sprint("by ", i)), Attempt: 1}, finalize.Receipt{})
	}
	require.Equal(t, 1500, w.count("endstate.finalize.calls"))
	require.Equal(t, 500, w.count("endstate.finalize.calls", by("_OTHER", "won")...))

	w = newWorld(t)
	hooks = w.telemetry.Finalize()
	log := w.telemetry.Relay("")
	for i := range 1500 {
		hooks.Failed(t.Context(), finalize.Call{Ref: guard.Ref{Aggregate: "batch"}, Trigger: "sweep", Attempt: 1}, sqlError(fmt.Sprintf("%05d", i)))
		log.Failed(t.Context(), outbox.Event{Type: fmt.Sprint("type ", i)}, 1, nil, 0)
	}
	require.Equal(t, 1500, w.count("endstate.finalize.calls"))
	require.Equal(t, 500, w.count("endstate.finalize.calls", attribute.String("error.type", "_OTHER")))
	require.Equal(t, 1500, w.count("endstate.relay.failed_attempts"))
	require.Equal(t, 500, w.count("endstate.relay.failed_attempts", attribute.String("endstate.event.type", "_OTHER")))
}

// sqlError is a driver's, with its SQLSTATE.
type sqlError string

func (e sqlError) Error() string    { return "refused" }
func (e sqlError) SQLState() string { return string(e) }

// What callers decide on has a short name, wrapped or not; else an SQLSTATE is told, how a context ended, or nothing.
func TestErrorsHaveShortNames(t *testing.T) {
	w := newWorld(t)
	hooks := w.telemetry.Finalize()
	for i, of := range []struct {
		err  error
		name string
	}{
		{finalize.ErrOutcomeUnknown, "unknown"}, {finalize.ErrEventConflict, "conflict"}, {finalize.ErrInProgress, "in_progress"}, {finalize.ErrLockUnavailable, "lock_unavailable"},
		{finalize.ErrBusy, "busy"}, {finalize.ErrNotReady, "not_ready"}, {finalize.ErrNested, "nested"}, {finalize.ErrTxEnded, "tx_ended"}, {finalize.ErrTxAborted, "tx_aborted"},
		{guard.ErrNotFound, "not_found"}, {guard.ErrNotOpen, "not_open"}, {guard.ErrRewritten, "rewritten"}, {guard.ErrRefused, "refused"}, {guard.ErrNotTerminal, "not_terminal"},
		{guard.ErrInvalidKey, "invalid_key"}, {guard.ErrAnomaly, "anomaly"}, {guard.ErrSchema, "schema"}, {outbox.ErrInvalidEvent, "invalid_event"}, {outbox.ErrDuplicate, "duplicate"},
		{outbox.ErrRefused, "refused"}, {outbox.ErrSchema, "schema"}, {inbox.ErrInProgress, "in_progress"}, {inbox.ErrPayloadMismatch, "payload_mismatch"}, {inbox.ErrInvalidEvent, "invalid_event"},
		{inbox.ErrUnavailable, "unavailable"}, {inbox.ErrClaimLost, "claim_lost"}, {inbox.ErrTxEnded, "tx_ended"}, {inbox.ErrTxAborted, "tx_aborted"}, {inbox.ErrSchema, "schema"},
		{relay.ErrTxEnded, "tx_ended"}, {relay.ErrTxAborted, "tx_aborted"}, {relay.ErrRowsOpen, "rows_open"}, {lock.ErrHeld, "held"}, {lock.ErrLost, "lost"}, {lock.ErrAmbiguous, "ambiguous"},
		{lock.ErrUnavailable, "unavailable"}, {outbox.ErrPermanent, "permanent"}, {sqlError("40001"), "40001"}, {context.DeadlineExceeded, "timeout"}, {context.Canceled, "canceled"},
		{errors.New("something"), "_OTHER"},
	} {
		by := finalize.Trigger(fmt.Sprint("trigger ", i))
		hooks.Failed(t.Context(), finalize.Call{Ref: guard.Ref{Aggregate: "batch"}, Trigger: by, Attempt: 1}, fmt.Errorf("around: %w", of.err))
		require.Equal(t, 1, w.count("endstate.finalize.calls", attribute.String("endstate.trigger", string(by)), attribute.String("error.type", of.name)), "%s: %v", of.name, of.err)
	}
}

// A handler of the log's that fails is told as failed.
func TestAFailedConsumerOfTheLog(t *testing.T) {
	w := newWorld(t)
	hooks := w.telemetry.Relay("credits")
	try := relay.Try{Destination: "handler", Consumer: true, Events: []outbox.Event{{Type: "t"}}}
	hooks.Tried(hooks.Trying(t.Context(), try), try, []error{inbox.ErrPayloadMismatch}, time.Second)
	with := []attribute.KeyValue{attribute.String("endstate.outcome", "failed"), attribute.String("error.type", "payload_mismatch"), attribute.String("messaging.system", "endstate")}
	require.Equal(t, 1, w.count("messaging.client.consumed.messages", with...))
	require.Equal(t, 1, w.count("messaging.process.duration", with...))
}

// Histograms are of seconds, and have buckets for what they measure: calls from half a millisecond on, ages up to a day.
func TestHistogramsFitWhatTheyMeasure(t *testing.T) {
	w := newWorld(t)
	w.telemetry.Finalize().Won(t.Context(), finalize.Call{Ref: guard.Ref{Aggregate: "batch"}, Trigger: "sweep", Attempt: 1, Elapsed: time.Millisecond}, finalize.Receipt{})
	log := w.telemetry.Relay("")
	try := relay.Try{Events: []outbox.Event{{Type: "t"}}}
	log.Tried(log.Trying(t.Context(), try), try, nil, time.Millisecond)
	log.Published(t.Context(), outbox.Event{Type: "t"}, 3*time.Hour)
	_, err := w.telemetry.Handler(otelendstate.Consumer{Name: "results"}, func(context.Context, outbox.Event) (inbox.Result, error) { return inbox.Result{}, nil })(t.Context(), outbox.Event{Type: "t"})
	require.NoError(t, err)
	var all metricdata.ResourceMetrics
	require.NoError(t, w.reader.Collect(t.Context(), &all))
	found := map[string][2]float64{}
	for _, m := range all.ScopeMetrics[0].Metrics {
		if h, ok := m.Data.(metricdata.Histogram[float64]); ok {
			require.Equal(t, "s", m.Unit, m.Name)
			bounds := h.DataPoints[0].Bounds
			found[m.Name] = [2]float64{bounds[0], bounds[len(bounds)-1]}
			require.Less(t, h.DataPoints[0].Sum, 3*3600+1.0, "seconds")
		}
	}
	duration := [2]float64{0.0005, 30}
	require.Equal(t, map[string][2]float64{
		"endstate.finalize.duration": duration, "messaging.client.operation.duration": duration, "messaging.process.duration": duration, "endstate.event.age": {0.01, 86400},
	}, found)
}

// The package's documentation lists the instruments that there are, and no others.
func TestEveryInstrumentIsDocumented(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^//\t((?:endstate|messaging)\.[a-z_.]+) {2,}\S`).FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, m[1])
	}
	var made []string
	name := regexp.MustCompile(`"((?:endstate|messaging)\.[a-z_.]+)", (?:"\{|"How|"The|metric\.)`)
	for _, file := range []string{"instruments.go", "stats.go"} {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range name.FindAllStringSubmatch(string(source), -1) {
			made = append(made, m[1])
		}
	}
	slices.Sort(documented)
	slices.Sort(made)
	require.Equal(t, made, documented)
	require.Len(t, made, 27)
	require.False(t, slices.ContainsFunc(made, func(s string) bool { return strings.HasSuffix(s, "_total") }))
}
