package relay

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/outbox"
)

// Admin is for people, and for the programs they look through: what waits in a subscription, what is dead, and what to do about
// it. It is safe for concurrent use, and beside any number of relays.
type Admin struct {
	*store
}

// AdminConfig says which subscription of which outbox an Admin is for.
type AdminConfig struct {
	// Outbox names the table. The zero Writer is endstate_outbox.
	Outbox outbox.Writer
	// Dialect is "postgres" or "sqlite", for NewAdminSQL. Empty: told by the driver.
	Dialect string
	// Subscription is whose events it is about. Default "default".
	Subscription string
}

// NewAdmin returns an Admin; a nil cfg is for the default outbox and subscription. It sends nothing.
func NewAdmin(pool *pgxpool.Pool, cfg *AdminConfig) (*Admin, error) {
	db, err := openPool(pool)
	return newAdmin(db, err, cfg)
}

// NewAdminSQL is NewAdmin on database/sql.
func NewAdminSQL(db *sql.DB, cfg *AdminConfig) (*Admin, error) {
	var dialect string
	if cfg != nil {
		dialect = cfg.Dialect
	}
	opened, err := openSQL(db, dialect)
	return newAdmin(opened, err, cfg)
}

func newAdmin(db database, err error, cfg *AdminConfig) (*Admin, error) {
	if cfg == nil {
		cfg = &AdminConfig{}
	}
	if err != nil {
		return nil, err
	}
	c, err := (&Config{Outbox: cfg.Outbox, Subscription: cfg.Subscription}).withDefaults()
	if err != nil {
		return nil, err
	}
	return &Admin{newStore(db, &c)}, nil
}

// State is what an event waits for.
type State string

// The states of an event.
const (
	Pending   State = "pending"   // it goes out as soon as a relay comes to it
	Retrying  State = "retrying"  // it failed, and waits for its next attempt
	Behind    State = "behind"    // it waits behind a failed event of its aggregate
	Dead      State = "dead"      // given up: a dead letter
	Published State = "published" // done
)

// The conditions of the states, on an event e, the cursor c of its partition, and the parked row p.
var stateConditions = map[State]string{
	Pending:   "p.seq IS NULL AND (c.position IS NULL OR e.seq > c.position)",
	Retrying:  "p.dead_at IS NULL AND p.next_attempt_at IS NOT NULL",
	Behind:    "p.seq IS NOT NULL AND p.dead_at IS NULL AND p.next_attempt_at IS NULL",
	Dead:      "p.dead_at IS NOT NULL",
	Published: "p.seq IS NULL AND e.seq <= c.position",
}

// Record is an event with what became of it. Times that don't apply are zero.
type Record struct {
	outbox.Event
	Seq           int64
	Partition     int
	State         State
	CreatedAt     time.Time
	Attempts      int // failed publications
	Crashes       int // relays that died while they published this event alone
	NextAttemptAt time.Time
	LastError     string
	DeadAt        time.Time
}

// Filter says which events to list. Zero fields match all. A State is found by its index; the other fields are compared
// with event after event of that state.
type Filter struct {
	State         State
	AggregateType string
	AggregateID   string
	Type          string
	AfterSeq      int64 // for the next page: the last Record's Seq
	Limit         int   // default 100, at most 10,000
}

// ErrNotFound is returned for an event that isn't in the outbox.
var ErrNotFound = errors.New("relay: no such event")

// records is a query of records, without their payloads; more are further columns, and conditions go by e, c and p.
func (a *Admin) records(more, conditions string) string {
	return fmt.Sprintf(`SELECT CAST(e.id AS text), e.aggregate_type, e.aggregate_id, e.type, e.content_type, CAST(e.headers AS text), e.occurred_at, coalesce(e.dedup_key, ''), e.schema_version,
	e.seq, e.partition, e.created_at, coalesce(p.attempts, 0), coalesce(p.crashes, 0), p.next_attempt_at, coalesce(p.last_error, ''), p.dead_at,
	CASE WHEN p.dead_at IS NOT NULL THEN 'dead' WHEN p.next_attempt_at IS NOT NULL THEN 'retrying' WHEN p.seq IS NOT NULL THEN 'behind' WHEN c.position IS NULL OR e.seq > c.position THEN 'pending' ELSE 'published' END%s
FROM %s e LEFT JOIN %s c ON c.subscription = CAST($1 AS text) AND c.partition = e.partition
	LEFT JOIN %s p ON p.subscription = CAST($1 AS text) AND p.partition = e.partition AND p.seq = e.seq
WHERE %s`, more, a.events, a.cursors, a.parked, conditions)
}

// List returns events in the order of their Seq, without their payloads.
func (a *Admin) List(ctx context.Context, filter Filter) ([]Record, error) {
	limit := filter.Limit
	if limit == 0 {
		limit = 100
	}
	if limit < 0 || limit > 10_000 {
		return nil, fmt.Errorf("%w: Filter.Limit is %d", outbox.ErrConfig, filter.Limit)
	}
	args := []any{a.cfg.Subscription, filter.AfterSeq, limit}
	conditions := []string{"e.seq > CAST($2 AS bigint)"}
	if filter.State != "" {
		condition, known := stateConditions[filter.State]
		if !known {
			return nil, fmt.Errorf("%w: Filter.State is %q", outbox.ErrConfig, filter.State)
		}
		conditions = append(conditions, condition)
	}
	for _, f := range []struct{ column, value string }{
		{"aggregate_type", filter.AggregateType}, {"aggregate_id", filter.AggregateID}, {"type", filter.Type},
	} {
		if f.value != "" {
			args = append(args, f.value)
			conditions = append(conditions, fmt.Sprintf("e.%s = CAST($%d AS text)", f.column, len(args)))
		}
	}
	rows, err := a.Query(ctx, a.records("", strings.Join(conditions, " AND ")+" ORDER BY e.seq LIMIT CAST($3 AS bigint)"), args...)
	if err != nil {
		return nil, fmt.Errorf("relay: list: %w", err)
	}
	defer rows.Close()
	var records []Record
	for rows.Next() {
		r, err := scanRecord(rows)
		if err != nil {
			return nil, fmt.Errorf("relay: list: %w", err)
		}
		records = append(records, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("relay: list: %w", err)
	}
	return records, nil
}

// Show returns an event with its payload, and what people did with it while it was a dead letter.
func (a *Admin) Show(ctx context.Context, id uuid.UUID) (Record, []Intervention, error) {
	var payload []byte
	row := a.QueryRow(ctx, a.records(", e.payload", "e.id = "+a.uuid("CAST($2 AS text)")), a.cfg.Subscription, id.String())
	r, err := scanRecord(row, &payload)
	if errors.Is(err, pgx.ErrNoRows) {
		return Record{}, nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if err != nil {
		return Record{}, nil, fmt.Errorf("relay: show: %w", err)
	}
	r.Payload = payload
	history, err := a.history(ctx, id)
	return r, history, err
}

func scanRecord(row pgx.Row, more ...any) (Record, error) {
	var r Record
	var id, headers, state string
	var occurred, created, next, dead moment
	err := row.Scan(append([]any{&id, &r.AggregateType, &r.AggregateID, &r.Type, &r.ContentType, &headers, &occurred, &r.DedupKey, &r.SchemaVersion,
		&r.Seq, &r.Partition, &created, &r.Attempts, &r.Crashes, &next, &r.LastError, &dead, &state}, more...)...)
	if err != nil {
		return r, err
	}
	r.OccurredAt, r.CreatedAt, r.NextAttemptAt, r.DeadAt = occurred.Time, created.Time, next.Time, dead.Time
	r.State = State(state)
	if r.ID, err = uuid.Parse(id); err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(headers), &r.Headers)
}

// Purge deletes events that every subscription has published longer than olderThan ago, in bounded batches that stop no relay
// and no other purge, and returns how many. Their dedup keys are free again: what must be deduplicated for longer is the
// ledger's task.
func (a *Admin) Purge(ctx context.Context, olderThan time.Duration) (int64, error) {
	if olderThan < 0 {
		return 0, fmt.Errorf("%w: olderThan is negative", outbox.ErrConfig)
	}
	n, err := a.purge(ctx, olderThan, 0)
	if err != nil {
		return n, fmt.Errorf("relay: purge: %w", err)
	}
	return n, nil
}
