package console

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox/relay"
)

// deadView is the list of dead letters.
type deadView struct {
	eventsView
	CanRetry   bool `json:"can_retry"`
	CanDiscard bool `json:"can_discard"`
}

func (c *Console) dead(r *request) (any, error) {
	r.page.Title, r.page.Here = "Dead letters", "dead"
	form := r.URL.Query()
	form.Set("state", string(relay.Dead))
	r.URL.RawQuery = form.Encode()
	list, err := c.events(r)
	r.page.Title, r.page.Here = "Dead letters", "dead"
	if err != nil {
		return nil, err
	}
	v := deadView{eventsView: list.(eventsView)}
	name := v.Filter.Subscription
	v.CanRetry, v.CanDiscard = r.must(Retry, name) == nil, r.must(Discard, name) == nil
	return v, nil
}

// step is how many dead letters one request of those for all looks at.
const step = 500

// doneView says how far an action is.
type doneView struct {
	Action       Action     `json:"action"`
	Subscription string     `json:"subscription"`
	Reason       string     `json:"reason"`
	Done         int        `json:"done"`
	Left         int        `json:"left"` // weren't dead any more
	All          bool       `json:"all"`
	Next         int64      `json:"next"` // the parameter "after" with which the action goes on; 0: it is at its end
	Filter       filterView `json:"filter"`
	Go           string     `json:"-"` // all of it, for the next step
}

// intervene retries or discards the dead letters that a form names, or a step of all that match its filter: whoever sent it
// sends the next step, so that nothing goes on that nobody watches.
func (c *Console) intervene(r *request) (any, error) {
	r.page.Title, r.page.Here = "Dead letters", "done"
	form := r.PostForm
	if went, err := url.ParseQuery(form.Get("go")); err == nil { // what the page that the form is of was about
		for name, values := range went {
			if !form.Has(name) {
				form[name] = values
			}
		}
	}
	f, filter, err := r.filter(form)
	if err != nil {
		return nil, err
	}
	v := &doneView{Action: Action(form.Get("action")), Subscription: f.Subscription, Reason: form.Get("reason"), All: form.Get("all") != "", Filter: f}
	do := map[Action]func(*relay.Admin) (done []uuid.UUID, err error){}
	var ids []uuid.UUID
	ctx, cancel := r.within()
	defer cancel()
	by := relay.By{Subscription: f.Subscription, Who: r.user, Why: v.Reason}
	do[Retry] = func(a *relay.Admin) ([]uuid.UUID, error) { return a.Retry(ctx, by, ids...) }
	do[Discard] = func(a *relay.Admin) ([]uuid.UUID, error) { return a.Discard(ctx, by, ids...) }
	act := do[v.Action]
	if act == nil {
		return nil, failure{http.StatusUnprocessableEntity, "There are retry and discard."}
	}
	if err := r.must(v.Action, f.Subscription); err != nil {
		return nil, err
	}
	if v.Reason == "" {
		return nil, failure{http.StatusUnprocessableEntity, "Say why: the reason is recorded."}
	}
	v.Done, _ = strconv.Atoi(form.Get("done"))
	v.Left, _ = strconv.Atoi(form.Get("left"))
	if v.All {
		filter.State, filter.Newest, filter.Limit = relay.Dead, false, step
		page, err := c.admin.List(ctx, filter)
		if err != nil {
			return nil, err
		}
		for _, record := range page.Records {
			ids = append(ids, record.ID)
		}
		v.Next = page.Next
	} else if ids, err = parseIDs(form["id"]); err != nil {
		return nil, err
	}
	done, err := act(c.admin)
	c.cfg.Logger.InfoContext(ctx, "console: "+string(v.Action), "user", r.user, "subscription", f.Subscription, "reason", v.Reason, "events", len(done), "error", err)
	if err != nil {
		return nil, err
	}
	v.Done += len(done)
	v.Left += len(ids) - len(done)
	next, _ := url.ParseQuery(f.query(v.Next)) // which it wrote
	for name, value := range map[string]string{"action": string(v.Action), "all": "1", "reason": v.Reason, "done": strconv.Itoa(v.Done), "left": strconv.Itoa(v.Left)} {
		next.Set(name, value)
	}
	v.Go = next.Encode()
	return v, nil
}

func parseIDs(texts []string) ([]uuid.UUID, error) {
	if len(texts) == 0 {
		return nil, failure{http.StatusUnprocessableEntity, "Choose an event."}
	}
	if len(texts) > step {
		return nil, failure{http.StatusUnprocessableEntity, fmt.Sprintf("Choose at most %d events.", step)}
	}
	var ids []uuid.UUID
	for _, text := range texts {
		id, err := uuid.Parse(text)
		if err != nil {
			return nil, failure{http.StatusUnprocessableEntity, "An event's id is a UUID."}
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
