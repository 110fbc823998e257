package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Admin is for people, and for the programs they look through: what waits in an outbox, what is dead, and what to do about
// it. It is safe for concurrent use, and beside any number of relays.
type Admin struct {
	db     database
	outbox Writer
}

// AdminConfig says which outbox an Admin is for.
type AdminConfig struct {
	// Outbox names the table. The zero Writer is endstate_outbox.
	Outbox Writer
	// Dialect is "postgres" or "sqlite". Empty: told by the driver.
	Dialect string
}

// NewAdmin returns an Admin; a nil cfg is for the default outbox. It sends nothing.
func NewAdmin[DB Database](db DB, cfg *AdminConfig) (*Admin, error) {
	if cfg == nil {
		cfg = &AdminConfig{}
	}
	if err := cfg.Outbox.validateOwn(); err != nil {
		return nil, err
	}
	opened, err := open(db, cfg.Dialect)
	if err != nil {
		return nil, err
	}
	return &Admin{opened, cfg.Outbox}, nil
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

// The conditions of the states, as the indexes have them.
var stateConditions = map[State]string{
	Pending:   isPending,
	Retrying:  "next_attempt_at IS NOT NULL AND next_attempt_at < 'infinity'",
	Behind:    "next_attempt_at = 'infinity'",
	Dead:      "dead_at IS NOT NULL",
	Published: "published_at IS NOT NULL",
}

const isPending = "published_at IS NULL AND dead_at IS NULL AND next_attempt_at IS NULL"

// Record is an event with what became of it. Times that don't apply are zero.
type Record struct {
	Event
	Seq           int64
	Shard         int
	State         State
	CreatedAt     time.Time
	Attempts      int // failed publications
	Crashes       int // relays that died while they published this event alone
	NextAttemptAt time.Time
	LastError     string
	PublishedAt   time.Time
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
var ErrNotFound = errors.New("outbox: no such event")

const recordColumns = `CAST(id AS text), aggregate_type, aggregate_id, type, content_type, CAST(headers AS text), occurred_at, coalesce(dedup_key, ''), schema_version,
	seq, shard, created_at, attempts, crashes, CASE WHEN next_attempt_at < 'infinity' THEN next_attempt_at END, coalesce(last_error, ''), published_at, dead_at,
	CASE WHEN published_at IS NOT NULL THEN 'published' WHEN dead_at IS NOT NULL THEN 'dead' WHEN next_attempt_at IS NULL THEN 'pending'
		WHEN next_attempt_at < 'infinity' THEN 'retrying' ELSE 'behind' END`

// List returns events in the order of their Seq, without their payloads.
func (a *Admin) List(ctx context.Context, filter Filter) ([]Record, error) {
	limit := filter.Limit
	if limit == 0 {
		limit = 100
	}
	if limit < 0 || limit > 10_000 {
		return nil, fmt.Errorf("%w: Filter.Limit is %d", ErrConfig, filter.Limit)
	}
	args := []any{filter.AfterSeq, limit}
	conditions := []string{"seq > CAST($1 AS bigint)"}
	if filter.State != "" {
		condition, known := stateConditions[filter.State]
		if !known {
			return nil, fmt.Errorf("%w: Filter.State is %q", ErrConfig, filter.State)
		}
		conditions = append(conditions, condition)
	}
	for _, f := range []struct{ column, value string }{
		{"aggregate_type", filter.AggregateType}, {"aggregate_id", filter.AggregateID}, {"type", filter.Type},
	} {
		if f.value != "" {
			args = append(args, f.value)
			conditions = append(conditions, fmt.Sprintf("%s = CAST($%d AS text)", f.column, len(args)))
		}
	}
	query := fmt.Sprintf("SELECT %s FROM %s WHERE %s ORDER BY seq LIMIT CAST($2 AS bigint)", recordColumns, a.outbox.table(), strings.Join(conditions, " AND "))
	if filter.State == Pending && !a.db.sqlite() {
		// The index has the pending events by shard, and there may be millions of them.
		query = fmt.Sprintf("SELECT e.* FROM %s s CROSS JOIN LATERAL (%s) e ORDER BY e.seq LIMIT CAST($2 AS bigint)",
			a.outbox.shards(), strings.Replace(query, " ORDER BY", " AND shard = s.shard ORDER BY", 1))
	}
	rows, err := a.db.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("outbox: list: %w", err)
	}
	defer rows.Close()
	var records []Record
	for rows.Next() {
		r, err := scanRecord(rows)
		if err != nil {
			return nil, fmt.Errorf("outbox: list: %w", err)
		}
		records = append(records, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("outbox: list: %w", err)
	}
	return records, nil
}

// Show returns an event with its payload, and what people did with it while it was a dead letter.
func (a *Admin) Show(ctx context.Context, id uuid.UUID) (Record, []Intervention, error) {
	var payload []byte
	row := a.db.QueryRow(ctx, fmt.Sprintf("SELECT %s, payload FROM %s WHERE id = CAST($1 AS %s)", recordColumns, a.outbox.table(), a.uuidType()), id.String())
	r, err := scanRecord(row, &payload)
	if errors.Is(err, pgx.ErrNoRows) {
		return Record{}, nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if err != nil {
		return Record{}, nil, fmt.Errorf("outbox: show: %w", err)
	}
	r.Payload = payload
	history, err := a.history(ctx, id)
	return r, history, err
}

func (a *Admin) uuidType() string {
	if a.db.sqlite() {
		return "text"
	}
	return "uuid"
}

func scanRecord(row pgx.Row, more ...any) (Record, error) {
	var r Record
	var id, headers, state string
	var occurred, created, next, published, dead moment
	err := row.Scan(append([]any{&id, &r.AggregateType, &r.AggregateID, &r.Type, &r.ContentType, &headers, &occurred, &r.DedupKey, &r.SchemaVersion,
		&r.Seq, &r.Shard, &created, &r.Attempts, &r.Crashes, &next, &r.LastError, &published, &dead, &state}, more...)...)
	if err != nil {
		return r, err
	}
	r.OccurredAt, r.CreatedAt, r.NextAttemptAt, r.PublishedAt, r.DeadAt = occurred.Time, created.Time, next.Time, published.Time, dead.Time
	r.State = State(state)
	if r.ID, err = uuid.Parse(id); err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(headers), &r.Headers)
}
