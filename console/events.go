package console

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox/relay"
)

// perPage is how many rows a page has.
const perPage = 50

// filterView is what a list was asked for.
type filterView struct {
	Subscription  string `json:"subscription"`
	State         string `json:"state,omitempty"`
	Type          string `json:"type,omitempty"`
	AggregateType string `json:"aggregate_type,omitempty"`
	AggregateID   string `json:"aggregate_id,omitempty"`
	Error         string `json:"error,omitempty"`
	OlderThan     string `json:"older_than,omitempty"`
	Oldest        bool   `json:"oldest_first,omitempty"`
}

// eventsView is a list of events.
type eventsView struct {
	Filter        filterView     `json:"filter"`
	Subscriptions []string       `json:"subscriptions"`
	Events        []relay.Record `json:"events"`
	Next          int64          `json:"next"` // the parameter "after" of the next page; 0: there is none
	NextQuery     string         `json:"-"`
	Go            string         `json:"-"` // the filter, for a form
	States        []relay.State  `json:"-"`
}

// seen leaves out of an event what the user may not see.
func (r *request) seen(s relay.Shown) relay.Shown {
	s.Deliveries = slices.DeleteFunc(s.Deliveries, func(d relay.Delivery) bool { return !r.may(View, d.Subscription) })
	s.History = r.seenActs(s.History)
	return s
}

// filter reads a list's parameters from a query or a form.
func (r *request) filter(form url.Values) (filterView, relay.Filter, error) {
	f := filterView{form.Get("subscription"), form.Get("state"), form.Get("type"), form.Get("aggregate_type"), form.Get("aggregate_id"), form.Get("error"), form.Get("older_than"), form.Get("order") == "oldest"}
	if f.Subscription == "" {
		f.Subscription = relay.DefaultSubscription
	}
	filter := relay.Filter{Subscription: f.Subscription, State: relay.State(f.State), Type: f.Type, AggregateType: f.AggregateType, AggregateID: f.AggregateID, Error: f.Error, Newest: !f.Oldest, Brief: true, Limit: perPage}
	if f.OlderThan != "" {
		d, err := time.ParseDuration(f.OlderThan)
		if err != nil || d < 0 {
			return f, filter, failure{http.StatusUnprocessableEntity, "The age is written as 90s, 15m or 24h."}
		}
		filter.OlderThan = d
	}
	var err error
	if filter.After, err = position(form.Get("after")); err != nil {
		return f, filter, err
	}
	return f, filter, r.must(View, f.Subscription)
}

// query is a filter as a page's parameters.
func (f filterView) query(after int64) string {
	v := url.Values{}
	for _, p := range [][2]string{{"subscription", f.Subscription}, {"state", f.State}, {"type", f.Type}, {"aggregate_type", f.AggregateType}, {"aggregate_id", f.AggregateID}, {"error", f.Error}, {"older_than", f.OlderThan}} {
		if p[1] != "" {
			v.Set(p[0], p[1])
		}
	}
	if f.Oldest {
		v.Set("order", "oldest")
	}
	if after != 0 {
		v.Set("after", strconv.FormatInt(after, 10))
	}
	return v.Encode()
}

// names are the subscriptions that the user may see.
func (r *request) names() ([]string, error) {
	ctx, cancel := r.within()
	defer cancel()
	all, err := r.console.admin.Subscriptions(ctx)
	return slices.DeleteFunc(all, func(name string) bool { return !r.may(View, name) }), err
}

func (c *Console) events(r *request) (any, error) {
	r.page.Title, r.page.Here = "Events", "events"
	names, err := r.names()
	if err != nil {
		return nil, err
	}
	v := eventsView{Subscriptions: names, Events: []relay.Record{}, States: []relay.State{relay.Pending, relay.Retrying, relay.Behind, relay.Dead, relay.Published}}
	form := r.URL.Query()
	if form.Get("subscription") == "" && len(names) > 0 && !slices.Contains(names, relay.DefaultSubscription) {
		form.Set("subscription", names[0])
	}
	var filter relay.Filter
	if v.Filter, filter, err = r.filter(form); err != nil || len(names) == 0 {
		return v, err
	}
	v.Go = v.Filter.query(0)
	ctx, cancel := r.within()
	defer cancel()
	page, err := c.admin.List(ctx, filter)
	if err != nil {
		return nil, err
	}
	v.Events, v.Next = append(v.Events, page.Records...), page.Next
	if v.Next != 0 {
		v.NextQuery = v.Filter.query(v.Next)
	}
	return v, nil
}

// oneView is one event, in JSON as relay.Shown has it.
type oneView struct {
	relay.Shown
	CanShow, Asked bool
	Text           string // the payload, for people
}

func (c *Console) event(r *request) (any, error) {
	r.page.Title, r.page.Here = "Event", "event"
	if err := r.must(View, ""); err != nil {
		return nil, err
	}
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return nil, failure{http.StatusNotFound, "An event's id is a UUID."}
	}
	most := 0
	asked := r.URL.Query().Get("payload") != ""
	if asked {
		if err := r.must(Payload, ""); err != nil {
			return nil, err
		}
		most = longLength
	}
	ctx, cancel := r.within()
	defer cancel()
	s, err := c.admin.ShowCut(ctx, id, most)
	if err != nil {
		return nil, err
	}
	v := oneView{Shown: r.seen(s), CanShow: c.cfg.ShowPayloads && r.may(Payload, ""), Asked: asked}
	if v.Text = graphic(string(s.Payload), true); s.Cut() {
		v.Text += "… (" + number(s.PayloadSize) + " bytes)"
	}
	return v, nil
}
