package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/otelendstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/kafka"
	"github.com/endstate-go/endstate/outbox/natsjs"
	"github.com/endstate-go/endstate/outbox/relay"
)

// world is the service, its database and its broker.
type world struct {
	opts   options
	dir    string
	db     *sql.DB
	broker *server.Server
	conn   *nats.Conn
	js     jetstream.JetStream
	kafka  *kfake.Cluster
	client *kafka.Publisher

	spans     *tracetest.InMemoryExporter
	tracers   *sdktrace.TracerProvider
	metrics   *metric.ManualReader
	telemetry *otelendstate.Telemetry
	logger    *slog.Logger

	batches *finalize.Finalizer[*sql.Tx]
	relays  []*relay.Relay
	winners sync.Map // by batch, the traces that finalized it
}

func newWorld(ctx context.Context, opts options) (_ *world, err error) {
	w := &world{opts: opts, logger: slog.New(slog.NewTextHandler(io.Discard, nil)), spans: tracetest.NewInMemoryExporter(), metrics: metric.NewManualReader()}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	// A service has an exporter to its back end here, and batches spans.
	w.tracers = sdktrace.NewTracerProvider(sdktrace.WithSyncer(w.spans))
	if w.telemetry, err = otelendstate.New(&otelendstate.Config{
		TracerProvider: w.tracers, MeterProvider: metric.NewMeterProvider(metric.WithReader(w.metrics)),
	}); err != nil {
		return nil, err
	}
	if w.dir, err = os.MkdirTemp("", "endstate-pipeline"); err != nil {
		return nil, err
	}
	if err := w.openDatabase(ctx); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	if err := w.startNATS(ctx); err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	if err := w.startKafka(); err != nil {
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	publisher, err := natsjs.New(w.conn, &natsjs.Config{Stream: "EVENTS"})
	if err != nil {
		return nil, err
	}
	return w, errors.Join(w.publish("nats", publisher), w.publish("kafka", w.client))
}

// publish makes the relay of a broker, which has a subscription of its own.
func (w *world) publish(broker string, publisher outbox.Publisher) error {
	r, err := relay.NewSQL(w.db, repeating{publisher, w.opts.duplicates}, &relay.Config{
		Subscription: broker, Destination: broker + "://in-process", Trace: w.telemetry.Relay(broker), Logger: w.logger,
	})
	w.relays = append(w.relays, r)
	return err
}

func (w *world) openDatabase(ctx context.Context) (err error) {
	w.db, err = sql.Open("sqlite", "file:"+filepath.Join(w.dir, "pipeline.db")+"?_pragma=busy_timeout(30000)&_pragma=journal_mode(wal)&_pragma=synchronous(normal)&_txlock=immediate")
	if err != nil {
		return err
	}
	w.db.SetMaxOpenConns(8)
	if _, err := w.db.ExecContext(ctx, `CREATE TABLE batches (id TEXT PRIMARY KEY, status TEXT NOT NULL);
		CREATE TABLE lifecycle (batch TEXT NOT NULL); CREATE TABLE credits (batch TEXT NOT NULL)`); err != nil {
		return err
	}
	w.batches, err = finalize.NewSQL(w.db, &finalize.Config{
		Aggregate: "batch",
		Guard: guard.All(
			guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")},
			guard.Ledger{},
		),
		Outbox: outbox.Writer{Headers: w.telemetry.Headers()}, // the trigger's trace goes with the events
		Trace:  w.telemetry.Finalize(),
		Logger: w.logger,
	})
	if err != nil {
		return err
	}
	return w.batches.Migrate(ctx)
}

func (w *world) startKafka() (err error) {
	if w.kafka, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, kafka.DefaultTopic)); err != nil {
		return err
	}
	w.client, err = kafka.New(nil, kgo.SeedBrokers(w.kafka.ListenAddrs()...))
	return err
}

func (w *world) startNATS(ctx context.Context) (err error) {
	w.broker, err = server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: filepath.Join(w.dir, "nats"), NoLog: true, NoSigs: true})
	if err != nil {
		return err
	}
	w.broker.Start()
	if !w.broker.ReadyForConnections(30 * time.Second) {
		return errors.New("it doesn't start")
	}
	if w.conn, err = nats.Connect("", nats.InProcessServer(w.broker), nats.MaxReconnects(-1)); err != nil {
		return err
	}
	if w.js, err = jetstream.New(w.conn); err != nil {
		return err
	}
	for _, stream := range []jetstream.StreamConfig{{Name: "EVENTS", Subjects: []string{"events.>"}}, {Name: "DEAD", Subjects: []string{"dead.>"}}} {
		if _, err := w.js.CreateStream(ctx, stream); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) close() (err error) {
	if w.conn != nil {
		w.conn.Close()
	}
	if w.broker != nil {
		w.broker.Shutdown()
		w.broker.WaitForShutdown()
	}
	if w.client != nil {
		w.client.Close()
	}
	if w.kafka != nil {
		w.kafka.Close()
	}
	if w.db != nil {
		err = w.db.Close()
	}
	if w.dir != "" {
		err = errors.Join(err, os.RemoveAll(w.dir))
	}
	return errors.Join(err, w.tracers.Shutdown(context.Background()))
}

// repeating publishes each event several times, as relays do that crash before they have written down what they published.
type repeating struct {
	publisher outbox.Publisher
	times     int
}

func (r repeating) Publish(ctx context.Context, batch []outbox.Event) (errs []error) {
	for range r.times {
		if errs = r.publisher.Publish(ctx, batch); errs != nil {
			return errs
		}
	}
	return nil
}

// wake has the relays look at once.
func (w *world) wake() {
	for _, r := range w.relays {
		r.Wake()
	}
}

// start runs the relays and the consumers until ctx ends; then ended says how they did.
func (w *world) start(ctx context.Context) (ended <-chan error) {
	runs := []func(context.Context) error{w.lifecycle, w.entitlements}
	for _, r := range w.relays {
		runs = append(runs, r.Run)
	}
	errs := make([]error, len(runs))
	var all sync.WaitGroup
	for i, run := range runs {
		all.Go(func() { errs[i] = run(ctx) })
	}
	done := make(chan error, 1)
	go func() {
		all.Wait()
		done <- errors.Join(errs...)
	}()
	return done
}
