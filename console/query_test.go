package console_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/migrations"
)

// Whatever stands in a page's address, cursors of a list among it, there is an answer: the page, or what is wrong with the question;
// never an error of the database's, and nothing of it that steers who reads it.
func FuzzPage(f *testing.F) {
	f.Add("/events", "subscription=default&state=dead&type=a&error=b&older_than=1h&order=oldest&after=1")
	db := dbtest.SQLite(f)
	require.NoError(f, migrations.ApplySQL(f.Context(), db, ""))
	for _, statement := range []string{
		"INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('default', '[]', '', 'begin'), ('odd \\ ''', '[\"a\\\\\\\\*\"]', '', 'begin')",
		"INSERT INTO endstate_outbox (partition, id, aggregate_type, aggregate_id, type, payload, headers) VALUES (1, '018f3b2e-0000-7000-8000-000000000001', 'batch', '7', 'completed', CAST('{}' AS BLOB), '{}')",
		"INSERT INTO endstate_outbox_audit (subscription, action, by_whom, reason) VALUES ('default', 'drop', 'ada', 'why')",
		"INSERT INTO endstate_ledger (aggregate, \"key\", state, \"trigger\", token, at) VALUES ('batch', 'i:7', 'DONE', 'sweep', '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '2026-01-01T00:00:00.000Z')",
	} {
		_, err := db.Exec(statement)
		require.NoError(f, err, statement)
	}
	c, err := console.NewSQL(db, &console.Config{Actions: true, ShowPayloads: true, User: func(*http.Request) string { return "ada" }, Logger: quiet})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, path, query string) {
		for _, accept := range []string{"text/html", "application/json"} {
			r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/" + strings.TrimPrefix(path, "/"), RawQuery: query}, Host: "console.example", Header: http.Header{"Accept": {accept}}, Body: http.NoBody}
			r = r.WithContext(t.Context())
			answer := httptest.NewRecorder()
			c.ServeHTTP(answer, r)
			body := answer.Body.String()
			require.Contains(t, []int{200, 301, 307, 308, 400, 404, 405, 422}, answer.Code, "%s", body)
			if answer.Header().Get("Content-Type") == "application/json" {
				require.True(t, json.Valid([]byte(body)), body)
			}
			if answer.Code == 200 && !strings.HasPrefix(r.URL.Path, "/assets/") {
				at := slices.IndexFunc([]rune(body), func(r rune) bool { return !unicode.IsGraphic(r) && r != '\n' && r != '\t' })
				require.Negative(t, at, "%q", body)
			}
		}
	})
}
