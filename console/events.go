package console

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

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
	Filter        filterView    `json:"filter"`
	Subscriptions []string      `json:"subscriptions"`
	Events        []eventView   `json:"events"`
	Next          int64         `json:"next"` // the parameter "after" of the next page; 0: there is none
	NextQuery     string        `json:"-"`
	Go            string        `json:"-"` // the filter, for a form
	States        []relay.State `json:"-"`
}

type eventView struct {
	Seq           int64             `json:"seq"`
	ID            uuid.UUID         `json:"id"`
	Type          string            `json:"type"`
	AggregateType string            `json:"aggregate_type"`
	AggregateID   string            `json:"aggregate_id"`
	Partition     int               `json:"partition"`
	CreatedAt     time.Time         `json:"created_at"`
	OccurredAt    time.Time         `json:"occurred_at"`
	DedupKey      string            `json:"dedup_key,omitempty"`
	SchemaVersion int               `json:"schema_version"`
	ContentType   string            `json:"content_type"`
	Headers       map[string]string `json:"headers,omitempty"`
	PayloadBytes  *int64            `json:"payload_bytes,omitempty"`
	Deliveries    []deliveryView    `json:"deliveries"`
	History       []actView         `json:"history,omitempty"`
}

type deliveryView struct {
	Subscription  string      `json:"subscription"`
	State         relay.State `json:"state"`
	Attempts      int         `json:"attempts"`
	Crashes       int         `json:"crashes"`
	NextAttemptAt *time.Time  `json:"next_attempt_at"`
	LastError     string      `json:"last_error,omitempty"`
	ParkedAt      *time.Time  `json:"parked_at"`
	DeadAt        *time.Time  `json:"dead_at"`
	PublishedBy   *time.Time  `json:"published_by"`
}

func newDelivery(d relay.Delivery) deliveryView {
	return deliveryView{d.Subscription, d.State, d.Attempts, d.Crashes, optional(d.NextAttemptAt), d.LastError, optional(d.ParkedAt), optional(d.DeadAt), optional(d.PublishedBy)}
}

func newRecord(r relay.Record) eventView {
	return eventView{Seq: r.Seq, ID: r.ID, Type: r.Type, AggregateType: r.AggregateType, AggregateID: r.AggregateID, Partition: r.Partition, CreatedAt: r.CreatedAt.UTC(),
		OccurredAt: r.OccurredAt.UTC(), DedupKey: r.DedupKey, SchemaVersion: r.SchemaVersion, ContentType: r.ContentType, Deliveries: []deliveryView{newDelivery(r.Delivery)}}
}

// newShown leaves out what the user may not see.
func (r *request) newShown(s relay.Shown) eventView {
	v := eventView{Seq: s.Seq, ID: s.ID, Type: s.Type, AggregateType: s.AggregateType, AggregateID: s.AggregateID, Partition: s.Partition, CreatedAt: s.CreatedAt.UTC(),
		OccurredAt: s.OccurredAt.UTC(), DedupKey: s.DedupKey, SchemaVersion: s.SchemaVersion, ContentType: s.ContentType, Headers: s.Headers, PayloadBytes: &s.PayloadSize, Deliveries: []deliveryView{}}
	for _, d := range s.Deliveries {
		if r.may(View, d.Subscription) {
			v.Deliveries = append(v.Deliveries, newDelivery(d))
		}
	}
	v.History = r.acts(s.History)
	return v
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
	if after := form.Get("after"); after != "" {
		n, err := strconv.ParseInt(after, 10, 64)
		if err != nil {
			return f, filter, failure{http.StatusUnprocessableEntity, "The page can't be read."}
		}
		filter.After = n
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

// listed goes on until it has a page's rows, or has looked at enough.
func (r *request) listed(filter relay.Filter) (events []eventView, next int64, err error) {
	const looks = 4
	ctx, cancel := r.within()
	defer cancel()
	events = []eventView{}
	for range looks {
		page, err := r.console.admin.List(ctx, filter)
		if err != nil {
			return nil, 0, err
		}
		for _, record := range page.Records {
			events = append(events, newRecord(record))
		}
		next = page.Next
		if filter.After, filter.Limit = page.Next, perPage-len(events); next == 0 || filter.Limit <= 0 {
			break
		}
	}
	return events, next, nil
}

func (c *Console) events(r *request) (any, error) {
	r.page.Title, r.page.Here = "Events", "events"
	names, err := r.names()
	if err != nil {
		return nil, err
	}
	v := eventsView{Subscriptions: names, Events: []eventView{}, States: []relay.State{relay.Pending, relay.Retrying, relay.Behind, relay.Dead, relay.Published}}
	form := r.URL.Query()
	if form.Get("subscription") == "" && len(names) > 0 && !slices.Contains(names, relay.DefaultSubscription) {
		form.Set("subscription", names[0])
	}
	var filter relay.Filter
	if v.Filter, filter, err = r.filter(form); err != nil || len(names) == 0 {
		return v, err
	}
	v.Go = v.Filter.query(0)
	if v.Events, v.Next, err = r.listed(filter); err != nil {
		return nil, err
	}
	if v.Next != 0 {
		v.NextQuery = v.Filter.query(v.Next)
	}
	return v, nil
}

// oneView is one event.
type oneView struct {
	eventView
	// Payload is the text of one that is UTF-8, PayloadBase64 the bytes of any other; of a long one the beginning.
	Payload       *string `json:"payload,omitempty"`
	PayloadBase64 *string `json:"payload_base64,omitempty"`
	PayloadCut    bool    `json:"payload_cut,omitempty"`
	CanShow       bool    `json:"-"`
	Shown         bool    `json:"-"`
	Text          string  `json:"-"`
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
	v := oneView{eventView: r.newShown(s), CanShow: c.cfg.ShowPayloads && r.may(Payload, ""), Shown: asked}
	if asked {
		v.PayloadCut = int64(len(s.Payload)) < s.PayloadSize
		text := string(s.Payload)
		if v.Text = graphic(text, true); v.PayloadCut {
			v.Text += "… (" + number(s.PayloadSize) + " bytes)"
		}
		if utf8.ValidString(text) {
			v.Payload = &text
		} else {
			encoded := base64.StdEncoding.EncodeToString(s.Payload)
			v.PayloadBase64 = &encoded
		}
	}
	return v, nil
}
