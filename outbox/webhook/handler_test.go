package webhook

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// consumer is a service with a table inbox behind a webhook; its effect is a row of credits.
func consumer(t *testing.T, secrets []Secret, fn inbox.TxFunc[*sql.Tx]) (url string, db *sql.DB, table *inbox.Table[*sql.Tx]) {
	t.Helper()
	db = dbtest.SQLite(t)
	_, err := db.Exec(`CREATE TABLE credits (event text)`)
	require.NoError(t, err)
	table, err = inbox.NewTableSQL(db, &inbox.TableConfig{Consumer: "entitlements", MaxAttempts: 2, Wait: time.Minute, Logger: quiet()})
	require.NoError(t, err)
	require.NoError(t, table.Migrate(t.Context()))
	handler, err := Receiver{Secrets: secrets}.Handler(inbox.Handle(table, fn), quiet())
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL, db, table
}

func credit(ctx context.Context, tx *sql.Tx, e outbox.Event) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO credits VALUES (?)`, e.ID.String())
	return err
}

func credits(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(`SELECT count(*) FROM credits`).Scan(&n))
	return n
}

// The publisher sends one event fifty times at once, and everything a second time: each is acknowledged, one has the effect.
func TestRepeatsFromAPublisherAreAcknowledgedAndApplyOnce(t *testing.T) {
	s := secret(t)
	url, db, _ := consumer(t, []Secret{s}, credit)
	p, err := New(url, &Config{Secrets: []Secret{s}, Concurrency: 50})
	require.NoError(t, err)
	defer p.Close()
	batch := make([]outbox.Event, 50)
	for i := range batch {
		batch[i] = outbox.Event{ID: uuid.MustParse("018f0000-0000-7000-8000-000000000001"), Type: "t", Payload: []byte("1")}
	}
	for range 2 {
		require.Nil(t, p.Publish(t.Context(), batch))
	}
	require.Equal(t, 1, credits(t, db))
}

// What fails is sent again, becomes a dead letter, and is then acknowledged; what can never be taken is Permanent.
func TestFailuresReachThePublisher(t *testing.T) {
	s := secret(t)
	url, db, table := consumer(t, []Secret{s}, func(ctx context.Context, tx *sql.Tx, e outbox.Event) error {
		return errors.Join(credit(ctx, tx, e), errors.New("no such account"))
	})
	p, err := New(url, &Config{Secrets: []Secret{s}})
	require.NoError(t, err)
	defer p.Close()
	publish := func(e outbox.Event) error { return errors.Join(p.Publish(t.Context(), []outbox.Event{e})...) }
	e := event()
	err = publish(e)
	require.ErrorContains(t, err, "status 500")
	require.NotErrorIs(t, err, outbox.ErrPermanent)
	other := e
	other.Payload = []byte(`{}`)
	err = publish(other)
	require.ErrorContains(t, err, "status 422")
	require.ErrorIs(t, err, outbox.ErrPermanent)
	for range 2 {
		require.NoError(t, publish(e))
	}
	letters, err := table.DeadLetters(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.Equal(t, e.ID, letters[0].Event.ID)
	require.Zero(t, credits(t, db))
}

func TestTheHandlersAnswers(t *testing.T) {
	s := secret(t)
	id := uuid.New()
	for _, tt := range []struct {
		result  inbox.Result
		err     error
		status  int
		outcome string
		body    string
	}{
		{result: inbox.Result{Outcome: inbox.Applied}, status: 204, outcome: "applied"},
		{result: inbox.Result{Outcome: inbox.Repeated, First: id}, status: 204, outcome: "repeated"},
		{result: inbox.Result{Outcome: inbox.Repeated, Value: []byte("paid\x00")}, status: 200, outcome: "repeated", body: "paid\x00"},
		{result: inbox.Result{Outcome: inbox.Skipped}, status: 204, outcome: "skipped"},
		{result: inbox.Result{Outcome: inbox.Collided, First: id}, status: 204, outcome: "collided"},
		{result: inbox.Result{Outcome: inbox.DeadLettered}, status: 202, outcome: "dead-lettered"},
		{err: fmt.Errorf("x: %w", inbox.ErrInProgress), status: 503, body: "Service Unavailable\n"},
		{err: inbox.ErrUnavailable, status: 503, body: "Service Unavailable\n"},
		{err: inbox.ErrInvalidEvent, status: 422, body: "Unprocessable Entity\n"},
		{err: inbox.ErrPayloadMismatch, status: 422, body: "Unprocessable Entity\n"},
		{err: outbox.Permanent(errors.New("x")), status: 422, body: "Unprocessable Entity\n"},
		{err: errors.New("the password is hunter2"), status: 500, body: "Internal Server Error\n"},
	} {
		t.Run(fmt.Sprint(tt.status, tt.err, tt.outcome), func(t *testing.T) {
			var got outbox.Event
			handler, err := Receiver{Secrets: []Secret{s}}.Handler(func(ctx context.Context, e outbox.Event) (inbox.Result, error) {
				got = e
				return tt.result, tt.err
			}, quiet())
			require.NoError(t, err)
			e := event()
			rec := httptest.NewRecorder()
			handler.ServeHTTP(rec, request(t, Config{Secrets: []Secret{s}}, e))
			require.Equal(t, e, got)
			require.Equal(t, tt.status, rec.Code)
			require.Equal(t, tt.body, rec.Body.String())
			require.Equal(t, tt.outcome, rec.Header().Get("Endstate-Outcome"))
			require.Equal(t, tt.status == 503, rec.Header().Get("Retry-After") == "1")
		})
	}
}

// Wrong requests get a status that says so, and never reach the inbox.
func TestTheHandlerRefusesWrongRequests(t *testing.T) {
	s, other := secret(t), secret(t)
	handler, err := Receiver{Secrets: []Secret{s}, MaxBody: 2000}.Handler(func(context.Context, outbox.Event) (inbox.Result, error) {
		t.Error("the inbox was asked")
		return inbox.Result{}, nil
	}, quiet())
	require.NoError(t, err)
	signed := func(body string, id string, at time.Time) *http.Request {
		req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		req.Header.Set("Content-Type", "application/cloudevents+json")
		signHeaders(req.Header, []Secret{s}, id, at, []byte(body))
		return req
	}
	structured := func(id string) string {
		return `{"specversion":"1.0","id":"` + id + `","source":"s","type":"t","data":{}}`
	}
	id := uuid.NewString()
	for name, tt := range map[string]struct {
		req    *http.Request
		status int
	}{
		"GET":                     {httptest.NewRequest(http.MethodGet, "/", nil), 405},
		"not signed":              {request(t, Config{}, event()), 401},
		"signed by somebody else": {request(t, Config{Secrets: []Secret{other}}, event()), 401},
		"too old":                 {signed(structured(id), id, time.Now().Add(-time.Hour)), 401},
		"from the future":         {signed(structured(id), id, time.Now().Add(time.Hour)), 401},
		"no JSON":                 {signed(`{`, id, time.Now()), 400},
		"no id":                   {signed(`{"specversion":"1.0","source":"s","type":"t"}`, id, time.Now()), 400},
		"another id, no UUID":     {signed(structured("evt_1"), "evt_2", time.Now()), 400},
		"an over-long id":         {signed(structured(strings.Repeat("i", 1500)), id, time.Now()), 400},
		"no type":                 {signed(`{"specversion":"1.0","id":"`+id+`","source":"s"}`, id, time.Now()), 400},
		"another id than signed":  {signed(structured(id), uuid.NewString(), time.Now()), 400},
		"too long":                {signed(strings.Repeat(" ", 2001), id, time.Now()), 413},
	} {
		t.Run(name, func(t *testing.T) {
			rec := httptest.NewRecorder()
			handler.ServeHTTP(rec, tt.req)
			require.Equal(t, tt.status, rec.Code)
			require.Equal(t, http.StatusText(tt.status)+"\n", rec.Body.String())
		})
	}
}

// A sender that goes away while its event is handled: the transaction is rolled back, and the next request handles it.
func TestASenderThatGoesAwayLosesNothing(t *testing.T) {
	s := secret(t)
	var once sync.Once
	inside, gone := make(chan struct{}), make(chan struct{})
	url, db, _ := consumer(t, []Secret{s}, func(ctx context.Context, tx *sql.Tx, e outbox.Event) error {
		err := credit(ctx, tx, e)
		once.Do(func() {
			close(inside)
			<-ctx.Done()
			close(gone)
		})
		return errors.Join(err, ctx.Err())
	})
	p, err := New(url, &Config{Secrets: []Secret{s}})
	require.NoError(t, err)
	defer p.Close()
	ctx, cancel := context.WithCancel(t.Context())
	e := event()
	failed := make(chan error)
	go func() { failed <- errors.Join(p.Publish(ctx, []outbox.Event{e})...) }()
	<-inside
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	<-gone
	require.NoError(t, errors.Join(p.Publish(t.Context(), []outbox.Event{e})...))
	require.Equal(t, 1, credits(t, db))
	var attempts int
	require.NoError(t, db.QueryRow(`SELECT attempts FROM endstate_inbox`).Scan(&attempts))
	require.Equal(t, 1, attempts, "the first wasn't the event's failure")
}

func TestAHandlerNeedsSecretsLimitsAndAnInbox(t *testing.T) {
	none := func(context.Context, outbox.Event) (inbox.Result, error) { return inbox.Result{}, nil }
	_, err := Receiver{}.Handler(none, nil)
	require.ErrorIs(t, err, ErrConfig)
	_, err = Receiver{Secrets: []Secret{secret(t)}, Tolerance: -1}.Handler(none, nil)
	require.ErrorContains(t, err, "Tolerance")
	_, err = Receiver{Secrets: []Secret{secret(t)}, MaxBody: -1}.Handler(none, nil)
	require.ErrorContains(t, err, "MaxBody")
	_, err = Receiver{Secrets: []Secret{secret(t)}}.Handler(nil, nil)
	require.ErrorIs(t, err, ErrConfig)
	_, err = Receiver{Secrets: []Secret{secret(t)}}.Handler(none, nil)
	require.NoError(t, err)
}
