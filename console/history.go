package console

import (
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox/relay"
)

// actView is what somebody did.
type actView struct {
	At           time.Time  `json:"at"`
	Subscription string     `json:"subscription"`
	Action       string     `json:"action"`
	EventID      *uuid.UUID `json:"event_id"` // null: of the subscription as a whole
	By           string     `json:"by"`
	Reason       string     `json:"reason"`
	Attempts     int        `json:"attempts"`
	LastError    string     `json:"last_error,omitempty"`
	Detail       string     `json:"detail,omitempty"`
}

// acts are those that the user may see.
func (r *request) acts(list []relay.Intervention) []actView {
	views := []actView{}
	for _, i := range list {
		if !r.may(View, i.Subscription) {
			continue
		}
		v := actView{i.At.UTC(), i.Subscription, i.Action, nil, i.Who, i.Why, i.Attempts, i.LastError, i.Detail}
		if i.EventID != uuid.Nil {
			v.EventID = &i.EventID
		}
		views = append(views, v)
	}
	return views
}

// maxActs is how many acts the history goes back.
const maxActs = 500

func (c *Console) history(r *request) (any, error) {
	r.page.Title, r.page.Here = "History", "history"
	if err := r.must(View, ""); err != nil {
		return nil, err
	}
	ctx, cancel := r.within()
	defer cancel()
	list, err := c.admin.History(ctx, "", maxActs)
	if err != nil {
		return nil, err
	}
	return struct {
		Acts []actView `json:"history"` // the latest first
	}{r.acts(list)}, nil
}
