package webhook

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/cloudevents"
)

func event() outbox.Event {
	return outbox.Event{
		ID: uuid.New(), AggregateType: "batch", AggregateID: `i:1/t:a'b "ü" 100%`, Type: "assessment.completed", Payload: []byte(`{ "b":1, "a":2,"b" : 3 }`),
		ContentType: "application/json", OccurredAt: time.Date(2026, 2, 3, 4, 5, 6, 123456000, time.UTC), SchemaVersion: 7,
		Headers: map[string]string{"traceparent": "00-ab-cd-01", "X-Tenant": "é\r\nContent-Length: 0"},
	}
}

// request is what a publisher sends of an event.
func request(t *testing.T, cfg Config, e outbox.Event) *http.Request {
	t.Helper()
	p, err := New("https://example.com/hook", &cfg)
	require.NoError(t, err)
	req, err := p.request(t.Context(), e)
	require.NoError(t, err)
	return req
}

func TestReceiverReturnsWhatWasSent(t *testing.T) {
	s := secret(t)
	for name, tt := range map[string]struct {
		cfg Config
		r   Receiver
	}{
		"structured": {Config{}, Receiver{}},
		"binary":     {Config{Binary: true}, Receiver{Binary: true}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.cfg.Secrets, tt.r.Secrets = []Secret{s}, []Secret{s}
			for _, e := range []outbox.Event{event(), {ID: uuid.New(), Type: "t", SchemaVersion: 1, ContentType: "text/plain", Payload: []byte("\x00\xff")}} {
				got, err := tt.r.Event(request(t, tt.cfg, e))
				require.NoError(t, err)
				require.Equal(t, e, got)
			}
		})
	}
}

func TestReceiverRefuses(t *testing.T) {
	s := secret(t)
	signed := Config{Secrets: []Secret{s}}
	for name, tt := range map[string]struct {
		cfg    Config
		r      Receiver
		change func(*http.Request)
		want   error
		status int
	}{
		"not signed":           {cfg: Config{}, want: ErrNoSignature, status: 401},
		"by another":           {cfg: Config{Secrets: []Secret{secret(t)}}, want: ErrWrongSignature, status: 401},
		"stale":                {cfg: signed, r: Receiver{Tolerance: time.Nanosecond}, want: ErrStale, status: 401},
		"binary":               {cfg: Config{Secrets: []Secret{s}, Binary: true}, want: ErrNotEvent, status: 400},
		"too long":             {cfg: signed, r: Receiver{MaxBody: 100}, want: ErrTooLarge, status: 413},
		"no secrets":           {cfg: signed, r: Receiver{Secrets: []Secret{}}, want: ErrConfig, status: 500},
		"an empty secret":      {cfg: signed, r: Receiver{Secrets: []Secret{{}}}, want: ErrConfig, status: 500},
		"not an event":         {cfg: signed, r: Receiver{Binary: true}, change: func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, want: ErrNotEvent, status: 400},
		"a batch":              {cfg: signed, r: Receiver{Binary: true}, change: func(r *http.Request) { r.Header.Set("Content-Type", "application/cloudevents-batch+json") }, want: ErrNotEvent, status: 400},
		"another id in binary": {cfg: Config{Secrets: []Secret{s}, Binary: true}, r: Receiver{Binary: true}, change: func(r *http.Request) { r.Header.Set("Ce-Id", uuid.NewString()) }, want: ErrNotEvent, status: 400},
		"not escaped":          {cfg: Config{Secrets: []Secret{s}, Binary: true}, r: Receiver{Binary: true}, change: func(r *http.Request) { r.Header.Set("Ce-Subject", "100%") }, want: ErrNotEvent, status: 400},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.r.Secrets == nil {
				tt.r.Secrets = []Secret{s}
			}
			req := request(t, tt.cfg, event())
			if tt.change != nil {
				tt.change(req)
			}
			e, err := tt.r.Event(req)
			require.ErrorIs(t, err, tt.want)
			require.Equal(t, tt.status, Status(err), err)
			require.Zero(t, e)
		})
	}
}

// A captured structured request, sent again as the data of a binary one with attributes of the attacker's choice.
func TestABodyCannotBeSentAgainAsAnotherEvent(t *testing.T) {
	s, e := secret(t), event()
	captured := request(t, Config{Secrets: []Secret{s}}, e)
	forged := captured.Clone(t.Context())
	forged.Body, _ = captured.GetBody()
	for _, a := range must(cloudevents.Attributes(outbox.Event{ID: e.ID, Type: "account.deleted"}, "s")) {
		forged.Header.Set("Ce-"+a.Name, a.Value)
	}
	forged.Header.Set("Content-Type", "application/json")
	_, err := Receiver{Secrets: []Secret{s}}.Event(forged)
	require.ErrorIs(t, err, ErrNotEvent)
}

func TestReceiverReportsACutBody(t *testing.T) {
	s, cut := secret(t), errors.New("cut")
	req := httptest.NewRequest(http.MethodPost, "/", readerFunc(func([]byte) (int, error) { return 0, cut }))
	signHeaders(req.Header, []Secret{s}, "id", time.Now(), nil)
	_, err := Receiver{Secrets: []Secret{s}}.Event(req)
	require.ErrorIs(t, err, cut)
	require.Equal(t, 500, Status(err))
}

// Whoever doesn't sign, or says beforehand that the body is too long, isn't listened to.
func TestNothingIsReadOfWhatIsRefusedAnyway(t *testing.T) {
	s := secret(t)
	for name, tt := range map[string]struct {
		change func(*http.Request)
		want   error
	}{
		"no id":              {func(r *http.Request) { r.Header.Del(headerID) }, ErrNoSignature},
		"no time":            {func(r *http.Request) { r.Header.Del(headerTimestamp) }, ErrNoSignature},
		"no number for time": {func(r *http.Request) { r.Header.Set(headerTimestamp, "now") }, ErrNoSignature},
		"no signature":       {func(r *http.Request) { r.Header.Del(headerSignature) }, ErrNoSignature},
		"an empty signature": {func(r *http.Request) { r.Header.Set(headerSignature, "") }, ErrNoSignature},
		"a body too long":    {func(r *http.Request) { r.ContentLength = 3 << 20 }, ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			req := httptest.NewRequest(http.MethodPost, "/", readerFunc(func([]byte) (int, error) {
				t.Error("the body was read")
				return 0, io.EOF
			}))
			signHeaders(req.Header, []Secret{s}, "id", time.Now(), nil)
			tt.change(req)
			_, err := Receiver{Secrets: []Secret{s}}.Event(req)
			require.ErrorIs(t, err, tt.want)
		})
	}
}

// An id of another producer's kind. In binary mode it isn't signed, so only one that the signature covers is taken there.
func TestAnIDThatIsNoUUID(t *testing.T) {
	s := secret(t)
	body := `{"specversion":"1.0","id":"evt_123","source":"https://pay.example.com","type":"invoice.paid","data":{}}`
	req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/cloudevents+json")
	signHeaders(req.Header, []Secret{s}, "evt_123", time.Now(), []byte(body))
	e, err := Receiver{Secrets: []Secret{s}}.Event(req)
	require.NoError(t, err)
	require.NotEqual(t, uuid.Nil, e.ID)
	require.Equal(t, map[string]string{cloudevents.OriginalID: "evt_123"}, e.Headers)

	req = httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
	for name, value := range map[string]string{"Ce-Specversion": "1.0", "Ce-Id": "evt_123", "Ce-Source": "s", "Ce-Type": "t", "Content-Type": "application/json"} {
		req.Header.Set(name, value)
	}
	signHeaders(req.Header, []Secret{s}, "evt_123", time.Now(), []byte("{}"))
	_, err = Receiver{Secrets: []Secret{s}, Binary: true}.Event(req)
	require.ErrorIs(t, err, ErrNotEvent)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestDecodeVerifiesNothing(t *testing.T) {
	e := event()
	for _, binary := range []bool{false, true} {
		req := request(t, Config{Binary: binary}, e)
		var body bytes.Buffer
		_, err := body.ReadFrom(req.Body)
		require.NoError(t, err)
		got, err := Decode(req.Header, body.Bytes())
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
	_, err := Decode(http.Header{"Content-Type": {"text/plain"}}, nil)
	require.ErrorIs(t, err, ErrNotEvent)
	require.EqualError(t, err, `webhook: not an event: content type is "text/plain", not application/cloudevents+json, and no header begins with ce-`)
}

// What is read of any request of either mode can be sent and read again as the same, in both.
func FuzzDecode(f *testing.F) {
	f.Add("application/json", "00-ab", "018f3b2e-0000-7000-8000-000000000001", "%22a%22", "2026-02-03t04:05:06z", []byte("{}"))
	f.Add("application/cloudevents+json; charset=utf-8", "", "", "", "", []byte(`{"specversion":"1.0","id":"evt_123","source":"s","type":"t","data":{ "a":1,"a":2 },"headers":"{\"A\":\"\\u00e9\"}"}`))
	f.Add("text/plain", "\"a\\\"b\"", "evt_123", "%ff", "", []byte{0xff})
	f.Fuzz(func(t *testing.T, contentType, trace, id, subject, at string, body []byte) {
		h := http.Header{"Content-Type": {contentType}, "Ce-Traceparent": {trace}, "Ce-Id": {id}, "Ce-Specversion": {"1.0"}, "Ce-Source": {"s"},
			"Ce-Type": {"t"}, "Ce-Subject": {subject}, "Ce-Time": {at}, "Ce-Empty": nil}
		e, err := Decode(h, body)
		if err != nil {
			require.ErrorIs(t, err, ErrNotEvent)
			return
		}
		for _, binary := range []bool{false, true} {
			p, err := New("https://example.com/hook", &Config{Binary: binary})
			require.NoError(t, err)
			req, err := p.request(t.Context(), e)
			require.NoError(t, err, "what was taken can be sent")
			sent, err := io.ReadAll(req.Body)
			require.NoError(t, err)
			again, err := Decode(req.Header, sent)
			require.NoError(t, err)
			require.True(t, e.OccurredAt.Equal(again.OccurredAt))
			require.True(t, maps.Equal(e.Headers, again.Headers), "%q, %q", e.Headers, again.Headers)
			require.True(t, bytes.Equal(e.Payload, again.Payload), "%q, %q", e.Payload, again.Payload)
			require.Equal(t, []any{e.ID, e.Type, e.AggregateID, e.AggregateType, e.ContentType}, []any{again.ID, again.Type, again.AggregateID, again.AggregateType, again.ContentType})
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
