package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// Intervention is what somebody did with a dead letter.
type Intervention struct {
	At        time.Time
	Action    string // "retry" or "discard"
	EventID   uuid.UUID
	By        string // who
	Why       string
	Attempts  int    // of the event, until then
	LastError string // of the event, until then
}

// Retry makes dead letters pending again, with their attempts counted anew, and records who did it and why. It returns the
// ids of those that were dead; the others are left as they are. Events of the same aggregate that came later may have been
// published meanwhile. Each thousand is a transaction of its own: with an error come the ids of those before it.
func (a *Admin) Retry(ctx context.Context, by, why string, ids ...uuid.UUID) ([]uuid.UUID, error) {
	return a.intervene(ctx, "retry", by, why, ids, "UPDATE %s SET dead_at = NULL, next_attempt_at = "+a.clock()+", attempts = 0, crashes = 0")
}

// Discard gives dead letters up for good: the subscription is done with them, and others aren't touched. It records who did it and why. It returns the ids of those that were dead; the others are
// left as they are. Each thousand is a transaction of its own: with an error come the ids of those before it.
func (a *Admin) Discard(ctx context.Context, by, why string, ids ...uuid.UUID) ([]uuid.UUID, error) {
	return a.intervene(ctx, "discard", by, why, ids, "DELETE FROM %s")
}

// maxReason is the limit on by and why, in bytes.
const maxReason = 1000

func (a *Admin) intervene(ctx context.Context, action, by, why string, ids []uuid.UUID, do string) ([]uuid.UUID, error) {
	for name, text := range map[string]string{"by": by, "why": why} {
		if text == "" {
			return nil, fmt.Errorf("%w: %s: %q is empty: who did it, and why, is recorded", outbox.ErrConfig, action, name)
		}
		if len(text) > maxReason {
			return nil, fmt.Errorf("%w: %s: %q is %d bytes long, the limit is %d", outbox.ErrConfig, action, name, len(text), maxReason)
		}
		if err := sqltx.CheckText(text); err != nil {
			return nil, fmt.Errorf("%w: %s: %q %w", outbox.ErrConfig, action, name, err)
		}
	}
	var done []uuid.UUID
	for chunk := range slices.Chunk(ids, 1000) {
		var changed []uuid.UUID
		err := a.inTx(ctx, func(tx endstate.Tx) (err error) {
			changed, err = a.interveneIn(ctx, tx, action, by, why, chunk, do)
			return err
		})
		if err != nil {
			return done, fmt.Errorf("relay: %s: %w", action, err)
		}
		done = append(done, changed...)
	}
	return done, nil
}

func (a *Admin) interveneIn(ctx context.Context, tx endstate.Tx, action, by, why string, ids []uuid.UUID, do string) ([]uuid.UUID, error) {
	list, _ := json.Marshal(ids) // can't fail
	lock := " FOR UPDATE"
	if a.sqlite() {
		lock = ""
	}
	// Recorded first: SQLite's write lock, or the rows' locks, are then held for both.
	dead := "subscription = CAST($1 AS text) AND dead_at IS NOT NULL AND event_id IN (" + a.elements("$2", "uuid") + ")"
	if _, err := tx.Exec(ctx, fmt.Sprintf(`INSERT INTO %s (subscription, action, event_id, by_whom, reason, attempts, last_error)
SELECT subscription, CAST($3 AS text), event_id, CAST($4 AS text), CAST($5 AS text), attempts, last_error FROM %s WHERE `+dead+lock, a.audit, a.parked), a.cfg.Subscription, string(list), action, by, why); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, strings.Replace(do, "%s", a.parked, 1)+" WHERE "+dead+" RETURNING CAST(event_id AS text)", a.cfg.Subscription, string(list))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var done []uuid.UUID
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		id, err := uuid.Parse(text)
		if err != nil {
			return nil, err
		}
		done = append(done, id)
	}
	return done, rows.Err()
}

// history returns what was done with an event, in that order.
func (a *Admin) history(ctx context.Context, id uuid.UUID) ([]Intervention, error) {
	rows, err := a.Query(ctx, fmt.Sprintf("SELECT at, action, by_whom, reason, coalesce(attempts, 0), coalesce(last_error, '') FROM %s WHERE subscription = CAST($1 AS text) AND event_id = %s ORDER BY number",
		a.audit, a.uuid("CAST($2 AS text)")), a.cfg.Subscription, id.String())
	if err != nil {
		return nil, fmt.Errorf("relay: history of %s: %w", id, err)
	}
	defer rows.Close()
	var list []Intervention
	for rows.Next() {
		i := Intervention{EventID: id}
		var at moment
		if err := rows.Scan(&at, &i.Action, &i.By, &i.Why, &i.Attempts, &i.LastError); err != nil {
			return nil, fmt.Errorf("relay: history of %s: %w", id, err)
		}
		i.At = at.Time
		list = append(list, i)
	}
	return list, rows.Err()
}
