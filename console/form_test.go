package console_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/migrations"
)

// Whatever a form says, there is an answer: what was done, or what is wrong with it. What is done is of the form's user and has its
// reason in the list of those; without the user's token nothing is.
func FuzzForm(f *testing.F) {
	f.Add("/dead", "action=discard&id=018f3b2e-0000-7000-8000-000000000001&reason=why")
	f.Add("/dead", "action=retry&all=1&done=1&left=x&reason=why&go=subscription%3Ddefault%26type%3Da%26after%3D1")
	f.Add("/replay", "name=default&from=2026-01-01&to=24h&type=completed&reason=why&dead=1")
	f.Add("/drop", "name=default&reason=why")
	f.Add("/audit", "table=endstate_outbox&aggregate=aggregate_id&type=type&time=created_at&published=")
	db := dbtest.SQLite(f)
	require.NoError(f, migrations.ApplySQL(f.Context(), db, ""))
	exec := func(t testing.TB, statement string) {
		t.Helper()
		_, err := db.Exec(statement)
		require.NoError(t, err, statement)
	}
	count := func(t testing.TB, query string) (n int) {
		t.Helper()
		require.NoError(t, db.QueryRow(query).Scan(&n))
		return n
	}
	c, err := console.NewSQL(db, &console.Config{Actions: true, User: func(r *http.Request) string { return r.Header.Get("X-User") }, Logger: quiet})
	require.NoError(f, err)
	send := func(t testing.TB, method, path, user, token, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), method, "/", strings.NewReader(body))
		r.URL = &url.URL{Path: path}
		r.Header = http.Header{"Accept": {"application/json"}, "Content-Type": {"application/x-www-form-urlencoded"}, "X-User": {user}, "X-Endstate-Token": {token}}
		answer := httptest.NewRecorder()
		c.ServeHTTP(answer, r)
		return answer
	}
	token := send(f, http.MethodGet, "/audit", "ada", "", "").Header().Get("X-Endstate-Token")
	require.NotEmpty(f, token)
	const done = "SELECT (SELECT count(*) FROM endstate_outbox_audit) + (SELECT count(*) = 0 FROM endstate_outbox_subscriptions) + (SELECT count(*) = 0 FROM endstate_outbox_parked WHERE dead_at IS NOT NULL)"
	f.Fuzz(func(t *testing.T, path, form string) {
		for _, table := range []string{"endstate_outbox_subscriptions", "endstate_outbox_cursors", "endstate_outbox", "endstate_outbox_parked", "endstate_outbox_audit"} {
			exec(t, "DELETE FROM "+table)
		}
		exec(t, "INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('default', '[]', '', 'begin')")
		exec(t, "INSERT INTO endstate_outbox (seq, partition, id, aggregate_type, aggregate_id, type, payload, headers) VALUES (1, 1, '018f3b2e-0000-7000-8000-000000000001', 'batch', '7', 'completed', CAST('{}' AS BLOB), '{}')")
		exec(t, "INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, attempts, dead_at, last_error) VALUES ('default', 1, 1, '018f3b2e-0000-7000-8000-000000000001', 'batch', '7', 1, '2026-01-01T00:00:00.000Z', 'refused')")
		path = "/" + strings.TrimPrefix(path, "/")
		for _, wrong := range [][2]string{{"ada", ""}, {"ada", token + "x"}, {"eve", token}} {
			answer := send(t, http.MethodPost, path, wrong[0], wrong[1], form)
			require.Contains(t, []int{301, 307, 308, 400, 403, 404, 405}, answer.Code, "%s", answer.Body)
			require.Zero(t, count(t, done))
		}
		answer := send(t, http.MethodPost, path, "ada", token, form)
		require.Contains(t, []int{200, 301, 307, 308, 400, 403, 404, 405, 409, 422}, answer.Code, "%s", answer.Body)
		if answer.Header().Get("Content-Type") == "application/json" {
			require.True(t, json.Valid(answer.Body.Bytes()), "%s", answer.Body)
			require.False(t, strings.ContainsFunc(answer.Body.String(), func(r rune) bool { return !unicode.IsGraphic(r) && r != '\n' }), "%q", answer.Body)
		}
		require.Equal(t, 1, count(t, "SELECT count(*) FROM endstate_outbox"), "no event is lost")
		if count(t, done) > 0 {
			require.Equal(t, 200, answer.Code)
			require.Equal(t, 1, count(t, "SELECT count(*) FROM endstate_outbox_audit WHERE by_whom = 'ada' AND reason <> ''"))
		}
	})
}
