package console_test

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

type pgxTx = pgx.Tx

// lived is a world in which something happened: a batch was finalized and consumed, an event died, a subscription isn't served.
func lived(w *world) (batch guard.Key, died outbox.Event) {
	w.Helper()
	w.relay("default")
	w.relay("partner")()
	batch, died = guard.Int(42), batchEvent("bad.news")
	completed := batchEvent("assessment.completed")
	w.settle(nil, "threshold", batch, completed)
	w.settle(nil, "sweep", batch, completed)
	died.AggregateType, died.AggregateID = "order", "7/é"
	w.put(died)
	w.handle("entitlements", completed)
	s := w.console(console.Config{})
	w.eventually("the good one is published, and the other one dead", func() bool {
		var v struct {
			Events []struct{ State string }
		}
		s.json("/events", &v)
		return len(v.Events) == 2 && v.Events[0].State == "dead" && v.Events[1].State == "published"
	})
	return batch, died
}

var (
	link   = regexp.MustCompile(`(?:href|src|action)="([^"]*)"`)
	inline = regexp.MustCompile(`(?i)<style|<[^>]*\s(style|on[a-z]+)=|<script(?:>| [^>]*>[^<])|javascript:`)
)

// Every page leads only to pages that are there, at whatever path the console is, and does without anything inline.
func TestEachPageAndWhereItLeads(t *testing.T) {
	t.Parallel()
	each(t, func(w *world) {
		lived(w)
		s := w.console(console.Config{Actions: true, ShowPayloads: true})
		seen := map[string]bool{}
		for queue := []string{"/"}; len(queue) > 0; {
			page := queue[0]
			queue = queue[1:]
			if seen[page] {
				continue
			}
			seen[page] = true
			a := s.get(page)
			require.Equal(w, http.StatusOK, a.status, "%s\n%s", page, a.body)
			require.Contains(w, a.header.Get("Content-Security-Policy"), "default-src 'none'")
			require.NotContains(w, a.header.Get("Content-Security-Policy"), "unsafe")
			require.Equal(w, "nosniff", a.header.Get("X-Content-Type-Options"))
			if strings.Contains(page, "assets/") {
				continue
			}
			require.Equal(w, "no-store", a.header.Get("Cache-Control"))
			require.NotRegexp(w, inline, a.body)
			require.Equal(w, 1, strings.Count(a.body, "<h1>"))
			var v any
			s.json(page, &v)
			for _, match := range link.FindAllStringSubmatch(a.body, -1) {
				to, err := url.Parse(html.UnescapeString(match[1]))
				require.NoError(w, err)
				require.False(w, to.IsAbs() || strings.HasPrefix(to.Path, "/") || to.Host != "", match[1])
				base, err := url.Parse(page)
				require.NoError(w, err)
				target := base.ResolveReference(to)
				target.Fragment = ""
				if form := target.RawQuery == "" && (target.Path == "/replay" || target.Path == "/drop" || target.Path == "/subscription"); form {
					continue // which is sent by POST, or with a name
				}
				require.False(w, strings.HasPrefix(path.Clean(target.Path), ".."))
				queue = append(queue, target.String())
			}
		}
		for _, want := range []string{"/", "/events", "/dead", "/aggregate", "/history", "/audit", "/assets/console.css", "/assets/console.js", "/subscription?name=partner", "/aggregate?type=order&key=7%2f%c3%a9"} {
			require.True(w, seen[want], "%s among %v", want, seen)
		}
		require.Equal(w, http.StatusNotFound, s.get("/nowhere").status)
		require.Equal(w, http.StatusNotFound, s.get("/events/1").status)
		require.Equal(w, http.StatusNotFound, s.get("/events/00000000-0000-0000-0000-000000000000").status)
		require.Equal(w, http.StatusUnprocessableEntity, s.get("/events?state=lost").status)
		require.Equal(w, http.StatusUnprocessableEntity, s.get("/events?older_than=x").status)
		require.Equal(w, http.StatusNotFound, s.get("/events?subscription=nobody").status)
	})
}

// Why was this customer charged twice? Who finalized the batch, its events, and what became of them, by a key as people write it.
func TestAnAggregatesTimeline(t *testing.T) {
	t.Parallel()
	each(t, func(w *world) {
		lived(w)
		w.exec("CREATE TABLE batches (id bigint PRIMARY KEY, status text)")
		w.exec("INSERT INTO batches VALUES (42, 'COMPLETE_STABLE')")
		s := w.console(console.Config{Guards: map[string]console.Guard{"batch": {Reader: guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE")}}}})
		for _, asked := range []string{"/aggregate?key=42", "/aggregate?type=batch&key=42", "/aggregate?type=batch&key=i:42"} {
			var v struct {
				Type, Key string
				State     struct {
					State string
					Final bool
				}
				Ledger []struct{ State, Trigger string }
				Events []struct {
					Type       string
					Deliveries []struct{ Subscription, State string }
				}
				Inbox    []struct{ Consumer, State string }
				Timeline []struct{ What, Text string }
				Before   int64
			}
			s.json(asked, &v)
			require.Equal(w, "batch 42", v.Type+" "+v.Key)
			require.Equal(w, "COMPLETE_STABLE", v.State.State)
			require.True(w, v.State.Final)
			require.Len(w, v.Ledger, 1)
			require.Equal(w, "threshold", v.Ledger[0].Trigger)
			require.Len(w, v.Events, 1)
			require.Len(w, v.Events[0].Deliveries, 2)
			require.Len(w, v.Inbox, 1)
			require.Equal(w, "entitlements handled", v.Inbox[0].Consumer+" "+v.Inbox[0].State)
			require.Zero(w, v.Before)
			var what []string
			for _, m := range v.Timeline {
				what = append(what, m.What)
			}
			require.Subset(w, what, []string{"finalized", "written", "handled"})
		}
		require.Contains(w, s.get("/aggregate?key=42").body, "by trigger <strong>threshold</strong>")
		require.Contains(w, s.get("/aggregate?type=batch&key=43").body, "The ledger has no entry")
		w.exec(`INSERT INTO endstate_ledger (aggregate, "key", state, "trigger", token, at) VALUES ('invoice', 'i:42', 'PAID', 'webhook', '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '2026-01-01T00:00:00.000Z')`)
		require.Contains(w, s.get("/aggregate?key=42").body, "Aggregates of several types")
	})
}

// A payload is read for who asks for it, and where payloads may be seen; and cut.
func TestPayloadsAreHiddenUntilAskedFor(t *testing.T) {
	t.Parallel()
	each(t, func(w *world) {
		_, died := lived(w)
		event := "/events/" + died.ID.String()
		s := w.console(console.Config{})
		for _, page := range []string{event, event + "?payload=1", "/events", "/dead", "/aggregate?type=batch&key=42"} {
			for _, accept := range []string{"text/html", "application/json"} {
				require.NotContains(w, s.do(http.MethodGet, page, nil, "Accept", accept).body, "4711")
			}
		}
		require.Equal(w, http.StatusForbidden, s.get(event+"?payload=1").status)
		s = w.console(console.Config{ShowPayloads: true})
		require.NotContains(w, s.get(event).body, "4711")
		require.Contains(w, s.get(event+"?payload=1").body, "4711")
		var v struct {
			Payload *string
			Base64  *string `json:"payload_base64"`
			Cut     bool    `json:"payload_cut"`
		}
		s.json(event+"?payload=1", &v)
		require.Equal(w, string(died.Payload), *v.Payload)
		w.exec("UPDATE endstate_outbox SET payload = $1", append([]byte{0xff}, make([]byte, 10<<20)...))
		v.Payload = nil
		a := s.json(event+"?payload=1", &v)
		require.Nil(w, v.Payload)
		require.NotNil(w, v.Base64)
		require.True(w, v.Cut)
		require.Less(w, len(a.body), 100_000)
		require.Contains(w, html.UnescapeString(s.get(event+"?payload=1").body), "10\u202f485\u202f761 bytes")
	})
}

// The overview shows what each subscription waits for, who serves it, what is blocked and why, and what was finalized.
func TestTheOverview(t *testing.T) {
	t.Parallel()
	each(t, func(w *world) {
		lived(w)
		w.exec("UPDATE endstate_outbox_cursors SET blocked_since = '2026-01-01T00:00:00.000Z', blocked_why = '410 Gone' WHERE subscription = 'partner' AND partition = 3")
		s := w.console(console.Config{})
		var v struct {
			At            *time.Time
			Stale         bool
			Subscriptions []struct {
				Subscription            string
				Pending, Retrying, Dead int64
				Relays                  []struct{ Name string }
				Unowned                 int `json:"unowned_partitions"`
				Blocked                 []struct {
					Partition int
					Since     time.Time
					Why       string
				}
				History struct{ At []time.Time }
			}
			Finalizations []struct {
				Trigger  string
				Total    int64
				ByMinute []int64 `json:"by_minute"`
			}
		}
		s.json("/", &v)
		require.NotNil(w, v.At)
		require.False(w, v.Stale)
		require.Len(w, v.Subscriptions, 2)
		served, left := v.Subscriptions[0], v.Subscriptions[1]
		require.Equal(w, []int64{0, 0, 1}, []int64{served.Pending, served.Retrying, served.Dead})
		require.Len(w, served.Relays, 1)
		require.Equal(w, "partner", left.Subscription)
		require.Empty(w, left.Relays)
		require.Equal(w, 8, left.Unowned)
		require.Len(w, left.Blocked, 1)
		require.Equal(w, "410 Gone", left.Blocked[0].Why)
		require.NotEmpty(w, served.History.At)
		require.Len(w, v.Finalizations, 1)
		require.Equal(w, "threshold", v.Finalizations[0].Trigger)
		require.EqualValues(w, 1, v.Finalizations[0].Total)
		require.Len(w, v.Finalizations[0].ByMinute, 60)
		body := s.get("/").body
		require.Contains(w, body, "No relay is running")
		require.Contains(w, body, "410 Gone")
		require.Contains(w, body, "2026-01-01 00:00:00")
	})
}

// A list that is longer than a page goes on.
func TestAListGoesOn(t *testing.T) {
	t.Parallel()
	each(t, func(w *world) {
		w.relay("default")()
		var events []outbox.Event
		for i := range 120 {
			e := batchEvent("made")
			e.AggregateType, e.AggregateID = "order", fmt.Sprint(i)
			events = append(events, e)
		}
		w.put(events...)
		s := w.console(console.Config{})
		found := map[string]bool{}
		pages := 0
		for after := int64(-1); after != 0; pages++ {
			var v struct {
				Events []struct{ ID string }
				Next   int64
			}
			query := ""
			if after > 0 {
				query = fmt.Sprint("?after=", after)
			}
			s.json("/events"+query, &v)
			for _, e := range v.Events {
				found[e.ID] = true
			}
			after = v.Next
		}
		require.Len(w, found, 120)
		require.GreaterOrEqual(w, pages, 3)
		require.Contains(w, s.get("/events").body, `rel="next"`)
	})
}

// What people did is there from the first on, page by page.
func TestTheHistoryGoesOn(t *testing.T) {
	t.Parallel()
	each(t, func(w *world) {
		for i := range 120 {
			w.exec(fmt.Sprintf("INSERT INTO endstate_outbox_audit (subscription, action, by_whom, reason) VALUES ('default', 'drop', 'ada', 'reason %d.')", i))
		}
		s := w.console(console.Config{})
		seen, pages := map[string]bool{}, 0
		for next := "/history"; next != ""; pages++ {
			body := s.get(next).body
			for _, match := range regexp.MustCompile(`reason \d+\.`).FindAllString(body, -1) {
				require.False(w, seen[match], match)
				seen[match] = true
			}
			more := regexp.MustCompile(`href="\./(history[^"]*)" rel="next"`).FindStringSubmatch(body)
			if next = ""; more != nil {
				next = "/" + html.UnescapeString(more[1])
			}
		}
		require.Len(w, seen, 120)
		require.Equal(w, 3, pages)
		require.Equal(w, http.StatusUnprocessableEntity, s.get("/history?before=x").status)
	})
}

// Without any of the library's tables, a page says that something is amiss, and no more.
func TestWithoutTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite")
	for _, table := range []string{"endstate_outbox", "endstate_outbox_subscriptions", "endstate_ledger", "endstate_inbox"} {
		w.exec("DROP TABLE " + table)
	}
	s := w.console(console.Config{})
	a := s.get("/")
	require.Equal(t, http.StatusOK, a.status)
	require.Contains(t, a.body, "There are no figures")
	a = s.get("/events")
	require.Equal(t, http.StatusInternalServerError, a.status)
	require.NotContains(t, a.body, "no such table")
}
