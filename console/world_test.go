package console_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/migrations"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// world is a database with the library's tables, on PostgreSQL through pgx or database/sql, or on SQLite.
type world struct {
	*testing.T
	name string
	pool *pgxpool.Pool
	sql  *sql.DB
}

// each runs a test in each kind of world.
func each(t *testing.T, run func(w *world)) {
	for _, name := range []string{"pgx", "sql", "sqlite"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(newWorld(t, name))
		})
	}
}

func newWorld(t *testing.T, name string, configure ...func(*pgxpool.Config)) *world {
	t.Helper()
	w := &world{T: t, name: name}
	switch name {
	case "pgx":
		w.pool = dbtest.Pool(t, configure...)
		require.NoError(t, migrations.Apply(t.Context(), w.pool))
	case "sql":
		w.sql = dbtest.SQL(t)
		require.NoError(t, migrations.ApplySQL(t.Context(), w.sql, ""))
	default:
		w.sql = dbtest.SQLite(t)
		require.NoError(t, migrations.ApplySQL(t.Context(), w.sql, ""))
	}
	return w
}

func (w *world) sqlite() bool { return w.name == "sqlite" }

func (w *world) exec(query string, args ...any) {
	w.Helper()
	var err error
	if w.pool != nil {
		_, err = w.pool.Exec(w.Context(), query, args...)
	} else {
		_, err = w.sql.ExecContext(w.Context(), query, args...)
	}
	require.NoError(w, err, query)
}

// put writes events outside of any finalization.
func (w *world) put(events ...outbox.Event) {
	w.Helper()
	var tx endstate.Tx
	if w.pool != nil {
		begun, err := w.pool.Begin(w.Context())
		require.NoError(w, err)
		tx = begun
	} else {
		begun, err := w.sql.BeginTx(w.Context(), nil)
		require.NoError(w, err)
		if tx = endstate.PostgresTx(begun); w.sqlite() {
			tx = endstate.SQLiteTx(begun)
		}
	}
	defer func() { _ = tx.Rollback(w.Context()) }()
	_, err := outbox.Put(w.Context(), tx, events...)
	require.NoError(w, err)
	require.NoError(w, tx.Commit(w.Context()))
}

// settle finalizes batches by a ledger.
func (w *world) settle(trace *finalize.Trace, trigger finalize.Trigger, key guard.Key, events ...outbox.Event) finalize.Receipt {
	w.Helper()
	cfg := &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}, Trace: trace}
	outcome := finalize.Outcome{State: "COMPLETE_STABLE", Events: events}
	var receipt finalize.Receipt
	if w.pool != nil {
		fin, err := finalize.New(w.pool, cfg)
		require.NoError(w, err)
		receipt, err = fin.Settle(w.Context(), key, trigger, outcome)
		require.NoError(w, err)
	} else {
		fin, err := finalize.NewSQL(w.sql, cfg)
		require.NoError(w, err)
		receipt, err = fin.Settle(w.Context(), key, trigger, outcome)
		require.NoError(w, err)
	}
	return receipt
}

// picky refuses events for good whose type begins with "bad", and waits for its next call once it is held.
type picky struct{}

func (picky) Publish(_ context.Context, events []outbox.Event) []error {
	errs := make([]error, len(events))
	for i, e := range events {
		if strings.HasPrefix(e.Type, "bad") {
			errs[i] = outbox.Permanent(errors.New("the receiver refuses " + e.Type))
		}
	}
	return errs
}

var quiet = slog.New(slog.DiscardHandler)

// relay runs a relay until the test, or stop, ends it.
func (w *world) relay(subscription string) (stop func()) {
	w.Helper()
	cfg := &relay.Config{Subscription: subscription, Destination: "https://" + subscription + ".example", Name: "test relay", Logger: quiet, PollInterval: 10 * time.Millisecond}
	var run func(context.Context) error
	if w.pool != nil {
		r, err := relay.New(w.pool, picky{}, cfg)
		require.NoError(w, err)
		run = r.Run
	} else {
		r, err := relay.NewSQL(w.sql, picky{}, cfg)
		require.NoError(w, err)
		run = r.Run
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			<-done
		}
	}
	w.Cleanup(stop)
	w.eventually("the relay has joined", func() bool {
		return w.count("SELECT count(*) FROM endstate_outbox_cursors WHERE subscription = '"+subscription+"'") == outbox.Partitions
	})
	return stop
}

func (w *world) count(query string) (n int) {
	w.Helper()
	var err error
	if w.pool != nil {
		err = w.pool.QueryRow(w.Context(), query).Scan(&n)
	} else {
		err = w.sql.QueryRowContext(w.Context(), query).Scan(&n)
	}
	require.NoError(w, err, query)
	return n
}

// handle has a consumer handle an event, by an inbox in the same database.
func (w *world) handle(consumer string, e outbox.Event) {
	w.Helper()
	var err error
	if w.pool != nil {
		table, newErr := inbox.NewTable(w.pool, &inbox.TableConfig{Consumer: consumer, Logger: quiet})
		require.NoError(w, newErr)
		_, err = table.Apply(w.Context(), e, func(context.Context, pgxTx, outbox.Event) error { return nil })
	} else {
		table, newErr := inbox.NewTableSQL(w.sql, &inbox.TableConfig{Consumer: consumer, Logger: quiet})
		require.NoError(w, newErr)
		_, err = table.Apply(w.Context(), e, func(context.Context, *sql.Tx, outbox.Event) error { return nil })
	}
	require.NoError(w, err)
}

func (w *world) eventually(what string, met func() bool) {
	w.Helper()
	require.Eventually(w, met, time.Minute, 10*time.Millisecond, what)
}

// site is a console that is part of a service, below a path.
type site struct {
	*world
	*console.Console
	server *httptest.Server
	user   string
}

const below = "/admin/endstate"

// console mounts a console. The user is who the header X-User says.
func (w *world) console(cfg console.Config) *site {
	w.Helper()
	cfg.Logger = quiet
	cfg.User = func(r *http.Request) string { return r.Header.Get("X-User") }
	if cfg.Every == 0 {
		cfg.Every = time.Millisecond
	}
	var c *console.Console
	var err error
	if w.pool != nil {
		c, err = console.New(w.pool, &cfg)
	} else {
		c, err = console.NewSQL(w.sql, &cfg)
	}
	require.NoError(w, err)
	mux := http.NewServeMux()
	mux.Handle(below+"/", http.StripPrefix(below, c))
	server := httptest.NewServer(mux)
	w.Cleanup(server.Close)
	return &site{w, c, server, "ada"}
}

// answer is what a request got.
type answer struct {
	status int
	header http.Header
	body   string
}

func (s *site) do(method, path string, form url.Values, header ...string) answer {
	s.Helper()
	var body *strings.Reader = strings.NewReader(form.Encode())
	r, err := http.NewRequestWithContext(s.Context(), method, s.server.URL+below+path, body)
	require.NoError(s, err)
	r.Header.Set("Accept", "text/html,application/xhtml+xml")
	r.Header.Set("X-User", s.user)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	got, err := client.Do(r)
	require.NoError(s, err)
	defer got.Body.Close()
	var text strings.Builder
	buffer := make([]byte, 64<<10)
	for {
		n, err := got.Body.Read(buffer)
		text.Write(buffer[:n])
		if err != nil {
			break
		}
	}
	return answer{got.StatusCode, got.Header, text.String()}
}

func (s *site) get(path string) answer {
	s.Helper()
	return s.do(http.MethodGet, path, nil)
}

// json asks for a page's JSON.
func (s *site) json(path string, into any) answer {
	s.Helper()
	a := s.do(http.MethodGet, path, nil, "Accept", "application/json")
	require.Equal(s, "application/json", a.header.Get("Content-Type"), a.body)
	require.NoError(s, json.Unmarshal([]byte(a.body), into), a.body)
	return a
}

var tokenField = regexp.MustCompile(`name="token" value="([^"]+)"`)

// post sends a form with the token of its user.
func (s *site) post(path string, form url.Values) answer {
	s.Helper()
	form.Set("token", s.token())
	return s.do(http.MethodPost, path, form, "Sec-Fetch-Site", "same-origin")
}

func (s *site) token() string {
	s.Helper()
	match := tokenField.FindStringSubmatch(s.get("/audit").body)
	require.NotNil(s, match)
	return match[1]
}

func batchEvent(typ string) outbox.Event {
	return outbox.Event{ID: uuid.Must(uuid.NewV7()), Type: typ, Payload: []byte(`{"secret":"card 4711"}`)}
}
