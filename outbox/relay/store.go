package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// tables are the names of an outbox's tables, quoted.
type tables struct {
	events, subscriptions, cursors, parked, relays, samples, incarnation, audit string
}

func tablesOf(w outbox.Writer) tables {
	of := func(suffix string) string { return sqltx.Quote(w.Schema, w.Name()+suffix) }
	return tables{of(""), of("_subscriptions"), of("_cursors"), of("_parked"), of("_relays"), of("_samples"), of("_incarnation"), of("_audit")}
}

// store is what a relay asks of its database. What reads differently in the two dialects is in postgres.go and sqlite.go.
type store struct {
	database
	tables
	cfg                  *Config
	reading, due, ending string // statements
}

func newStore(db database, cfg *Config) *store {
	s := &store{database: db, tables: tablesOf(cfg.Outbox), cfg: cfg}
	if db.sqlite() {
		s.reading, s.due, s.ending = s.sqliteReading(), s.sqliteDue(), s.sqliteEnding()
	} else {
		s.reading, s.due, s.ending = s.postgresReading(), s.postgresDue(), s.postgresEnding()
	}
	return s
}

// in is the store inside a transaction, which somebody else ends.
func (s *store) in(tx endstate.Tx) *store {
	inside := *s
	inside.database = s.database.in(tx)
	return &inside
}

// cursor is a partition's cursor as a reading's snapshot showed it.
type cursor struct {
	Partition   int
	Token       string
	Position    int64
	Prior       int64  // prior_position
	Now         string // the reading's snapshot
	Incarnation string
	Pieces      bool // late rows go out in pieces
	Restored    bool
	Placements  int
	Careful     int
	Batch       int
	Waiting     bool // events of it are parked and not dead
	Blocked     bool
	Assigned    bool // the reading's transaction has an id, which must come after its snapshot
}

// row is an event as a relay reads it.
type row struct {
	outbox.Event
	kind      int16 // of the reading's parts
	seq       int64
	partition int
	size      int       // of the payload
	put       time.Time // by this process's monotonic clock, where somebody wants to know
	foreign   bool
	behind    bool // an earlier event of its aggregate is parked
	passed    bool // it is parked itself, or not what the subscription is about
	bad       error

	attempts, crashes int // of a parked one

	state state
	err   error // why it wasn't taken
	after float64
}

// The kinds of rows in a reading.
const (
	cursorRow int16 = iota
	lateRow
	freshRow
	parkedRow
)

// name is an aggregate's.
type name struct{ kind, id string }

func (r *row) aggregate() name { return name{r.AggregateType, r.AggregateID} }

// inline is the size up to which payloads come with their rows, in bytes; larger ones are fetched by themselves, so that what a
// reading brings is bounded.
const inline = 8 << 10

// read reads the cursors of partitions that this owner has, and what is late or fresh in them, up to limit rows of each kind.
func (s *store) read(ctx context.Context, owner string, partitions []int, limit int) (cursors []cursor, rows []row, err error) {
	err = s.pinned(ctx, s.reading, []any{s.cfg.Subscription, owner, s.list(partitions), limit, s.patterns()}, func(result pgx.Rows) (err error) {
		cursors, rows, err = s.collect(result)
		return err
	})
	return cursors, rows, err
}

// readDue reads parked events that are due, up to limit aggregates and perTurn events of each; suspects instead: one of those.
func (s *store) readDue(ctx context.Context, owner string, limit, perTurn int, suspects bool) (rows []row, err error) {
	err = s.pinned(ctx, s.due, []any{s.cfg.Subscription, owner, limit, perTurn, suspects, s.cfg.Unordered}, func(result pgx.Rows) (err error) {
		_, rows, err = s.collect(result)
		return err
	})
	return rows, err
}

// collect scans what postgresReading, sqliteReading, postgresDue and sqliteDue return. A row that can't be decoded is bad, and no error.
func (s *store) collect(result pgx.Rows) (cursors []cursor, rows []row, err error) {
	var r row
	var text string
	var headers []byte
	var age float64
	var at pgtype.Timestamptz
	var sqlAt leniently
	id, when := any(&text), any(&sqlAt)
	if s.pool != nil { // the fastest ways
		id, when = (*[16]byte)(&r.ID), &at
	}
	dest := []any{&r.kind, &r.partition, &r.seq, id, &r.AggregateType, &r.AggregateID, &r.Type, &r.ContentType, &headers, when, &r.DedupKey,
		&r.SchemaVersion, &r.size, &r.Payload, &age, &r.foreign, &r.behind, &r.passed, &r.attempts, &r.crashes}
	now := time.Now()
	for result.Next() {
		r.Payload, r.Headers, r.bad = nil, nil, nil
		if err := result.Scan(dest...); err != nil {
			return nil, nil, err
		}
		if r.kind == cursorRow {
			var c cursor
			if err := json.Unmarshal(r.Payload, &c); err != nil {
				return nil, nil, fmt.Errorf("cursor: %w", err)
			}
			cursors = append(cursors, c)
			continue
		}
		r.put = now.Add(-seconds(age))
		if s.pool == nil {
			if r.ID, err = uuid.Parse(text); err != nil {
				r.bad = fmt.Errorf("id: %w", err)
			}
			at.Time, at.Valid = sqlAt.Time, sqlAt.valid
		}
		if r.OccurredAt = at.Time.UTC(); !at.Valid {
			r.bad = errors.New("occurred_at is no time in the years 1 to 9999")
		}
		if headers != nil {
			if err := json.Unmarshal(headers, &r.Headers); err != nil {
				r.bad = fmt.Errorf("headers: %w", err)
			}
		}
		rows = append(rows, r)
	}
	return cursors, rows, result.Err()
}

// payloads fetches what read left out.
func (s *store) payloads(ctx context.Context, rows []*row) error {
	if len(rows) == 0 {
		return nil
	}
	type key struct {
		Partition int64 `json:"partition"`
		Seq       int64 `json:"seq"`
	}
	keys, by := make([]key, len(rows)), make(map[int64]*row, len(rows))
	for i, r := range rows {
		keys[i] = key{int64(r.partition), r.seq}
		by[r.seq] = r
	}
	query := fmt.Sprintf("SELECT e.seq, e.payload FROM %s JOIN %s e ON e.partition = r.partition AND e.seq = r.seq",
		s.records("$1", "r", [2]string{"partition", "smallint"}, [2]string{"seq", "bigint"}), s.events)
	err := s.pinned(ctx, query, []any{toJSON(keys)}, func(result pgx.Rows) error {
		for result.Next() {
			var seq int64
			var payload []byte
			if err := result.Scan(&seq, &payload); err != nil {
				return err
			}
			by[seq].Payload = payload
			delete(by, seq)
		}
		return result.Err()
	})
	if err == nil {
		for _, r := range by {
			r.state = done // somebody has deleted it meanwhile
		}
	}
	return err
}

// list are numbers as an array that every driver can send.
func (s *store) list(numbers []int) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = strconv.Itoa(n)
	}
	if s.sqlite() {
		return "[" + strings.Join(texts, ",") + "]"
	}
	return "{" + strings.Join(texts, ",") + "}"
}

// patterns are the subscription's types as the database compares them; nil for all.
func (s *store) patterns() any {
	if len(s.cfg.Types) == 0 {
		return nil
	}
	escape, wild := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`), "%"
	if s.sqlite() {
		escape, wild = strings.NewReplacer(`[`, `[[]`, `?`, `[?]`), "*"
	}
	list := make([]string, len(s.cfg.Types))
	for i, pattern := range s.cfg.Types {
		prefix, any := strings.CutSuffix(pattern, "*")
		if list[i] = escape.Replace(prefix); any {
			list[i] += wild
		}
	}
	return toJSON(list)
}

// toJSON is the text of what can't fail.
func toJSON(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}
