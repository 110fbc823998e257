package console_test

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/guard"
)

// By itself a console only reads; and who acts must be known.
func TestAConsoleReadsUnlessActionsAreOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite")
	_, died := lived(w)
	forms := map[string]url.Values{
		"/dead":   {"action": {"discard"}, "id": {died.ID.String()}, "reason": {"why"}},
		"/replay": {"name": {"partner"}, "from": {"2026-01-01T00:00"}, "reason": {"why"}},
		"/drop":   {"name": {"partner"}, "reason": {"why"}},
	}
	reading := w.console(console.Config{})
	for page, form := range forms {
		a := reading.post(page, form)
		require.Equal(t, http.StatusForbidden, a.status, page)
		require.Contains(t, a.body, "This console only reads")
	}
	require.NotContains(t, reading.get("/dead").body, "<fieldset>")
	acting := w.console(console.Config{Actions: true})
	require.Contains(t, acting.get("/dead").body, "<fieldset>")
	acting.user = ""
	for page, form := range forms {
		a := acting.post(page, form)
		require.Equal(t, http.StatusForbidden, a.status, page)
		require.Contains(t, a.body, "who you are")
	}
	var v struct{ History []any }
	acting.json("/history", &v)
	require.Empty(t, v.History)

	_, err := console.NewSQL(w.sql, &console.Config{Actions: true})
	require.ErrorIs(t, err, console.ErrConfig)
	require.ErrorContains(t, err, "Config.User")
	_, err = console.NewSQL(w.sql, &console.Config{Key: []byte("short")})
	require.ErrorContains(t, err, "Config.Key")
	_, err = console.NewSQL(w.sql, &console.Config{Ledger: guard.Ledger{Table: "\x00"}})
	require.ErrorContains(t, err, "Ledger.Table")
	_, err = console.NewSQL(nil, nil)
	require.ErrorIs(t, err, console.ErrConfig)
	_, err = console.New(nil, nil)
	require.ErrorIs(t, err, console.ErrConfig)
}

// A form comes from this site, with a token that is its user's.
func TestFormsOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite")
	_, died := lived(w)
	s := w.console(console.Config{Actions: true})
	form := func(token string) url.Values {
		return url.Values{"action": {"discard"}, "id": {died.ID.String()}, "reason": {"why"}, "token": {token}}
	}
	own := s.token()
	s.user = "eve"
	others := s.token()
	s.user = "ada"
	require.NotEqual(t, own, others)
	for _, token := range []string{"", "x", others, own + "x"} {
		a := s.do(http.MethodPost, "/dead", form(token), "Sec-Fetch-Site", "same-origin")
		require.Equal(t, http.StatusForbidden, a.status, token)
	}
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://elsewhere.example"}} {
		a := s.do(http.MethodPost, "/dead", form(own), header...)
		require.Equal(t, http.StatusForbidden, a.status, header)
		require.Contains(t, a.body, "another site")
		require.NotEmpty(t, a.header.Get("Content-Security-Policy"))
	}
	require.Equal(t, http.StatusNotFound, s.get("/drop").status, "nothing is done by a link")
	require.Equal(t, http.StatusOK, s.do(http.MethodPost, "/dead", form(own), "Sec-Fetch-Site", "same-origin").status)
	// A script's token comes with the JSON.
	var v any
	a := s.json("/dead", &v)
	require.Equal(t, own, a.header.Get("X-Endstate-Token"))
	key := []byte(strings.Repeat("k", 32))
	require.Equal(t, w.console(console.Config{Key: key}).token(), w.console(console.Config{Key: key}).token(), "of two processes")
	require.NotEqual(t, w.console(console.Config{}).token(), w.console(console.Config{}).token())
}

// The authorizer sees who wants what of which subscription, and what it refuses isn't shown, nor done.
func TestTheAuthorizer(t *testing.T) {
	t.Parallel()
	each(t, func(w *world) {
		_, died := lived(w)
		var mu sync.Mutex
		asked := map[console.Access]bool{}
		s := w.console(console.Config{Actions: true, ShowPayloads: true, Authorize: func(r *http.Request, a console.Access) error {
			mu.Lock()
			defer mu.Unlock()
			asked[a] = true
			if a.Subscription == "partner" || a.Action == console.Discard || a.Action == console.Payload || a.User == "eve" {
				return errors.New("a reason that is secret")
			}
			return nil
		}})
		require.Contains(w, s.get("/").body, "https://default.example")
		for _, page := range []string{"/", "/events", "/aggregate?type=batch&key=42", "/events/" + died.ID.String(), "/history"} {
			a := s.get(page)
			require.Equal(w, http.StatusOK, a.status)
			require.NotContains(w, a.body, "partner", page)
		}
		for _, page := range []string{"/events?subscription=partner", "/dead?subscription=partner", "/subscription?name=partner", "/events/" + died.ID.String() + "?payload=1"} {
			a := s.get(page)
			require.Equal(w, http.StatusForbidden, a.status, page)
			require.NotContains(w, a.body, "secret")
		}
		form := url.Values{"action": {"discard"}, "id": {died.ID.String()}, "reason": {"why"}}
		require.Equal(w, http.StatusForbidden, s.post("/dead", form).status)
		require.NotContains(w, s.get("/dead").body, `value="discard"`)
		require.Equal(w, http.StatusForbidden, s.post("/drop", url.Values{"name": {"partner"}, "reason": {"why"}}).status)
		s.user = "eve"
		for _, page := range []string{"/", "/aggregate", "/history", "/audit"} {
			require.Equal(w, http.StatusForbidden, s.get(page).status, page)
		}
		for _, want := range []console.Access{{User: "ada", Action: console.View, Subscription: "partner"}, {User: "ada", Action: console.Discard, Subscription: "default"}, {User: "ada", Action: console.Payload}, {User: "ada", Action: console.Drop, Subscription: "partner"}} {
			require.True(w, asked[want], want)
		}
	})
}

// A console has one sample of the figures for all that look, and says when it is stale.
func TestFiguresAreSharedAndSaidToBeStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite")
	lived(w)
	s := w.console(console.Config{Every: time.Hour})
	type overview struct {
		At      time.Time
		Stale   bool
		Problem string
	}
	var all []overview
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			var v overview
			s.json("/", &v)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, v)
		})
	}
	group.Wait()
	require.Len(t, slices.CompactFunc(all, func(a, b overview) bool { return a.At.Equal(b.At) }), 1)
	require.False(t, all[0].Stale)

	s = w.console(console.Config{})
	var before, after overview
	s.json("/", &before)
	w.exec("ALTER TABLE endstate_outbox_subscriptions RENAME TO gone")
	w.eventually("it says so", func() bool { s.json("/", &after); return after.Stale })
	require.NotEmpty(t, after.Problem)
	require.Contains(t, s.get("/").body, "Stale.")
	w.exec("ALTER TABLE gone RENAME TO endstate_outbox_subscriptions")
	w.eventually("it has new ones", func() bool { s.json("/", &after); return !after.Stale && after.At.After(before.At) })
}
