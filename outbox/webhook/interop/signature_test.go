package interop

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/webhook"
)

// A receiver with the convention's own library, which has one of the two secrets, takes what a publisher signs.
func TestTheirLibraryVerifies(t *testing.T) {
	old, current := webhook.GenerateSecret(), webhook.GenerateSecret()
	for _, binary := range []bool{false, true} {
		for _, has := range []string{old, current} {
			theirs, err := standardwebhooks.NewWebhook(has)
			require.NoError(t, err)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err == nil {
					err = theirs.Verify(body, r.Header)
				}
				if err != nil {
					w.WriteHeader(http.StatusUnauthorized)
				}
			}))
			defer server.Close()
			publish := func(secrets ...string) []error {
				cfg := &webhook.Config{Binary: binary}
				for _, text := range secrets {
					s, err := webhook.ParseSecret(text)
					require.NoError(t, err)
					cfg.Secrets = append(cfg.Secrets, s)
				}
				p, err := webhook.New(server.URL, cfg)
				require.NoError(t, err)
				defer p.Close()
				return p.Publish(t.Context(), []outbox.Event{event()})
			}
			require.Empty(t, publish(current, old))
			require.Empty(t, publish(old, current))
			require.ErrorContains(t, publish(webhook.GenerateSecret())[0], "status 401")
		}
	}
}

// What the convention's own library signs, a Receiver takes, unless it was changed.
func TestTheirLibrarySigns(t *testing.T) {
	secret := webhook.GenerateSecret()
	theirs, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	ours, err := webhook.ParseSecret(secret)
	require.NoError(t, err)
	id, now := uuid.NewString(), time.Now()
	body := []byte(`{"specversion":"1.0","id":"` + id + `","source":"s","type":"order.paid","data":{"credits":3}}`)
	signature, err := theirs.Sign(id, now, body)
	require.NoError(t, err)
	request := func(body []byte) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
		r.Header.Set(standardwebhooks.HeaderWebhookID, id)
		r.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
		r.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
		return r
	}
	receiver := webhook.Receiver{Secrets: []webhook.Secret{ours}}
	e, err := receiver.Event(request(body))
	require.NoError(t, err)
	require.Equal(t, id, e.ID.String())
	require.Equal(t, `{"credits":3}`, string(e.Payload))
	_, err = receiver.Event(request(bytes.Replace(body, []byte("3"), []byte("9"), 1)))
	require.ErrorIs(t, err, webhook.ErrWrongSignature)
}
