package console

import (
	"net/http"
	"net/url"
	"time"

	"github.com/endstate-go/endstate/outbox/relay"
)

// subscriptionPage is one subscription, and what replaying or dropping it would do.
type subscriptionPage struct {
	subscriptionView
	CanReplay bool        `json:"can_replay"`
	CanDrop   bool        `json:"can_drop"`
	Replay    *replayView `json:"replay,omitempty"` // what the one that was asked about would do
}

type replayView struct {
	From    string `json:"from"`
	To      string `json:"to,omitempty"`
	Dead    bool   `json:"dead"`
	Events  int64  `json:"events"`
	AtLeast bool   `json:"at_least"`
	Done    bool   `json:"done"`
}

func (c *Console) subscription(r *request) (any, error) {
	r.page.Title, r.page.Here = "Subscription", "subscription"
	form := r.URL.Query()
	name := form.Get("name")
	if err := r.must(View, name); err != nil {
		return nil, err
	}
	c.figures(r.Context())
	v := &subscriptionPage{}
	c.sampler.mu.Lock()
	there := false
	if c.sampler.latest != nil {
		for _, st := range c.sampler.latest.stats {
			if st.Subscription == name {
				v.subscriptionView, there = c.view(time.Now(), st), true
			}
		}
	}
	c.sampler.mu.Unlock()
	if !there {
		return nil, failure{http.StatusNotFound, "There is no such subscription, or no figures of it yet."}
	}
	v.CanReplay, v.CanDrop = r.must(Replay, name) == nil, r.must(Drop, name) == nil
	if form.Get("from") == "" {
		return v, nil
	}
	by, what, err := r.replaying(form, name)
	if err != nil {
		return nil, err
	}
	what.DryRun = true
	by.Who, by.Why = "console", "what would it be?" // nothing is recorded
	ctx, cancel := r.within()
	defer cancel()
	would, err := c.admin.Replay(ctx, by, what)
	if err != nil {
		return nil, err
	}
	v.Replay = &replayView{form.Get("from"), form.Get("to"), what.Dead, would.Events, would.AtLeast, false}
	return v, nil
}

// replaying reads what is to be replayed.
func (r *request) replaying(form url.Values, name string) (by relay.By, what relay.Replay, err error) {
	for field, t := range map[string]*time.Time{"from": &what.From, "to": &what.To} {
		text := form.Get(field)
		if text == "" {
			continue
		}
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04"} {
			if *t, err = time.Parse(layout, text); err == nil {
				break
			}
		}
		if err != nil {
			return by, what, failure{http.StatusUnprocessableEntity, "A time is written as 2006-01-02T15:04:05, in UTC."}
		}
	}
	what.Dead = form.Get("dead") != ""
	return relay.By{Subscription: name, Who: r.user, Why: form.Get("reason")}, what, nil
}

func (c *Console) replay(r *request) (any, error) {
	r.page.Title, r.page.Here = "Replay", "replayed"
	name := r.PostForm.Get("name")
	if err := r.must(Replay, name); err != nil {
		return nil, err
	}
	by, what, err := r.replaying(r.PostForm, name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := r.within()
	defer cancel()
	done, err := c.admin.Replay(ctx, by, what)
	c.cfg.Logger.InfoContext(ctx, "console: replay", "user", by.Who, "subscription", name, "reason", by.Why, "from", what.From, "to", what.To, "events", done.Events, "error", err)
	if err != nil {
		return nil, err
	}
	c.outdate()
	return replayView{r.PostForm.Get("from"), r.PostForm.Get("to"), what.Dead, done.Events, done.AtLeast, true}, nil
}

func (c *Console) drop(r *request) (any, error) {
	r.page.Title, r.page.Here = "Drop", "dropped"
	by := relay.By{Subscription: r.PostForm.Get("name"), Who: r.user, Why: r.PostForm.Get("reason")}
	if err := r.must(Drop, by.Subscription); err != nil {
		return nil, err
	}
	ctx, cancel := r.within()
	defer cancel()
	err := c.admin.Drop(ctx, by)
	c.cfg.Logger.InfoContext(ctx, "console: drop", "user", by.Who, "subscription", by.Subscription, "reason", by.Why, "error", err)
	if err != nil {
		return nil, err
	}
	c.outdate()
	return struct {
		Dropped string `json:"dropped"`
	}{by.Subscription}, nil
}

// outdate has the next look take new figures.
func (c *Console) outdate() {
	c.sampler.mu.Lock()
	defer c.sampler.mu.Unlock()
	c.sampler.due = time.Time{}
}
