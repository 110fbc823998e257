package console

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/endstate-go/endstate/outbox/relay"
)

// seenActs are those that the user may see.
func (r *request) seenActs(list []relay.Intervention) []relay.Intervention {
	return slices.DeleteFunc(list, func(i relay.Intervention) bool { return !r.may(View, i.Subscription) })
}

// historyPage is what people did, the latest first.
type historyPage struct {
	Acts []relay.Intervention `json:"history"`
	Next int64                `json:"next"` // the parameter "before" of the next page; 0: there is none
}

func (c *Console) history(r *request) (any, error) {
	r.page.Title, r.page.Here = "History", "history"
	if err := r.must(View, ""); err != nil {
		return nil, err
	}
	before, err := position(r.URL.Query().Get("before"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := r.within()
	defer cancel()
	list, next, err := c.admin.History(ctx, "", before, perPage)
	if err != nil {
		return nil, err
	}
	return historyPage{append([]relay.Intervention{}, r.seenActs(list)...), next}, nil
}

// position is where a list goes on; 0: at its beginning.
func position(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return 0, failure{http.StatusUnprocessableEntity, "The page can't be read."}
	}
	return n, nil
}
