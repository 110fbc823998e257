package interop

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/otelendstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/kafka"
	"github.com/endstate-go/endstate/outbox/natsjs"
	"github.com/endstate-go/endstate/outbox/outboxwatermill"
	"github.com/endstate-go/endstate/outbox/redisstream"
	"github.com/endstate-go/endstate/outbox/relay"
	"github.com/endstate-go/endstate/outbox/webhook"
)

var quiet = slog.New(slog.DiscardHandler)

// broker is one way from a relay to a consumer.
type broker struct {
	publisher outbox.Publisher
	consume   func(ctx context.Context, handle inbox.Handler) error // until ctx ends
}

var brokers = map[string]func(t *testing.T) broker{
	"nats": func(t *testing.T) broker {
		s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
		require.NoError(t, err)
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		require.True(t, s.ReadyForConnections(30*time.Second))
		conn, err := nats.Connect(s.ClientURL(), nats.MaxReconnects(-1))
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		js, err := jetstream.New(conn)
		require.NoError(t, err)
		for name, subject := range map[string]string{"EVENTS": "events.>", "DEAD": "dead.>"} {
			_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}})
			require.NoError(t, err)
		}
		durable, err := js.CreateConsumer(t.Context(), "EVENTS", jetstream.ConsumerConfig{Durable: "results", AckPolicy: jetstream.AckExplicitPolicy})
		require.NoError(t, err)
		publisher, err := natsjs.New(conn, nil)
		require.NoError(t, err)
		return broker{publisher, func(ctx context.Context, handle inbox.Handler) error {
			consumer, err := natsjs.NewConsumer(js, durable, handle, &natsjs.ConsumerConfig{DeadLetters: "dead.results", Logger: quiet})
			if err != nil {
				return err
			}
			return consumer.Run(ctx)
		}}
	},
	"redis": func(t *testing.T) broker {
		client := dbtest.Redis(t)
		publisher, err := redisstream.New(client, nil)
		require.NoError(t, err)
		return broker{publisher, func(ctx context.Context, handle inbox.Handler) error {
			consumer, err := redisstream.NewConsumer(client, handle, &redisstream.ConsumerConfig{Group: "results", Logger: quiet})
			if err != nil {
				return err
			}
			return consumer.Run(ctx)
		}}
	},
	"kafka": func(t *testing.T) broker {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, kafka.DefaultTopic))
		require.NoError(t, err)
		t.Cleanup(cluster.Close)
		seeds := kgo.SeedBrokers(cluster.ListenAddrs()...)
		publisher, err := kafka.New(nil, seeds)
		require.NoError(t, err)
		t.Cleanup(publisher.Close)
		return broker{publisher, func(ctx context.Context, handle inbox.Handler) error {
			consumer, err := kafka.NewConsumer(handle, &kafka.ConsumerConfig{Group: "results", Logger: quiet}, seeds)
			if err != nil {
				return err
			}
			return consumer.Run(ctx)
		}}
	},
	"watermill": func(t *testing.T) broker {
		channel := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, watermill.NopLogger{})
		messages, err := channel.Subscribe(t.Context(), "events")
		require.NoError(t, err)
		publisher, err := outboxwatermill.New(channel, &outboxwatermill.Config{Topic: "events"})
		require.NoError(t, err)
		return broker{publisher, func(ctx context.Context, handle inbox.Handler) error {
			handler := outboxwatermill.Handler(handle) // as Watermill's router calls it
			for {
				select {
				case <-ctx.Done():
					return nil
				case msg := <-messages:
					if handler(msg) == nil {
						msg.Ack()
					} else {
						msg.Nack()
					}
				}
			}
		}}
	},
	"webhook":        func(t *testing.T) broker { return webhooks(t, false) },
	"webhook-binary": func(t *testing.T) broker { return webhooks(t, true) },
}

func webhooks(t *testing.T, binary bool) broker {
	secret, err := webhook.ParseSecret(webhook.GenerateSecret())
	require.NoError(t, err)
	receivers := httptest.NewUnstartedServer(nil)
	url := "http://" + receivers.Listener.Addr().String()
	publisher, err := webhook.New(url, &webhook.Config{Secrets: []webhook.Secret{secret}, Binary: binary})
	require.NoError(t, err)
	return broker{publisher, func(ctx context.Context, handle inbox.Handler) error {
		handler, err := webhook.Receiver{Secrets: []webhook.Secret{secret}, Binary: binary}.Handler(handle, quiet)
		if err != nil {
			return err
		}
		receivers.Config.Handler = handler
		receivers.Start()
		<-ctx.Done()
		receivers.Close()
		return nil
	}}
}

// One trace goes from the trigger, through the outbox, the relay and each broker, into the inbox, to the effect: a report that the
// consumer finalizes in the transaction of its inbox, which puts an event of its own.
func TestOneTraceThroughEachBroker(t *testing.T) {
	t.Parallel()
	for name, start := range brokers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spans := tracetest.NewInMemoryExporter()
			tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
			telemetry, err := otelendstate.New(&otelendstate.Config{TracerProvider: tracers})
			require.NoError(t, err)
			pool := dbtest.Pool(t)
			writer := outbox.Writer{Headers: telemetry.Headers()}
			finalizer := func(aggregate string) *finalize.Finalizer[pgx.Tx] {
				fin, err := finalize.New(pool, &finalize.Config{Aggregate: aggregate, Guard: guard.Ledger{}, Trace: telemetry.Finalize(), Outbox: writer, Logger: quiet})
				require.NoError(t, err)
				require.NoError(t, fin.Migrate(t.Context()))
				return fin
			}
			batches, reports := finalizer("batch"), finalizer("report")
			table, err := inbox.NewTable(pool, &inbox.TableConfig{Consumer: "results", Types: []string{"batch.completed"}, Logger: quiet})
			require.NoError(t, err)
			require.NoError(t, table.Migrate(t.Context()))

			broker := start(t)
			done := make(chan struct{})
			handle := inbox.Handle(table, func(ctx context.Context, tx pgx.Tx, e outbox.Event) error {
				_, err := reports.DoTx(ctx, tx, guard.Text(e.AggregateID), "event", func(context.Context, pgx.Tx) (finalize.Outcome, error) {
					return finalize.Outcome{State: "WRITTEN", Events: []outbox.Event{{Type: "report.written", Payload: []byte("{}")}}}, nil
				})
				return err
			})
			traced := telemetry.Handler(otelendstate.Consumer{Name: "results", System: name}, handle)
			ctx, stop := context.WithCancel(t.Context())
			consumed := make(chan error, 1)
			go func() {
				consumed <- broker.consume(ctx, func(ctx context.Context, e outbox.Event) (inbox.Result, error) {
					result, err := traced(ctx, e)
					if e.Type == "report.written" {
						close(done)
					}
					return result, err
				})
			}()
			rel, err := relay.New(pool, broker.publisher, &relay.Config{Trace: telemetry.Relay(""), Logger: quiet, PollInterval: 50 * time.Millisecond})
			require.NoError(t, err)
			relayed := make(chan error, 1)
			go func() { relayed <- rel.Run(ctx) }()

			began, root := tracers.Tracer("service").Start(t.Context(), "callback")
			receipt, err := batches.Do(began, guard.Text("b1"), "threshold", func(context.Context, pgx.Tx) (finalize.Outcome, error) {
				return finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "batch.completed", Payload: []byte("{}")}}}, nil
			})
			require.NoError(t, err)
			require.True(t, receipt.Won)
			root.End()
			select {
			case <-done:
			case <-time.After(2 * time.Minute):
				t.Error("the effect's event didn't come")
			}
			stop()
			require.NoError(t, <-relayed)
			require.NoError(t, <-consumed)

			// Each has the parent that it should have, in the trigger's trace. A relay's or a broker's repeat would only add to them.
			for child, parent := range map[string]string{
				"finalize batch": "callback", "work batch": "finalize batch", "publish batch.completed": "finalize batch", "process batch.completed": "finalize batch",
				"finalize report": "process batch.completed", "publish report.written": "finalize report", "process report.written": "finalize report",
			} {
				found := find(spans.GetSpans(), child)
				require.NotEmpty(t, found, child)
				require.Equal(t, root.SpanContext().TraceID(), found[0].SpanContext.TraceID(), child)
				require.Equal(t, find(spans.GetSpans(), parent)[0].SpanContext.SpanID(), found[0].Parent.SpanID(), child)
			}
			applied := find(spans.GetSpans(), "process batch.completed")[0]
			require.Contains(t, applied.Attributes, attribute.String("endstate.outcome", "applied"))
			require.Equal(t, trace.SpanKindConsumer, applied.SpanKind)
		})
	}
}

func find(spans tracetest.SpanStubs, name string) (found tracetest.SpanStubs) {
	for _, s := range spans {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}
