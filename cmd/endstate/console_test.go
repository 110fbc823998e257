package main

import (
	"crypto/tls"
	"database/sql"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
)

var consoleAt = regexp.MustCompile(`The console is at (\S+)`)

// startConsole returns the link that a console prints.
func startConsole(t *testing.T, db string, args ...string) (r *running, link *url.URL) {
	t.Helper()
	r = start(t, db, append([]string{"console"}, args...)...)
	require.Eventually(t, func() bool { return consoleAt.MatchString(r.stdout.String()) }, time.Minute, 10*time.Millisecond, "%s", &r.stderr)
	link, err := url.Parse(consoleAt.FindStringSubmatch(r.stdout.String())[1])
	require.NoError(t, err)
	return r, link
}

// visitor is a browser with cookies.
func visitor(t *testing.T, trust *tls.Config) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	transport := &http.Transport{TLSClientConfig: trust}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport, Timeout: time.Minute}
}

func fetch(t *testing.T, c *http.Client, r *http.Request) (status int, body string) {
	t.Helper()
	got, err := c.Do(r)
	require.NoError(t, err)
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	return got.StatusCode, string(text)
}

func get(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	return r
}

// Who has the link gets in, and nobody else: not without the token, nor by another name of this machine.
func TestConsoleIsForWhoHasTheLink(t *testing.T) {
	each(t, func(t *testing.T, db string, _ *sql.DB) {
		require.Zero(t, cli(t, db, "migrate").status)
		r, link := startConsole(t, db, "--listen", "127.0.0.1:0")
		plain := *link
		plain.RawQuery = ""
		status, body := fetch(t, visitor(t, nil), get(t, plain.String()))
		require.Equal(t, http.StatusUnauthorized, status)
		require.NotContains(t, body, "Subscriptions")
		status, _ = fetch(t, visitor(t, nil), get(t, plain.String()+"?token=guessed"))
		require.Equal(t, http.StatusUnauthorized, status)

		c := visitor(t, nil)
		status, body = fetch(t, c, get(t, link.String()))
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, body, "Subscriptions")
		status, _ = fetch(t, c, get(t, plain.String()+"events"))
		require.Equal(t, http.StatusOK, status, "by the cookie")
		another, itsLink := startConsole(t, db, "--listen", "127.0.0.1:0")
		status, _ = fetch(t, c, get(t, itsLink.String()))
		require.Equal(t, http.StatusOK, status)
		status, _ = fetch(t, c, get(t, plain.String()))
		require.Equal(t, http.StatusOK, status, "still, beside another console of this machine")
		another.terminate(t)
		elsewhere := get(t, plain.String())
		elsewhere.Host = "attacker.example:" + link.Port()
		status, _ = fetch(t, c, elsewhere)
		require.Equal(t, http.StatusMisdirectedRequest, status)
		script := get(t, plain.String())
		script.Header.Set("Authorization", "Bearer "+link.Query().Get("token"))
		script.Header.Set("Accept", "application/json")
		status, body = fetch(t, visitor(t, nil), script)
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, body, `"subscriptions"`)
		status, body = fetch(t, c, get(t, plain.String()+"dead"))
		require.Equal(t, http.StatusOK, status)
		require.NotContains(t, body, "fieldset")
		res := r.terminate(t)
		require.NotContains(t, res.stderr, link.Query().Get("token"))
	})
}

// What can be reached from other machines wants TLS and a token.
func TestConsoleForOtherMachines(t *testing.T) {
	db := "sqlite:" + t.TempDir() + "/shop.db"
	require.Zero(t, cli(t, db, "migrate").status)
	authority := dbtest.NewAuthority(t)
	_, cert, key := authority.Files()
	for _, refused := range []struct {
		token string
		args  []string
		says  string
	}{
		{"", []string{"--listen", "0.0.0.0:0"}, "can be reached from other machines: give --tls-cert"},
		{"", []string{"--listen", ":0"}, "can be reached from other machines: give --tls-cert"},
		{"", []string{"--listen", "[::]:0", "--tls-cert", cert, "--tls-key", key}, "set ENDSTATE_CONSOLE_TOKEN"},
		{"short", nil, "fewer than 16"},
		{"", []string{"--listen", "7070"}, "write an address and a port"},
		{"", []string{"--tls-key", key}, "--tls-key needs --tls-cert"},
		{"", []string{"--tls-cert", key}, "--tls-cert, --tls-key"},
		{"", []string{"--actions"}, "--actions needs --by"},
	} {
		t.Setenv(consoleTokenEnv, refused.token)
		res := cli(t, db, append([]string{"console"}, refused.args...)...)
		require.Equal(t, 2, res.status, "%+v", refused)
		require.Contains(t, res.stderr, refused.says)
	}
	const token = "a token of some length"
	t.Setenv(consoleTokenEnv, token)
	r, link := startConsole(t, db, "--listen", "0.0.0.0:0", "--tls-cert", cert, "--tls-key", key, "--actions", "--by", "ann")
	require.Equal(t, "https", link.Scheme)
	name, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, name, link.Hostname(), "and not 0.0.0.0, which no browser opens")
	require.NotContains(t, link.String(), "length")
	c := visitor(t, &tls.Config{RootCAs: authority.Pool()})
	status, body := fetch(t, c, get(t, "https://127.0.0.1:"+link.Port()+"/?token="+url.QueryEscape(token)))
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "ann, who may act")
	res := r.terminate(t)
	require.NotContains(t, res.stdout+res.stderr, token)
}

// A dead letter is retried in the name that --by says.
func TestConsoleActs(t *testing.T) {
	each(t, func(t *testing.T, db string, handle *sql.DB) {
		ids := putEvents(t, db, handle, event("7", "paid"))
		mustExec(t, handle, "INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('default', '[]', '', 'begin')",
			"INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, dead_at) SELECT 'default', partition, seq, id, aggregate_type, aggregate_id, created_at FROM endstate_outbox")
		r, link := startConsole(t, db, "--listen", "127.0.0.1:0", "--actions", "--by", "ann")
		c := visitor(t, nil)
		_, body := fetch(t, c, get(t, link.String()))
		require.Contains(t, body, "ann, who may act")
		base := "http://" + link.Host + "/"
		_, body = fetch(t, c, get(t, base+"dead"))
		match := regexp.MustCompile(`name="token" value="([^"]+)"`).FindStringSubmatch(body)
		require.NotNil(t, match, body)
		form := url.Values{"token": {match[1]}, "action": {"retry"}, "subscription": {"default"}, "id": {ids[0].String()}, "reason": {"fixed"}}
		post, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"dead", strings.NewReader(form.Encode()))
		require.NoError(t, err)
		post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		_, body = fetch(t, c, post)
		require.Contains(t, body, "1 will be published again")
		r.terminate(t)
		require.Contains(t, cli(t, db, "outbox", "history").stdout, "ann")
	})
}
