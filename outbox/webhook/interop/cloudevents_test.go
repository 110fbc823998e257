package interop

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/webhook"
)

func event() outbox.Event {
	return outbox.Event{
		ID: uuid.New(), AggregateType: "order", AggregateID: "7 é", Type: "order.paid", Payload: []byte(`{ "credits":3, "credits":4 }`),
		ContentType: "application/json", OccurredAt: time.Date(2026, 2, 3, 4, 5, 6, 123456000, time.UTC), SchemaVersion: 7,
		Headers: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "X-Tenant": "é"},
	}
}

// What a publisher sends is a valid CloudEvent to the SDK, in both modes, with every attribute where the SDK has it.
func TestTheSDKReceives(t *testing.T) {
	for name, e := range map[string]outbox.Event{
		"JSON":   event(),
		"binary": {ID: uuid.New(), AggregateType: "order", AggregateID: "7", Type: "t", ContentType: "application/octet-stream", Payload: []byte("\x00\xff"), SchemaVersion: 1},
		"text":   {ID: uuid.New(), AggregateType: "order", AggregateID: "7", Type: "t", ContentType: "text/plain", Payload: []byte("<plain>"), SchemaVersion: 1},
	} {
		for mode, isBinary := range map[string]bool{"structured": false, "binary": true} {
			t.Run(name+" "+mode, func(t *testing.T) {
				var got *cloudevents.Event
				var err error
				server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					got, err = binding.ToEvent(r.Context(), cehttp.NewMessageFromHttpRequest(r))
				}))
				defer server.Close()
				p, errNew := webhook.New(server.URL, &webhook.Config{Source: "/shop/orders", Binary: isBinary})
				require.NoError(t, errNew)
				defer p.Close()
				require.Empty(t, p.Publish(t.Context(), []outbox.Event{e}))
				require.NoError(t, err)
				require.NoError(t, got.Validate())
				require.Equal(t, "1.0", got.SpecVersion())
				require.Equal(t, e.ID.String(), got.ID())
				require.Equal(t, e.Type, got.Type())
				require.Equal(t, "/shop/orders", got.Source())
				require.Equal(t, e.AggregateID, text(t, got.Subject(), isBinary))
				require.Equal(t, e.ContentType, got.DataContentType())
				require.True(t, e.OccurredAt.Equal(got.Time()))
				require.Equal(t, string(e.Payload), string(got.Data()))
				extensions := got.Extensions()
				require.Equal(t, e.AggregateType, extensions["aggregatetype"])
				if isBinary {
					require.Equal(t, map[bool]string{true: "7", false: "1"}[e.SchemaVersion == 7], extensions["schemaversion"])
				} else {
					require.EqualValues(t, e.SchemaVersion, extensions["schemaversion"])
				}
				if e.Headers != nil {
					require.Equal(t, e.Headers["traceparent"], extensions["traceparent"])
					require.JSONEq(t, `{"X-Tenant":"é"}`, text(t, extensions["headers"].(string), isBinary))
				}
			})
		}
	}
}

// text decodes the percent-encoding that CloudEvents asks for in headers. This version of the SDK leaves that to the caller.
func text(t *testing.T, value string, escaped bool) string {
	t.Helper()
	if !escaped {
		return value
	}
	plain, err := url.PathUnescape(value)
	require.NoError(t, err)
	return plain
}

// What the SDK sends is an event to Decode, in both modes.
func TestTheSDKSends(t *testing.T) {
	for mode, with := range map[string]func(context.Context) context.Context{"structured": binding.WithForceStructured, "binary": binding.WithForceBinary} {
		t.Run(mode, func(t *testing.T) {
			var got outbox.Event
			var err error
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				var body []byte
				if body, err = io.ReadAll(r.Body); err == nil {
					got, err = webhook.Decode(r.Header, body)
				}
			}))
			defer server.Close()
			client, errNew := cloudevents.NewClientHTTP()
			require.NoError(t, errNew)
			sent := cloudevents.NewEvent()
			id := uuid.New()
			sent.SetID(id.String())
			sent.SetType("order.paid")
			sent.SetSource("/shop")
			sent.SetSubject("7")
			sent.SetTime(time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC))
			sent.SetExtension("tenant", "acme")
			sent.SetExtension("count", 3)
			require.NoError(t, sent.SetData("application/json", map[string]int{"credits": 3}))
			result := client.Send(cloudevents.ContextWithTarget(with(t.Context()), server.URL), sent)
			require.True(t, cloudevents.IsACK(result), result)
			require.NoError(t, err)
			require.Equal(t, outbox.Event{
				ID: id, Type: "order.paid", AggregateID: "7", Payload: []byte(`{"credits":3}`), ContentType: "application/json",
				OccurredAt: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC), SchemaVersion: 1, Headers: map[string]string{"tenant": "acme", "count": "3"},
			}, got)
		})
	}
}
