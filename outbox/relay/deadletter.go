package relay

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
)

// Intervention is what somebody did with a dead letter, or with a subscription.
type Intervention struct {
	Number int64     `json:"number"` // later ones have higher numbers
	At     time.Time `json:"at"`
	By
	Action    string    `json:"action"`               // "retry", "discard", "replay" or "drop"
	EventID   uuid.UUID `json:"event_id,omitzero"`    // zero: of the subscription as a whole
	Attempts  int       `json:"attempts"`             // of the event, until then
	LastError string    `json:"last_error,omitempty"` // of the event, until then; a very long one is cut
	Detail    string    `json:"detail,omitempty"`     // what else there is to know, such as how far a replay went back
}

// Retry makes dead letters of a subscription pending again, with their attempts counted anew. It returns the ids of those that
// were dead; the others are left as they are. Events of the same aggregate that came later may have been published meanwhile.
// Each thousand is a transaction of its own: with an error come the ids of those before it.
func (a *Admin) Retry(ctx context.Context, by By, ids ...uuid.UUID) ([]uuid.UUID, error) {
	return a.intervene(ctx, "retry", by, ids, fmt.Sprintf("UPDATE %s AS p SET dead_at = NULL, next_attempt_at = %s, attempts = 0, crashes = 0", a.store.parked, a.store.clock()))
}

// Discard gives dead letters of a subscription up: nobody gets them. It returns the ids of those that were dead; the others are
// left as they are, and so is one that a replay has put before the cursor again, until a relay has passed it: without its
// record it would be published. Each thousand is a transaction of its own: with an error come the ids of those before it.
func (a *Admin) Discard(ctx context.Context, by By, ids ...uuid.UUID) ([]uuid.UUID, error) {
	return a.intervene(ctx, "discard", by, ids, fmt.Sprintf("DELETE FROM %s AS p", a.store.parked))
}

// chunk is how many events one transaction of an operator's changes.
const chunk = 1000

func (a *Admin) intervene(ctx context.Context, action string, by By, ids []uuid.UUID, do string) ([]uuid.UUID, error) {
	if err := by.validate(action); err != nil {
		return nil, err
	}
	if _, err := a.subscribed(ctx, a.store, by.Subscription); err != nil {
		return nil, fmt.Errorf("relay: %s: %w", action, err)
	}
	var done []uuid.UUID
	for part := range slices.Chunk(ids, chunk) {
		var changed []uuid.UUID
		err := a.store.inTx(ctx, func(ctx context.Context, tx endstate.Tx) (err error) {
			changed, err = a.interveneIn(ctx, tx, action, by, part, do)
			return err
		})
		if err != nil {
			return done, fmt.Errorf("relay: %s: %w", action, err)
		}
		done = append(done, changed...)
	}
	return done, nil
}

func (a *Admin) interveneIn(ctx context.Context, tx endstate.Tx, action string, by By, ids []uuid.UUID, do string) ([]uuid.UUID, error) {
	list := toJSON(ids)
	passed := ""
	if action == "discard" {
		passed = fmt.Sprintf(" AND EXISTS (SELECT 1 FROM %s c WHERE c.subscription = p.subscription AND c.partition = p.partition AND c.position >= p.seq)", a.store.cursors)
	}
	meant := func(list, subscription string) string {
		return fmt.Sprintf("WHERE p.event_id IN (%s) AND p.subscription = CAST(%s AS text) AND p.dead_at IS NOT NULL%s", a.store.elements(list, "uuid"), subscription, passed)
	}
	// Recorded first: SQLite's write lock, or the rows' locks, are then held for both.
	if _, err := tx.Exec(ctx, fmt.Sprintf(`INSERT INTO %s (subscription, action, event_id, by_whom, reason, attempts, last_error)
SELECT subscription, CAST($1 AS text), event_id, CAST($2 AS text), CAST($3 AS text), attempts, last_error FROM %s AS p %s`,
		a.store.audit, a.store.parked, meant("$4", "$5")+a.store.forUpdate("")), action, by.Who, by.Why, list, by.Subscription); err != nil {
		return nil, err
	}
	var done []uuid.UUID
	err := each(ctx, tx, func(row pgx.Row) error {
		var text string
		if err := row.Scan(&text); err != nil {
			return err
		}
		id, err := uuid.Parse(text)
		done = append(done, id)
		return err
	}, do+" "+meant("$1", "$2")+" RETURNING CAST(event_id AS text)", list, by.Subscription)
	return done, err
}

// History returns what people did, the latest first: at most limit entries, only those whose numbers are below before unless that is
// 0, and only of that subscription unless it is empty. Next is the before with which the history goes on; 0 if this was its end. A
// subscription's entries are looked for among some thousand at a time, so that fewer than limit may come with a next, or none.
func (a *Admin) History(ctx context.Context, subscription string, before int64, limit int) (list []Intervention, next int64, err error) {
	if limit < 1 || limit > looked {
		return nil, 0, fmt.Errorf("%w: history: limit is %d; it goes from 1 to %d", outbox.ErrConfig, limit, looked)
	}
	if err := texts("history: ", "subscription", subscription); err != nil {
		return nil, 0, err
	}
	if before == 0 {
		before = math.MaxInt64
	}
	window := fmt.Sprintf("SELECT * FROM %s WHERE number < CAST($1 AS bigint) ORDER BY number DESC LIMIT %d", a.store.audit, looked)
	if subscription != "" {
		var n int
		err = a.store.row(ctx, []any{&n, &next}, fmt.Sprintf("SELECT count(*), coalesce(min(number), 0) FROM (%s) endstate_window", window), before)
		if n < looked {
			next = 0
		}
	}
	if err == nil {
		list, err = a.interventions(ctx, fmt.Sprintf("(%s) endstate_window WHERE CAST($2 AS text) IN ('', subscription) ORDER BY number DESC LIMIT CAST($3 AS bigint)", window), before, subscription, limit)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("relay: history: %w", err)
	}
	if len(list) == limit {
		next = list[limit-1].Number
	}
	return list, next, nil
}

// interventions reads those that stand in a source, with its condition and order.
func (a *Admin) interventions(ctx context.Context, source string, args ...any) ([]Intervention, error) {
	var list []Intervention
	err := a.store.rows(ctx, func(row pgx.Row) error {
		var i Intervention
		var at moment
		var id string
		err := row.Scan(&i.Number, &at, &i.Subscription, &i.Action, &id, &i.Who, &i.Why, &i.Attempts, &i.LastError, &i.Detail)
		i.At = at.Time
		if err == nil && id != "" {
			i.EventID, err = uuid.Parse(id)
		}
		list = append(list, i)
		return err
	}, fmt.Sprintf("SELECT number, at, subscription, action, coalesce(CAST(event_id AS text), ''), %s, %s, coalesce(attempts, 0), %s, %s FROM ",
		cut("by_whom"), cut("reason"), cut("coalesce(last_error, '')"), cut("coalesce(detail, '')"))+source, args...)
	return list, err
}
