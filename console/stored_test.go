package console_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/guard"
)

// What is stored can't steer a terminal or a reader (escapes of ANSI, Unicode's marks that turn the direction of writing or have no
// width), nor be taken for markup, nor fill a page: wherever it stands, and if it is ten megabytes long.
func TestWhatIsStoredIsOnlyShown(t *testing.T) {
	t.Parallel()
	each(t, func(w *world) {
		_, died := lived(w)
		nasty := "\x1b[31m\u202e</pre><script>alert(1)</script>\u200b\"'\u2066\u009b"
		long := "repeat('x', 10485760)"
		if w.sqlite() {
			long = "hex(zeroblob(5242880))"
		}
		text := "'" + strings.ReplaceAll(nasty, "'", "''") + "'"
		w.exec("UPDATE endstate_outbox SET type = $1, headers = $2, payload = $3", nasty, fmt.Sprintf(`{"name %s": "<b>\u001b%[1]s"}`, "\u202e"), []byte(nasty))
		w.exec("UPDATE endstate_outbox SET content_type = " + text + " || " + long)
		w.exec("UPDATE endstate_outbox SET aggregate_type = " + text + " || " + long + " WHERE aggregate_type = 'order'")
		w.exec("UPDATE endstate_outbox_parked SET last_error = " + text + " || " + long)
		w.exec("UPDATE endstate_outbox_subscriptions SET destination = " + text + " || " + long + " WHERE name = 'partner'")
		w.exec("UPDATE endstate_outbox_cursors SET blocked_since = '2026-01-01T00:00:00.000Z', blocked_why = " + text + " || " + long + " WHERE subscription = 'partner' AND partition < 2")
		w.exec("INSERT INTO endstate_outbox_audit (subscription, action, event_id, by_whom, reason, detail, last_error) VALUES ('default', 'retry', $1, "+text+" || "+long+", "+text+" || "+long+", "+text+" || "+long+", "+text+" || "+long+")", died.ID.String())
		w.exec("UPDATE endstate_ledger SET state = " + text + " || " + long + `, "trigger" = ` + text + " || " + long)
		w.exec("UPDATE endstate_inbox SET error = " + text + " || " + long)
		s := w.console(console.Config{ShowPayloads: true, Actions: true, Guards: map[string]console.Guard{"batch": {Reader: guard.Ledger{}}}, Title: "shop " + nasty})
		require.Equal(w, http.StatusSeeOther, s.post("/audit", url.Values{}).status)
		for _, page := range []string{
			"/", "/events", "/dead", "/history", "/audit", "/subscription?name=partner", "/subscription?name=default&from=2020-01-01T00:00",
			"/events/" + died.ID.String(), "/events/" + died.ID.String() + "?payload=1", "/aggregate?type=batch&key=42", "/aggregate?key=42",
			"/events?type=" + url.QueryEscape(nasty), "/aggregate?type=batch&key=" + url.QueryEscape(nasty), "/events?state=" + url.QueryEscape(nasty+strings.Repeat("x", 100_000)),
			"/events?subscription=" + url.QueryEscape(nasty),
		} {
			for _, accept := range []string{"text/html", "application/json"} {
				a := s.do(http.MethodGet, page, nil, "Accept", accept)
				if strings.Contains(page, "?state=") || strings.Contains(page, "?subscription=") {
					require.Contains(w, []int{http.StatusUnprocessableEntity, http.StatusNotFound}, a.status, page)
				} else {
					require.Equal(w, http.StatusOK, a.status, page)
				}
				require.Less(w, len(a.body), 200_000, "%s as %s", page, accept)
				for _, steers := range []string{"\x1b", "\u202e", "\u200b", "\u2066", "\u009b"} {
					require.NotContains(w, a.body, steers, "%s as %s: %q", page, accept, steers)
				}
				if accept == "text/html" {
					require.NotContains(w, a.body, "<script>alert", page)
					require.NotContains(w, a.body, "<b>", page)
				}
			}
		}
		require.Contains(w, s.get("/dead").body, `\x1b[31m\u202e`)
		require.Contains(w, s.get("/events/"+died.ID.String()).body, "characters)")
	})
}
