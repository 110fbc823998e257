//go:build browser

package browser_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/migrations"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// shop is a service with a console, and a relay that runs.
type shop struct {
	*testing.T
	pool  *pgxpool.Pool
	watch *console.Watch
	fin   *finalize.Finalizer[pgx.Tx]
	url   string
	front *httptest.Server
}

type picky struct{}

func (picky) Publish(_ context.Context, events []outbox.Event) []error {
	errs := make([]error, len(events))
	for i, e := range events {
		if strings.HasPrefix(e.Type, "bad") {
			errs[i] = outbox.Permanent(errors.New("the receiver refuses \x1b[31m" + e.Type))
		}
	}
	return errs
}

var quiet = slog.New(slog.DiscardHandler)

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{T: t, pool: dbtest.Pool(t), watch: &console.Watch{}}
	require.NoError(t, migrations.Apply(t.Context(), s.pool))
	var err error
	s.fin, err = finalize.New(s.pool, &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}, Trace: s.watch.Trace(nil), Logger: quiet})
	require.NoError(t, err)
	c, err := console.New(s.pool, &console.Config{Title: "Shop", Actions: true, ShowPayloads: true, Watch: s.watch, Every: time.Second, Logger: quiet,
		User: func(*http.Request) string { return "ada" }, Guards: map[string]console.Guard{"batch": {Reader: guard.Ledger{}}}})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("/admin/", http.StripPrefix("/admin", c))
	mux.HandleFunc("/favicon.ico", func(http.ResponseWriter, *http.Request) {})
	s.front = httptest.NewServer(mux)
	t.Cleanup(s.front.Close)
	s.url = s.front.URL + "/admin/"
	return s
}

func (s *shop) relay(subscription string) (stop func()) {
	s.Helper()
	r, err := relay.New(s.pool, picky{}, &relay.Config{Subscription: subscription, Destination: "https://" + subscription + ".example", Name: "relay of the test", Logger: quiet, PollInterval: 20 * time.Millisecond})
	require.NoError(s, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			<-done
		}
	}
	s.Cleanup(stop)
	s.eventually("the relay has joined", func() bool {
		return s.count("SELECT count(*) FROM endstate_outbox_cursors WHERE subscription = '"+subscription+"'") == outbox.Partitions
	})
	return stop
}

// put writes an event without a guard.
func (s *shop) put(typ, aggregate string) uuid.UUID {
	s.Helper()
	e := outbox.Event{ID: uuid.Must(uuid.NewV7()), Type: typ, AggregateType: "batch", AggregateID: aggregate, Payload: []byte(`{"card": 4711}`)}
	require.NoError(s, pgx.BeginFunc(s.Context(), s.pool, func(tx pgx.Tx) error {
		_, err := outbox.Put(s.Context(), tx, e)
		return err
	}))
	return e.ID
}

func (s *shop) settle(key int64, trigger finalize.Trigger) {
	s.Helper()
	_, err := s.fin.Settle(s.Context(), guard.Int(key), trigger, finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{{Type: "assessment.completed", Payload: []byte("{}")}}})
	require.NoError(s, err)
}

func (s *shop) count(query string) (n int) {
	s.Helper()
	require.NoError(s, s.pool.QueryRow(s.Context(), query).Scan(&n))
	return n
}

func (s *shop) eventually(what string, met func() bool) {
	s.Helper()
	require.Eventually(s, met, time.Minute, 20*time.Millisecond, what)
}

// others has events published all the time: what the destination takes beside them tells which ones are to blame.
func (s *shop) others() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			_, _ = s.pool.Exec(ctx, `INSERT INTO endstate_outbox (id, aggregate_type, aggregate_id, type, payload, partition) SELECT gen_random_uuid(), 'other', n::text, 'made', '{}', endstate_outbox_partition('other', n::text) FROM generate_series($1::int, $1::int + 15) n`, i*16)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond): // a load, not a wait
			}
		}
	}()
	s.Cleanup(func() { cancel(); <-done })
}

// lived has something of everything.
func (s *shop) lived() (died uuid.UUID) {
	s.Helper()
	s.relay("partner")()
	s.relay("default")
	for key := range int64(12) {
		s.settle(key, []finalize.Trigger{"threshold", "sweep", "callback"}[key%3])
	}
	for range 40 {
		s.settle(7, "sweep")
	}
	s.others()
	died = s.put("bad.news", "7")
	for i := range 4 {
		s.put(fmt.Sprint("bad.", i), fmt.Sprint(i))
	}
	s.eventually("five are dead", func() bool {
		return s.count("SELECT count(*) FROM endstate_outbox_parked WHERE dead_at IS NOT NULL AND subscription = 'default'") == 5
	})
	_, err := s.pool.Exec(s.Context(), "UPDATE endstate_outbox_cursors SET blocked_since = now(), blocked_why = '410 Gone' WHERE subscription = 'partner' AND partition = 3")
	require.NoError(s, err)
	return died
}

// Each page is sound on a desktop and a phone, light and dark.
func TestEachPageIsSound(t *testing.T) {
	t.Parallel()
	chromium(t)
	s := newShop(t)
	died := s.lived()
	for _, d := range devices {
		t.Run(d.String(), func(t *testing.T) {
			b := open(t, d)
			for _, p := range []string{"", "aggregate", "aggregate?type=batch&key=7", "dead", "events", "events?state=published", "events/" + died.String(), "events/" + died.String() + "?payload=1",
				"history", "audit", "subscription?name=partner", "subscription?name=partner&from=2026-01-01T00:00:00"} {
				b.visit(s.url + p)
				b.requireSound(d.String() + ": " + p)
			}
		})
	}
}

// A person goes through the console by clicks: finds an aggregate, looks at a payload, deals with dead letters, replays and
// drops subscriptions, has duplicates counted, and sees what was done.
func TestWhatAPersonDoes(t *testing.T) {
	t.Parallel()
	chromium(t)
	for _, d := range []device{devices[0], devices[3]} {
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			s.lived()
			b := open(t, d)
			b.visit(s.url)
			require.Contains(t, b.text("main"), "Partition 3 is blocked")
			require.Contains(t, b.text("#process"), "Hot keys")

			b.submit(`nav a[href$="aggregate"]`)
			b.run(chromedp.SendKeys(chromedp.CSS(`input[name="key"]`), "7"))
			b.submit(`form[role="search"] button`)
			require.Contains(t, b.text("main"), "Finalized once, in state COMPLETE_STABLE, by trigger sweep")
			require.Contains(t, b.text(".timeline"), "dead bad.news, for default")
			require.Contains(t, b.text("table"), "published")
			b.submit(`table a[href*="events/"]`)
			require.NotContains(t, b.text("main"), "{}")
			b.submit(`a[href$="payload=1"]`)
			require.Equal(t, "{}", strings.TrimSpace(b.text("pre")))

			// One dead letter.
			b.submit(`nav a[href$="dead"]`)
			require.Contains(t, b.text("main"), `\x1b[31mbad.news`)
			b.run(chromedp.Click(chromedp.CSS(`tbody input[name="id"]`)), chromedp.SendKeys(chromedp.CSS(`input[name="reason"]`), "tried by hand"))
			b.submit(`button[value="retry"]`)
			require.Contains(t, b.text("main"), "1 will be published again")
			b.requireSound("an action's page")
			s.eventually("it is dead again", func() bool {
				return s.count("SELECT count(*) FROM endstate_outbox_parked WHERE dead_at IS NOT NULL AND subscription = 'default'") == 5
			})
			// Those of this page.
			b.submit(`nav a[href$="dead"]`)
			b.run(chromedp.Click(chromedp.CSS(`input[data-all]`)), chromedp.SendKeys(chromedp.CSS(`input[name="reason"]`), "obsolete"))
			b.submit(`button[value="discard"]`)
			require.Contains(t, b.text("main"), "5 discarded")
			b.submit(`nav a[href$="history"]`)
			require.Contains(t, b.text("main"), "tried by hand")
			require.Contains(t, b.text("main"), "obsolete")
			// All that match: it goes on by itself.
			_, err := s.pool.Exec(t.Context(), `INSERT INTO endstate_outbox (id, aggregate_type, aggregate_id, type, payload, partition) SELECT gen_random_uuid(), 'flood', n::text, 'flood', '{}', endstate_outbox_partition('flood', n::text) FROM generate_series(1, 1200) n;
INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, dead_at) SELECT 'partner', partition, seq, id, aggregate_type, aggregate_id, now() FROM endstate_outbox WHERE type = 'flood';
UPDATE endstate_outbox_cursors SET position = (SELECT max(seq) FROM endstate_outbox) WHERE subscription = 'partner'`)
			require.NoError(t, err)
			b.visit(s.url + "dead?subscription=partner")
			b.run(chromedp.SetValue(chromedp.CSS(`select[name="all"]`), "1"), chromedp.SendKeys(chromedp.CSS(`input[name="reason"]`), "a flood"))
			b.submit(`button[value="discard"]`)
			b.until(`document.querySelector("main").textContent.replace(/\s/g, "").includes("1200discarded")`)

			// A subscription.
			b.visit(s.url + "subscription?name=partner")
			b.run(chromedp.SetValue(chromedp.CSS(`input[name="from"]`), "2026-01-01T00:00:01"))
			b.submit(`form.filter button`)
			require.Contains(t, b.text(".confirm"), "would be published again")
			b.run(chromedp.SendKeys(chromedp.CSS(`.confirm input[name="reason"]`), "lost"))
			b.submit(`form[action$="replay"] button`)
			require.Contains(t, b.text("main"), "events will be published again")
			b.visit(s.url + "subscription?name=partner")
			b.run(chromedp.SendKeys(chromedp.CSS(`form[action$="drop"] input[name="reason"]`), "the contract has ended"))
			b.submit(`form[action$="drop"] button`)
			require.Contains(t, b.text("main"), "The subscription partner is gone")

			b.submit(`nav a[href$="history"]`)
			history := b.text("main")
			for _, what := range []string{"a flood", "lost", "the contract has ended", "ada"} {
				require.Contains(t, history, what)
			}
			b.requireSound("the history")
			b.submit(`nav a[href$="audit"]`)
			b.submit(`main form button`)
			require.Contains(t, b.text("main"), "duplicates")
			b.requireSound("an audit")
		})
	}
}

// The overview is fresh without a click, and says so when it isn't. By the keyboard the content is one step away.
func TestTheOverviewStaysFresh(t *testing.T) {
	t.Parallel()
	chromium(t)
	s := newShop(t)
	s.relay("default")()
	b := open(t, devices[0])
	b.visit(s.url)
	require.Contains(t, b.text("#subscriptions"), "No relay is running")
	for range 3 {
		s.put("made", "1")
	}
	b.until(`document.querySelector(".figures dd").textContent === "3"`)
	b.run(chromedp.KeyEvent("\t"))
	require.Equal(t, "Skip to the content", eval[string](b, "document.activeElement.textContent"))
	b.run(chromedp.KeyEvent("\r"))
	require.Equal(t, "main", eval[string](b, "document.activeElement.id"))
	s.front.CloseClientConnections()
	s.front.Close()
	b.until(`document.getElementById("fresh").textContent.includes("Stale")`)
}

// The incident's 25 batches: 119 completions without a guard, and 25 with one. The pictures are those of docs/console.md.
func TestTheIncidentBeforeAndAfter(t *testing.T) {
	t.Parallel()
	chromium(t)
	before := newShop(t)
	before.relay("default")
	after := newShop(t)
	after.relay("default")
	triggers := []finalize.Trigger{"callback", "threshold", "sweep", "recovery"}
	// One batch has 83 completions, twelve of the others two of them, and what is left one.
	times := make([]int, 25)
	for i := range times {
		times[i] = 1
	}
	times[0] = 83
	for i := 1; i <= 12; i++ {
		times[i] = 2
	}
	sum := 0
	for batch, n := range times {
		for i := range n {
			before.put("assessment.completed", fmt.Sprint("batch-", batch+1))
			after.settle(int64(batch+1), triggers[i%4])
			sum++
		}
	}
	require.Equal(t, 119, sum)
	before.eventually("all are published", func() bool {
		return before.count("SELECT count(*) FROM endstate_outbox e JOIN endstate_outbox_cursors c ON c.partition = e.partition AND c.position >= e.seq") == 119
	})
	for name, s := range map[string]*shop{"before": before, "after": after} {
		for _, d := range []device{devices[0], devices[3]} {
			b := open(t, d)
			b.visit(s.url + "audit")
			b.submit("main form button")
			want := map[string]string{"before": "94 duplicates", "after": "No duplicates"}[name]
			require.Contains(t, b.text("main"), want)
			b.requireSound(name)
			b.shoot("console-" + name + "-audit-" + d.name)
			b.visit(s.url + "aggregate?type=batch&key=" + map[string]string{"before": "batch-1", "after": "1"}[name])
			b.requireSound(name)
			b.shoot("console-" + name + "-aggregate-" + d.name)
			b.visit(s.url)
			b.shoot("console-" + name + "-overview-" + d.name)
		}
	}
}
