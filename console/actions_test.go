package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// bury makes n dead letters of a type.
func (w *world) bury(n int, typ string) (ids []string) {
	w.Helper()
	var events []outbox.Event
	for i := range n {
		e := batchEvent(typ)
		e.AggregateType, e.AggregateID = "order", fmt.Sprint(typ, i)
		events = append(events, e)
		ids = append(ids, e.ID.String())
	}
	w.put(events...)
	w.exec(`INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, attempts, last_error, dead_at)
SELECT 'default', partition, seq, id, aggregate_type, aggregate_id, 3, 'refused', created_at FROM endstate_outbox e WHERE NOT EXISTS (SELECT 1 FROM endstate_outbox_parked p WHERE p.event_id = e.id)`)
	w.exec("UPDATE endstate_outbox_cursors SET position = (SELECT max(seq) FROM endstate_outbox)")
	return ids
}

type acts struct {
	History []struct{ Action, By, Reason, Subscription, Detail string }
}

// Dead letters are retried or discarded: one, some, or all that match, step by step, with a reason and on the record.
func TestDeadLettersAreDealtWith(t *testing.T) {
	t.Parallel()
	each(t, func(w *world) {
		w.relay("default")()
		ids := w.bury(3, "refused")
		w.bury(1200, "flood")
		s := w.console(console.Config{Actions: true})
		require.Equal(w, http.StatusUnprocessableEntity, s.post("/dead", url.Values{"action": {"retry"}, "id": {ids[0]}}).status, "without a reason")
		require.Equal(w, http.StatusUnprocessableEntity, s.post("/dead", url.Values{"action": {"retry"}, "reason": {"why"}}).status, "without an event")
		require.Equal(w, http.StatusUnprocessableEntity, s.post("/dead", url.Values{"action": {"drop"}, "id": {ids[0]}, "reason": {"why"}}).status)
		require.Equal(w, http.StatusUnprocessableEntity, s.post("/dead", url.Values{"action": {"retry"}, "id": {ids[0]}, "reason": {strings.Repeat("x", 1001)}}).status)

		a := s.post("/dead", url.Values{"action": {"retry"}, "id": {ids[0]}, "reason": {"the receiver is fixed"}})
		require.Equal(w, http.StatusOK, a.status, a.body)
		require.Contains(w, a.body, "1 will be published again")
		a = s.post("/dead", url.Values{"action": {"discard"}, "id": ids, "reason": {"obsolete"}})
		require.Contains(w, a.body, "2 discarded; 1 weren't dead any more")
		var v acts
		s.json("/history", &v)
		require.Len(w, v.History, 3)
		require.Equal(w, "discard ada obsolete", v.History[0].Action+" "+v.History[0].By+" "+v.History[0].Reason)
		require.Contains(w, s.get("/events/"+ids[0]).body, "the receiver is fixed")

		// All that match.
		steps, done := 0, 0
		for after := int64(-1); after != 0; steps++ {
			form := url.Values{"action": {"retry"}, "all": {"1"}, "type": {"flood"}, "reason": {"again"}, "done": {fmt.Sprint(done)}, "token": {s.token()}}
			if after > 0 {
				form.Set("after", fmt.Sprint(after))
			}
			a := s.do(http.MethodPost, "/dead", form, "Accept", "application/json")
			require.Equal(w, http.StatusOK, a.status, a.body)
			var v struct {
				Done int
				Next int64
			}
			require.NoError(w, json.Unmarshal([]byte(a.body), &v))
			require.LessOrEqual(w, v.Done-done, 500, "a step is bounded")
			done, after = v.Done, v.Next
		}
		require.Equal(w, 1200, done)
		require.GreaterOrEqual(w, steps, 3)
		require.Contains(w, s.get("/dead").body, "There are none")
	})
}

// The page of an action on all that match brings the form for its next step.
func TestAStepBringsTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite")
	w.relay("default")()
	w.bury(600, "flood")
	s := w.console(console.Config{Actions: true})
	a := s.post("/dead", url.Values{"action": {"discard"}, "all": {"1"}, "reason": {"again <b>"}, "error": {"refused"}})
	require.Contains(t, a.body, "data-goes-on")
	match := regexp.MustCompile(`name="go" value="([^"]+)"`).FindStringSubmatch(a.body)
	require.NotNil(t, match, a.body)
	a = s.post("/dead", url.Values{"go": {html.UnescapeString(match[1])}})
	require.Contains(t, a.body, "600 discarded")
	require.NotContains(t, a.body, "data-goes-on")
	var v acts
	s.json("/history", &v)
	require.Equal(t, "again <b>", v.History[0].Reason)
	require.Zero(t, w.count("SELECT count(*) FROM endstate_outbox_parked"))
}

// A replay says in figures what it will do before it does; a drop, too, and not under a running relay.
func TestSubscriptionsAreReplayedAndDropped(t *testing.T) {
	t.Parallel()
	each(t, func(w *world) {
		stop := w.relay("default")
		w.relay("partner")()
		for range 3 {
			w.settle(nil, "threshold", guard.Text(fmt.Sprint(time.Now().UnixNano())), batchEvent("assessment.completed"))
		}
		s := w.console(console.Config{Actions: true})
		w.eventually("they are published", func() bool {
			var v struct {
				Subscriptions []struct{ Pending int64 }
			}
			s.json("/", &v)
			return len(v.Subscriptions) == 2 && v.Subscriptions[0].Pending == 0
		})
		page := s.get("/subscription?name=default&from=2026-01-01T00:00:00").body
		require.Contains(w, page, "<strong>3 events</strong>")
		require.Contains(w, page, "https://default.example")
		require.Contains(w, s.get("/subscription?name=default").body, "1 running relay: stop it first")
		require.Equal(w, http.StatusConflict, s.post("/drop", url.Values{"name": {"default"}, "reason": {"gone"}}).status)
		require.Equal(w, http.StatusUnprocessableEntity, s.post("/replay", url.Values{"name": {"default"}, "from": {"yesterday"}, "reason": {"lost"}}).status)
		require.Equal(w, http.StatusUnprocessableEntity, s.post("/replay", url.Values{"name": {"default"}, "from": {"2026-01-01T00:00"}}).status, "without a reason")
		stop()
		a := s.post("/replay", url.Values{"name": {"default"}, "from": {"2026-01-01T00:00"}, "reason": {"lost"}})
		require.Contains(w, a.body, "3 events will be published again")
		w.eventually("they are pending", func() bool {
			return strings.Contains(s.get("/subscription?name=partner").body, "<strong>3</strong> pending")
		})
		a = s.post("/drop", url.Values{"name": {"partner"}, "reason": {"the contract has ended"}})
		require.Contains(w, a.body, "The subscription partner is gone")
		var v acts
		s.json("/history", &v)
		require.Len(w, v.History, 2)
		require.Equal(w, "drop ada partner the contract has ended", v.History[0].Action+" "+v.History[0].By+" "+v.History[0].Subscription+" "+v.History[0].Reason)
		require.Equal(w, "replay", v.History[1].Action)
		require.Equal(w, http.StatusNotFound, s.post("/drop", url.Values{"name": {"partner"}, "reason": {"again"}}).status)
	})
}

// The duplicates are counted when somebody asks for it, and shown to all.
func TestTheAudit(t *testing.T) {
	t.Parallel()
	each(t, func(w *world) {
		for range 5 {
			e := batchEvent("assessment.completed")
			e.AggregateType, e.AggregateID = "batch", "7"
			w.put(e)
		}
		s := w.console(console.Config{})
		require.Contains(w, s.get("/audit").body, "Nobody has had them counted")
		a := s.post("/audit", url.Values{})
		require.Equal(w, http.StatusSeeOther, a.status, a.body)
		require.Equal(w, "./audit", a.header.Get("Location"))
		body := s.get("/audit").body
		require.Contains(w, body, "4 duplicates")
		require.Contains(w, body, "batch/7")
		var v struct {
			Report struct {
				Duplicates int64
				Worst      []struct {
					ID string `json:"aggregate_id"`
				}
			}
		}
		s.json("/audit", &v)
		require.EqualValues(w, 4, v.Report.Duplicates)
		require.Equal(w, "batch/7", v.Report.Worst[0].ID)
	})
}

// What only the process knows: who lost, and how often, and which keys are hot.
func TestAWatchCountsWhoLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite")
	watch := &console.Watch{}
	hot, won := 0, 0
	trace := watch.Trace(&finalize.Trace{
		Won: func(context.Context, finalize.Call, finalize.Receipt) { won++ },
		Hot: func(context.Context, finalize.HotKey) { hot++ },
	})
	fin, err := finalize.NewSQL(w.sql, &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}, Trace: trace, Logger: quiet})
	require.NoError(t, err)
	for range 40 {
		_, err := fin.Settle(t.Context(), guard.Int(7), "sweep", finalize.Outcome{State: "DONE"})
		require.NoError(t, err)
	}
	s := w.console(console.Config{Watch: watch})
	var v struct {
		Process struct {
			Triggers []struct {
				Trigger   string
				Won, Lost int64
			}
			Hot []struct {
				ID       string `json:"aggregate_id"`
				Count    int
				Triggers []string
			}
		}
	}
	s.json("/", &v)
	require.Len(t, v.Process.Triggers, 1)
	require.EqualValues(t, 1, v.Process.Triggers[0].Won)
	require.EqualValues(t, 39, v.Process.Triggers[0].Lost)
	require.Len(t, v.Process.Hot, 1)
	require.Equal(t, "7", v.Process.Hot[0].ID)
	require.Equal(t, []string{"sweep"}, v.Process.Hot[0].Triggers)
	require.Equal(t, []int{1, 1}, []int{won, hot}, "the service's own callbacks")
	require.Contains(t, s.get("/").body, "Hot keys")
}
