package webhook

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
	"github.com/endstate-go/endstate/outbox/relay"
)

// serve starts a server that answers with a handler, and returns a publisher to it.
func serve(t *testing.T, cfg *Config, handler http.HandlerFunc) (*Publisher, *httptest.Server) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	p, err := New(server.URL+"/hook?token=hunter2", cfg)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p, server
}

// slowDialer makes connections that come about when the calls for which they are made have just ended: the pool keeps them.
func slowDialer() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 16
	transport.DialContext = func(_ context.Context, network, address string) (net.Conn, error) {
		conn, err := net.Dial(network, address)
		<-time.After(50 * time.Millisecond)
		return conn, err
	}
	return &http.Client{Transport: transport}
}

func TestPublisherKeepsTheContract(t *testing.T) {
	s := secret(t)
	for name, tt := range map[string]struct {
		binary bool
		client *http.Client
	}{
		"structured":       {},
		"binary":           {binary: true},
		"slow connections": {client: slowDialer()},
	} {
		binary := tt.binary
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outboxtest.Publisher(t, func(t *testing.T) outboxtest.Subject {
				var got outboxtest.Recorder
				var gate atomic.Pointer[chan struct{}]
				r := Receiver{Secrets: []Secret{s}, Binary: binary}
				p, _ := serve(t, &Config{Secrets: []Secret{s}, Binary: binary, Client: tt.client}, func(w http.ResponseWriter, req *http.Request) {
					e, err := r.Event(req)
					if gate := gate.Load(); gate != nil {
						<-*gate
						return // nobody waits any more
					}
					if err == nil && e.Type == "refused" {
						w.WriteHeader(http.StatusUnprocessableEntity)
						return
					}
					if err != nil {
						t.Errorf("received what is no event: %v", err)
					}
					got.Publish(req.Context(), []outbox.Event{e})
				})
				return outboxtest.Subject{
					Publisher: p,
					Received:  func(context.Context) ([]outbox.Event, error) { return got.Events(), nil },
					Refused:   func(e outbox.Event) outbox.Event { e.Type = "refused"; return e },
					Hang: func() func() {
						closed := make(chan struct{})
						gate.Store(&closed)
						return func() { gate.Store(nil); close(closed) }
					},
				}
			})
		})
	}
}

func TestEachModeOnTheWire(t *testing.T) {
	e := event()
	e.Headers = map[string]string{"traceparent": "00-ab-cd-01", "X-Tenant": "é"}
	requests := make(chan *http.Request, 1)
	bodies := make(chan string, 1)
	record := func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		requests <- req
		bodies <- string(body)
	}

	p, _ := serve(t, &Config{Source: "/orders", Binary: true, Header: http.Header{"Authorization": {"Bearer abc"}}}, record)
	require.Empty(t, p.Publish(t.Context(), []outbox.Event{e}))
	req := <-requests
	require.Equal(t, string(e.Payload), <-bodies)
	require.Equal(t, http.MethodPost, req.Method)
	require.Equal(t, "/hook?token=hunter2", req.RequestURI)
	req.Header.Del("Accept-Encoding")
	require.Equal(t, http.Header{
		"Authorization": {"Bearer abc"}, "User-Agent": {"endstate"}, "Content-Length": {fmt.Sprint(len(e.Payload))},
		"Content-Type": {"application/json"}, "Ce-Specversion": {"1.0"}, "Ce-Id": {e.ID.String()}, "Ce-Source": {"/orders"},
		"Ce-Type": {"assessment.completed"}, "Ce-Subject": {"i:1/t:a'b%20%22%C3%BC%22%20100%25"}, "Ce-Time": {"2026-02-03T04:05:06.123456Z"},
		"Ce-Aggregatetype": {"batch"}, "Ce-Schemaversion": {"7"}, "Ce-Traceparent": {"00-ab-cd-01"}, "Ce-Headers": {`{%22X-Tenant%22:%22\u00e9%22}`},
	}, req.Header)

	p, _ = serve(t, &Config{Source: "/orders", Header: http.Header{"User-Agent": {"shop/1"}}}, record)
	require.Empty(t, p.Publish(t.Context(), []outbox.Event{e}))
	req = <-requests
	var members map[string]any
	require.NoError(t, json.Unmarshal([]byte(<-bodies), &members))
	require.Equal(t, "/orders", members["source"])
	require.Equal(t, map[string]any{"a": 2.0, "b": 3.0}, members["data"])
	require.Equal(t, []string{"application/cloudevents+json"}, req.Header["Content-Type"])
	require.Equal(t, "shop/1", req.UserAgent())
	require.Empty(t, req.Header.Get("Webhook-Signature"))
}

func TestStatusesSayWhetherToTryAgain(t *testing.T) {
	var status int
	p, _ := serve(t, nil, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://elsewhere.example.com/")
		w.WriteHeader(status)
	})
	permanent := []int{413, 415, 422, 431}
	for _, status = range []int{200, 201, 202, 204, 299} {
		require.Empty(t, p.Publish(t.Context(), []outbox.Event{event()}), status)
	}
	for _, status = range append([]int{301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 410, 411, 425, 429, 451, 500, 501, 502, 503, 504, 599}, permanent...) {
		errs := p.Publish(t.Context(), []outbox.Event{event()})
		require.Len(t, errs, 1, status)
		require.ErrorContains(t, errs[0], fmt.Sprintf("status %d", status))
		require.Equal(t, slices.Contains(permanent, status), errors.Is(errs[0], outbox.ErrPermanent), errs[0])
	}

	cfg := &Config{Permanent: func(status int) bool { return status == 404 }}
	p, _ = serve(t, cfg, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
	require.ErrorIs(t, p.Publish(t.Context(), []outbox.Event{event()})[0], outbox.ErrPermanent)
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	follow := &http.Client{Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return nil }}
	for _, status := range []int{301, 302, 303, 307, 308} {
		p, _ := serve(t, &Config{Client: follow}, func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, other.URL, status) })
		errs := p.Publish(t.Context(), []outbox.Event{event()})
		require.ErrorContains(t, errs[0], "redirects are not followed; name the final URL")
		require.NotErrorIs(t, errs[0], outbox.ErrPermanent)
	}
	require.Zero(t, elsewhere.Load())
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	date := func(at time.Time) string { return at.Format(http.TimeFormat) }
	for _, tt := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"120", "", 2 * time.Minute},
		{" 7 ", "", 7 * time.Second},
		{"0", "", 0},
		{"-5", "", 0},
		{"1.5", "", 0},
		{"soon", "", 0},
		{"3600", "", time.Hour},
		{"3601", "", time.Hour},
		{"99999999999999999999999", "", time.Hour},
		{date(now.Add(time.Minute)), "", time.Minute},
		{date(now.Add(-time.Minute)), "", 0},
		{date(now.Add(48 * time.Hour)), "", time.Hour},
		{date(now.Add(24*time.Hour + time.Minute)), date(now.Add(24 * time.Hour)), time.Minute}, // the receiver's clock is a day ahead
		{date(now.Add(time.Minute)), "nonsense", time.Minute},
	} {
		require.Equal(t, tt.want, retryAfter(http.Header{"Retry-After": {tt.value}, "Date": {tt.date}}, now), "%q", tt.value)
	}
}

func TestARelayWaitsWhenTheReceiverAsks(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	db := dbtest.SQLite(t)
	tx, err := db.Begin()
	require.NoError(t, err)
	require.NoError(t, outbox.Writer{}.Migrate(ctx, endstate.SQLiteTx(tx)))
	_, err = outbox.Put(ctx, endstate.SQLiteTx(tx), event())
	require.NoError(t, err)
	require.NoError(t, tx.Commit())

	blocked := make(chan error, 1)
	var asked atomic.Int64
	p, _ := serve(t, nil, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Retry-After", "1800")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	rel, err := relay.NewSQL(db, p, &relay.Config{Logger: slog.New(slog.DiscardHandler), Trace: &relay.Trace{
		Failed:  func(context.Context, outbox.Event, int, error, time.Duration) { t.Error("an attempt is counted") },
		Blocked: func(_ context.Context, err error) { blocked <- err },
	}})
	require.NoError(t, err)
	var running sync.WaitGroup
	running.Go(func() { _ = rel.Run(ctx) })
	require.EqualError(t, <-blocked, "webhook: POST "+p.place+": status 429 Too Many Requests")
	require.EqualValues(t, 1, asked.Load(), "it isn't asked again for a while")

	// A relay of the same subscription that publishes elsewhere is refused: the two would split the events between them.
	other, _ := serve(t, nil, func(http.ResponseWriter, *http.Request) {})
	elsewhere, err := relay.NewSQL(db, other, &relay.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	err = elsewhere.Run(ctx)
	require.ErrorIs(t, err, relay.ErrDestination)
	require.ErrorContains(t, err, p.Destination())
	cancel()
	running.Wait()
}

func TestRequestsAtATimeAreBounded(t *testing.T) {
	const bound = 3
	var running, most atomic.Int64
	full, release := make(chan struct{}), make(chan struct{})
	p, _ := serve(t, &Config{Concurrency: bound}, func(http.ResponseWriter, *http.Request) {
		n := running.Add(1)
		defer running.Add(-1)
		if n > most.Load() {
			most.Store(n)
		}
		if n == bound {
			select {
			case full <- struct{}{}:
			case <-release:
			}
		}
		<-release
	})
	done := make(chan []error)
	go func() { done <- p.Publish(t.Context(), []outbox.Event{{}, {}, {}, {}, {}, {}, {}, {}}) }()
	<-full
	close(release)
	require.Empty(t, <-done)
	require.EqualValues(t, bound, most.Load())
}

func TestARequestHasATimeoutOfItsOwn(t *testing.T) {
	p, _ := serve(t, &Config{Timeout: 50 * time.Millisecond}, func(_ http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Slow") == "" {
			_, _ = io.Copy(io.Discard, req.Body)
			<-req.Context().Done()
		}
	})
	errs := p.Publish(t.Context(), []outbox.Event{event()})
	require.ErrorContains(t, errs[0], "no answer within Config.Timeout")
	require.ErrorIs(t, errs[0], context.DeadlineExceeded)
	require.NotErrorIs(t, errs[0], outbox.ErrPermanent)
}

func TestErrorsShowNoSecrets(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	s, e := GenerateSecret(), event()
	e.Payload = []byte(`{"card":"4111"}`)
	parsed, err := ParseSecret(s)
	require.NoError(t, err)
	p, err := New("http://user:hunter2@"+listener.Addr().String()+"/T00/hunter3?token=hunter4", &Config{Secrets: []Secret{parsed}, Header: http.Header{"Authorization": {"hunter5"}}})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	errs := p.Publish(t.Context(), []outbox.Event{e})
	require.ErrorContains(t, errs[0], "webhook: POST http://"+listener.Addr().String()+": dial tcp")
	for _, hidden := range []string{"hunter", strings.TrimPrefix(s, secretPrefix), "4111"} {
		require.NotContains(t, errs[0].Error(), hidden)
	}
	p, _ = serve(t, nil, func(w http.ResponseWriter, req *http.Request) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.Copy(w, req.Body)
	})
	errs = p.Publish(t.Context(), []outbox.Event{e})
	require.EqualError(t, errs[0], "webhook: POST "+p.place+": outbox: permanent failure: status 422 Unprocessable Entity")
}

func TestUserAndPasswordOfTheURLAreSent(t *testing.T) {
	var user, password string
	_, server := serve(t, nil, func(_ http.ResponseWriter, req *http.Request) { user, password, _ = req.BasicAuth() })
	u, err := url.Parse(server.URL)
	require.NoError(t, err)
	u.User = url.UserPassword("shop", "hunter2")
	p, err := New(u.String(), nil)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	require.Empty(t, p.Publish(t.Context(), []outbox.Event{event()}))
	require.Equal(t, "shop hunter2", user+" "+password)
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// A relay contains the panics of its publisher, which it can only in its own goroutine.
func TestAPanicGoesOnInTheCaller(t *testing.T) {
	p, err := New("https://example.com", &Config{Client: &http.Client{Transport: transportFunc(func(*http.Request) (*http.Response, error) { panic("transport") })}})
	require.NoError(t, err)
	require.PanicsWithValue(t, "transport", func() { p.Publish(t.Context(), []outbox.Event{event(), event()}) })
}

func TestAContentTypeThatHTTPDoesNotAllow(t *testing.T) {
	var received sync.Map
	p, _ := serve(t, &Config{Binary: true}, func(_ http.ResponseWriter, req *http.Request) { received.Store(req.Header.Get("Ce-Id"), true) })
	good, bad := event(), event()
	bad.ContentType = "text/plain\r\nX: y"
	errs := p.Publish(t.Context(), []outbox.Event{bad, good})
	require.ErrorIs(t, errs[0], outbox.ErrPermanent)
	require.NoError(t, errs[1])
	_, ok := received.Load(good.ID.String())
	require.True(t, ok)
}

func TestConfigIsChecked(t *testing.T) {
	for message, cfg := range map[string]*Config{
		"Config.Source is not a URI reference":                                          {Source: ":"},
		"Config.TLS and Config.Client are both set: the client has settings of its own": {TLS: &tls.Config{}, Client: &http.Client{}},
		"Config.Concurrency is -1":                                                      {Concurrency: -1},
		"Config.Timeout is -1s":                                                         {Timeout: -time.Second},
		"Secrets[1] is empty; use ParseSecret":                                          {Secrets: []Secret{secret(t), {}}},
		`Config.Header has the name "a b", which HTTP doesn't allow`:                    {Header: http.Header{"a b": {"c"}}},
		`Config.Header has a value for A that HTTP doesn't allow`:                       {Header: http.Header{"a": {"hunter2\r\n"}}},
		`Config.Header has Content-Type, which the publisher sets`:                      {Header: http.Header{"content-type": {"c"}}},
		`Config.Header has Ce-Id, which the publisher sets`:                             {Header: http.Header{"ce-id": {"c"}}},
		`Config.Header has Webhook-Signature, which the publisher sets`:                 {Header: http.Header{"webhook-signature": {"c"}}},
	} {
		_, err := New("https://example.com", cfg)
		require.ErrorIs(t, err, ErrConfig)
		require.EqualError(t, err, "webhook: invalid configuration: "+message)
	}
	for _, endpoint := range []string{"", "example.com", "/hook", "ftp://example.com", "https://", "https://user:hunter2@%zz/"} {
		_, err := New(endpoint, nil)
		require.EqualError(t, err, "webhook: invalid configuration: the URL is not an absolute http or https URL")
	}
}
