package console

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// aggregateView is what is known of one aggregate.
type aggregateView struct {
	Type     string        `json:"type"`
	Key      string        `json:"key"`
	Types    []string      `json:"types"`           // of the aggregates that the ledger knows
	State    *stateView    `json:"state,omitempty"` // where a guard is configured
	Entries  []entryView   `json:"ledger"`
	Events   []relay.Shown `json:"events"`
	Inbox    []inboxView   `json:"inbox"`
	Timeline []momentView  `json:"timeline"`
	Before   int64         `json:"before"` // the parameter "before" with which to look further back; 0: all was looked at
	Since    time.Time     `json:"looked_back_to,omitzero"`
	Near     time.Time     `json:"looked_near,omitzero"`
	Asked    bool          `json:"-"`
	Choices  []entryView   `json:"choices,omitempty"` // aggregates of several types have this key
}

type stateView struct {
	State   string `json:"state"`
	Final   bool   `json:"final"`
	Problem string `json:"problem,omitempty"`
}

type entryView struct {
	Type    string    `json:"type"`
	Key     string    `json:"key"`
	Encoded string    `json:"encoded_key"`
	State   string    `json:"state"`
	Trigger string    `json:"trigger"`
	At      time.Time `json:"at"`
	Attempt uuid.UUID `json:"attempt"` // the winning call's token
	Digest  string    `json:"digest,omitempty"`
}

type inboxView struct {
	Consumer string    `json:"consumer"`
	Key      string    `json:"key"`
	EventID  uuid.UUID `json:"event_id"`
	State    string    `json:"state"`
	Attempts int       `json:"attempts"`
	At       time.Time `json:"at"`
	Error    string    `json:"error,omitempty"`
}

// momentView is a line of the timeline.
type momentView struct {
	At   time.Time `json:"at"`
	What string    `json:"what"` // finalized, written, published, failed, dead, retry, discard, handled, …
	Text string    `json:"text"`
	ID   uuid.UUID `json:"event_id,omitzero"`
}

func (c *Console) aggregate(r *request) (any, error) {
	r.page.Title, r.page.Here = "Aggregate", "aggregate"
	if err := r.must(View, ""); err != nil {
		return nil, err
	}
	form := r.URL.Query()
	v := &aggregateView{Type: form.Get("type"), Key: form.Get("key"), Types: []string{}, Entries: []entryView{}, Events: []relay.Shown{}, Inbox: []inboxView{}, Timeline: []momentView{}}
	v.Asked = v.Key != ""
	before, err := position(form.Get("before"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := r.within()
	defer cancel()
	if err := c.readLedger(ctx, v); err != nil {
		return nil, err
	}
	if len(v.Choices) > 0 || v.Type == "" || v.Key == "" {
		return v, nil
	}
	if err := c.readEvents(ctx, r, v, before); err != nil {
		return nil, err
	}
	c.readState(ctx, v)
	if err := c.readInbox(ctx, v); err != nil {
		return nil, err
	}
	v.tell()
	return v, nil
}

// readLedger reads who finalized the aggregate, and which types of aggregates there are.
func (c *Console) readLedger(ctx context.Context, v *aggregateView) error {
	return c.db.read(ctx, func(q endstate.Querier) error {
		there, err := c.db.has(ctx, q, c.cfg.Ledger.Schema, c.cfg.Ledger.Table)
		if err != nil || !there {
			return err
		}
		types, err := c.cfg.Ledger.Aggregates(ctx, q)
		if err != nil {
			return err
		}
		v.Types = append(v.Types, types...)
		if v.Key == "" {
			return nil
		}
		found, err := c.cfg.Ledger.Find(ctx, q, v.Type, v.Key)
		if err != nil {
			return err
		}
		for _, e := range found {
			v.Entries = append(v.Entries, entryView{e.Aggregate, e.Key.String(), e.Key.Encode(), cut(e.State, shownLength), cut(e.Provenance.Trigger, shownLength), e.Provenance.At.UTC(), e.Provenance.Token, hex.EncodeToString(e.Provenance.Digest)})
		}
		switch kinds := v.kinds(); {
		case v.Type == "" && kinds == 1:
			v.Type = v.Entries[0].Type
		case v.Type == "" && kinds > 1:
			v.Choices, v.Entries = v.Entries, []entryView{}
		}
		if len(v.Entries) == 1 {
			v.Key = v.Entries[0].Key // as events have it
		}
		return nil
	})
}

func (v *aggregateView) kinds() int {
	types := map[string]bool{}
	for _, e := range v.Entries {
		types[e.Type] = true
	}
	return len(types)
}

// readEvents looks for the aggregate's events among the latest, and about the time when it was finalized.
func (c *Console) readEvents(ctx context.Context, r *request, v *aggregateView, before int64) error {
	events, further, since, err := c.admin.Aggregate(ctx, v.Type, v.Key, before, time.Time{})
	if err != nil {
		return err
	}
	v.Before, v.Since = further, since
	if len(v.Entries) > 0 && before == 0 && further != 0 && v.Entries[0].At.Before(since) {
		near, _, _, err := c.admin.Aggregate(ctx, v.Type, v.Key, 0, v.Entries[0].At)
		if err != nil {
			return err
		}
		v.Near = v.Entries[0].At
		events = append(events, near...)
	}
	slices.SortFunc(events, func(a, b relay.Shown) int { return cmp.Compare(a.Seq, b.Seq) })
	events = slices.CompactFunc(events, func(a, b relay.Shown) bool { return a.Seq == b.Seq })
	for _, e := range events {
		v.Events = append(v.Events, r.seen(e))
	}
	return nil
}

// readState asks the guard that is configured for the aggregate's type.
func (c *Console) readState(ctx context.Context, v *aggregateView) {
	g, there := c.cfg.Guards[v.Type]
	if !there {
		return
	}
	key, err := keyOf(v.Key), error(nil)
	if g.Key != nil {
		key, err = g.Key(v.Key)
	}
	var record guard.Record
	if err == nil {
		err = c.db.read(ctx, func(q endstate.Querier) (err error) {
			record, err = g.Read(ctx, q, guard.Ref{Aggregate: v.Type, Key: key})
			return err
		})
	}
	v.State = &stateView{State: cut(record.State, shownLength), Final: record.Final}
	if errors.Is(err, guard.ErrNotFound) {
		v.State.Problem = "There is no such row."
	} else if err != nil {
		c.cfg.Logger.ErrorContext(ctx, "console: an aggregate's state can't be read", "aggregate", v.Type, "key", v.Key, "error", err)
		v.State.Problem = "It can't be read: the service's log has the reason."
	}
}

// keyOf is the key that a text most likely means.
func keyOf(text string) guard.Key {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && strconv.FormatInt(n, 10) == text {
		return guard.Int(n)
	}
	if key, err := guard.ParseUUID(text); err == nil {
		return key
	}
	return guard.Text(text)
}

// readInbox reads what consumers whose inbox is in this database have of the events.
func (c *Console) readInbox(ctx context.Context, v *aggregateView) error {
	if len(v.Events) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(v.Events))
	for i, e := range v.Events {
		ids[i] = e.ID
	}
	return c.db.read(ctx, func(q endstate.Querier) error {
		there, err := c.db.has(ctx, q, c.cfg.InboxSchema, c.cfg.InboxTable)
		if err != nil || !there {
			return err
		}
		found, err := inbox.Find(ctx, q, c.cfg.InboxSchema, c.cfg.InboxTable, ids...)
		for _, f := range found {
			v.Inbox = append(v.Inbox, inboxView{f.Consumer, f.Key, f.EventID, f.State, f.Attempts, f.At.UTC(), cut(f.Err, shownLength)})
		}
		return err
	})
}

// tell makes the timeline.
func (v *aggregateView) tell() {
	say := func(at time.Time, id uuid.UUID, what, format string, args ...any) {
		if !at.IsZero() {
			v.Timeline = append(v.Timeline, momentView{at, what, fmt.Sprintf(format, args...), id})
		}
	}
	for _, e := range v.Entries {
		say(e.At, uuid.Nil, "finalized", "in state %s by trigger %s, attempt %s", e.State, e.Trigger, e.Attempt)
	}
	for _, e := range v.Events {
		say(e.CreatedAt, e.ID, "written", "%s, number %d", e.Type, e.Seq)
		for _, d := range e.Deliveries {
			say(d.ParkedAt, e.ID, "set aside", "%s, for %s: %s", e.Type, d.Subscription, cmp.Or(d.LastError, "behind an earlier event of the aggregate"))
			say(d.DeadAt, e.ID, "dead", "%s, for %s, after %d attempts: %s", e.Type, d.Subscription, d.Attempts, d.LastError)
			say(d.PublishedBy, e.ID, "published", "%s, for %s, by this time at the latest", e.Type, d.Subscription)
			if d.State == relay.Retrying {
				say(d.NextAttemptAt, e.ID, "next attempt", "%s, for %s, after %d attempts", e.Type, d.Subscription, d.Attempts)
			}
		}
		for _, a := range e.History {
			say(a.At, e.ID, a.Action, "%s, for %s, by %s: %s", e.Type, a.Subscription, a.Who, a.Why)
		}
	}
	for _, i := range v.Inbox {
		say(i.At, i.EventID, i.State, "by consumer %s, attempt %d %s", i.Consumer, i.Attempts, i.Error)
	}
	slices.SortStableFunc(v.Timeline, func(a, b momentView) int { return a.At.Compare(b.At) })
}
