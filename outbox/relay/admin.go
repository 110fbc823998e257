package relay

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// Admin is for people, and for the programs they look through: what each subscription waits for, what is dead, and what to do
// about it. Whatever it asks goes by an index and looks at a bounded number of rows. It is safe for concurrent use, and beside
// any number of relays.
type Admin struct {
	store *store // named, lest its statements become methods of an Admin's
}

// NewAdmin returns an Admin on a pgx pool; a nil cfg is for the default outbox. It sends nothing.
func NewAdmin(pool *pgxpool.Pool, cfg *Config) (*Admin, error) {
	return newAdmin(database{pool: pool}, cfg)
}

// NewAdminSQL is NewAdmin on database/sql, for PostgreSQL and SQLite.
func NewAdminSQL(db *sql.DB, cfg *Config) (*Admin, error) { return newAdmin(database{sql: db}, cfg) }

func newAdmin(db database, cfg *Config) (*Admin, error) {
	s, err := newStore(db, cfg)
	if err != nil {
		return nil, err
	}
	return &Admin{s}, nil
}

// Purge deletes events that every subscription has published longer than olderThan ago, in bounded batches that stop no relay
// and no other purge, and returns how many. Their dedup keys are free again: what must be deduplicated for longer is the
// ledger's task.
func (a *Admin) Purge(ctx context.Context, olderThan time.Duration) (int64, error) {
	if olderThan < 0 {
		return 0, fmt.Errorf("%w: olderThan is negative", outbox.ErrConfig)
	}
	n, err := a.store.purge(ctx, olderThan, 0)
	if err != nil {
		return n, fmt.Errorf("relay: purge: %w", err)
	}
	return n, nil
}

// Subscriptions returns the names of all subscriptions, sorted.
func (a *Admin) Subscriptions(ctx context.Context) ([]string, error) {
	list, err := a.subscriptionList(ctx, a.store)
	if err != nil {
		return nil, fmt.Errorf("relay: subscriptions: %w", err)
	}
	return namesOf(list), nil
}

func namesOf(list []subscription) []string {
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = s.Name
	}
	return names
}

// Errors of an Admin. They arrive wrapped.
var (
	// ErrNotFound is returned for an event that isn't in the outbox.
	ErrNotFound = errors.New("relay: no such event")

	// ErrNoSubscription is returned for a subscription that no relay ever joined, or that was dropped.
	ErrNoSubscription = errors.New("relay: no such subscription")

	// ErrLive is returned by Drop while a relay publishes the subscription.
	ErrLive = errors.New("relay: a relay publishes this subscription")
)

// By is who does something to a subscription, and why. All fields are required; they are recorded for good.
type By struct {
	Subscription string `json:"subscription"` // whose events are meant
	Who          string `json:"by"`           // such as a user's name; at most 1,000 bytes
	Why          string `json:"reason"`       // at most 1,000 bytes
}

// maxReason is the limit on By's fields, in bytes.
const maxReason = 1000

func (b By) validate(action string) error {
	for _, f := range []struct{ name, text string }{{"Subscription", b.Subscription}, {"Who", b.Who}, {"Why", b.Why}} {
		if f.text == "" {
			return fmt.Errorf("%w: %s: By.%s is empty; who did what, and why, is recorded", outbox.ErrConfig, action, f.name)
		}
		if len(f.text) > maxReason {
			return fmt.Errorf("%w: %s: By.%s is %d bytes long, the limit is %d", outbox.ErrConfig, action, f.name, len(f.text), maxReason)
		}
		if err := sqltx.CheckText(f.text); err != nil {
			return fmt.Errorf("%w: %s: By.%s %w", outbox.ErrConfig, action, f.name, err)
		}
	}
	return nil
}

// texts says which of some fields, each with its value behind it, no text in the tables can be.
func texts(of string, fields ...string) error {
	for field := range slices.Chunk(fields, 2) {
		if err := sqltx.CheckText(field[1]); err != nil {
			return fmt.Errorf("%w: %s%s %w", outbox.ErrConfig, of, field[0], err)
		}
	}
	return nil
}

// record writes down what is done to a subscription as a whole.
func (a *Admin) record(ctx context.Context, tx endstate.Querier, action string, by By, detail string) error {
	_, err := tx.Exec(ctx, fmt.Sprintf(`INSERT INTO %s (subscription, action, by_whom, reason, detail)
VALUES (CAST($1 AS text), CAST($2 AS text), CAST($3 AS text), CAST($4 AS text), CAST($5 AS text))`, a.store.audit), by.Subscription, action, by.Who, by.Why, detail)
	return err
}

// subscription is a row of the subscriptions' table.
type subscription struct {
	Name, Destination string
	types             types
}

func (a *Admin) subscriptionList(ctx context.Context, q endstate.Querier) (list []subscription, err error) {
	err = each(ctx, q, func(row pgx.Row) error {
		var s subscription
		var patterns string
		if err := row.Scan(&s.Name, &s.Destination, &patterns); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(patterns), &s.types); err != nil {
			return fmt.Errorf("types of subscription %q: %w", s.Name, err)
		}
		list = append(list, s)
		return nil
	}, "SELECT name, "+cut("destination")+", types FROM "+a.store.subscriptions+" ORDER BY name")
	return list, err
}

// subscribed returns the types that a subscription is for, or ErrNoSubscription.
func (a *Admin) subscribed(ctx context.Context, q endstate.Querier, name string) (types, error) {
	all, err := a.subscriptionList(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if s.Name == name {
			return s.types, nil
		}
	}
	return nil, fmt.Errorf("%w: %q; there are %s", ErrNoSubscription, name, cmp.Or(strings.Join(namesOf(all), ", "), "none"))
}

// eachPartition joins, by UNION ALL, a subselect for each partition, whose number stands in its text as %[1]d.
func eachPartition(format string, args ...any) string {
	parts := make([]string, outbox.Partitions)
	for p := range parts {
		parts[p] = "SELECT * FROM (" + fmt.Sprintf(format, append([]any{p}, args...)...) + ") endstate_" + fmt.Sprint(p)
	}
	return strings.Join(parts, "\n\tUNION ALL ")
}

// types are the patterns of the event types that a subscription is for; none: all.
type types []string

// matches reports whether an event type is one of them.
func (t types) matches(eventType string) bool {
	return len(t) == 0 || slices.ContainsFunc(t, func(pattern string) bool {
		prefix, any := strings.CutSuffix(pattern, "*")
		return eventType == pattern || any && strings.HasPrefix(eventType, prefix)
	})
}

// condition is that in SQL, of a column.
func (t types) condition(d sqltx.Dialect, column string) string {
	if len(t) == 0 {
		return column + " IS NOT NULL"
	}
	terms := make([]string, len(t))
	for i, pattern := range t {
		if prefix, any := strings.CutSuffix(pattern, "*"); any {
			terms[i] = fmt.Sprintf("substr(%s, 1, %d) = %s", column, utf8.RuneCountInString(prefix), d.Literal(prefix))
		} else {
			terms[i] = column + " = " + d.Literal(pattern)
		}
	}
	return "(" + strings.Join(terms, " OR ") + ")"
}
