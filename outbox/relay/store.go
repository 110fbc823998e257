package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqlplan"
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
	cfg                          *Config
	reading, due, ending, moving string // statements
}

func newStore(db database, cfg *Config) *store {
	s := &store{database: db, tables: tablesOf(cfg.Outbox), cfg: cfg}
	if db.sqlite() {
		s.reading, s.due, s.ending = s.sqliteReading(), s.sqliteDue(), s.sqliteEnding()
	} else {
		s.reading, s.due, s.ending = s.postgresReading(), s.postgresDue(), s.postgresEnding()
	}
	s.moving = s.movingStatement()
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
	Relays      int  // of the subscription
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

// read reads the cursors of partitions that this owner has, and what is late or fresh in them, up to limit rows of each kind, into
// memory that is used again, if there is any.
func (s *store) read(ctx context.Context, owner string, partitions []int, limit int, into []row) (cursors []cursor, rows []row, err error) {
	err = s.pinned(ctx, s.reading, []any{s.cfg.Subscription, owner, s.list(partitions), limit, s.patterns()}, func(result pgx.Rows) (err error) {
		cursors, rows, err = s.collect(result, into[:0])
		return err
	})
	return cursors, rows, err
}

// readDue reads parked events that are due, up to limit aggregates and perTurn events of each; suspects instead: one of those.
func (s *store) readDue(ctx context.Context, owner string, limit, perTurn int, suspects bool) (rows []row, err error) {
	err = s.pinned(ctx, s.due, []any{s.cfg.Subscription, owner, limit, perTurn, suspects, s.cfg.Unordered}, func(result pgx.Rows) (err error) {
		_, rows, err = s.collect(result, nil)
		return err
	})
	return rows, err
}

// payloads fetches what read left out of the rows that are to be published.
func (s *store) payloads(ctx context.Context, rows []*row) error {
	type key struct {
		Partition int   `json:"partition"`
		Seq       int64 `json:"seq"`
	}
	var keys []key
	by := map[int64]*row{}
	for _, r := range rows {
		if r.state == todo && r.size > inline {
			keys, by[r.seq] = append(keys, key{r.partition, r.seq}), r
		}
	}
	if len(keys) == 0 {
		return nil
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

// scanned is a line of a reading. What is bytes here is the driver's memory, up to the next line.
type scanned struct {
	kind, partition                                                                int16
	seq                                                                            int64
	id                                                                             uuid.UUID
	aggregateType, aggregateID, eventType, contentType, headers, dedupKey, payload []byte
	at                                                                             time.Time
	timed                                                                          bool    // at is a time that an event can have
	age                                                                            float64 // in seconds, where somebody wants to know
	version, size, attempts, crashes                                               int32
	foreign, behind, passed                                                        bool
}

// years that an event can have.
const minMicros, maxMicros = -63082281600000000, 252455616000000000 // 1 and 10000, from 2000 on

// scanBinary decodes a line in PostgreSQL's binary format, which takes a third of the time that a Scan does.
func (l *scanned) scanBinary(v [][]byte) {
	l.kind, l.partition, l.seq, l.id = int16(number(v[0])), int16(number(v[1])), number(v[2]), uuid.UUID(v[3])
	l.aggregateType, l.aggregateID, l.eventType, l.contentType, l.headers, l.dedupKey = v[4], v[5], v[6], v[7], v[8], v[10]
	micros := number(v[9])
	l.timed = v[9] != nil && micros >= minMicros && micros < maxMicros
	l.at = time.UnixMicro(micros + 946684800000000).UTC()
	l.version, l.size, l.payload = int32(number(v[11])), int32(number(v[12])), v[13]
	l.age = math.Float64frombits(uint64(number(v[14])))
	l.foreign, l.behind, l.passed = v[15][0] != 0, v[16][0] != 0, v[17][0] != 0
	l.attempts, l.crashes = int32(number(v[18])), int32(number(v[19]))
}

// number decodes an integer of any width; NULL is 0.
func number(b []byte) int64 {
	switch len(b) {
	case 2:
		return int64(int16(binary.BigEndian.Uint16(b)))
	case 4:
		return int64(int32(binary.BigEndian.Uint32(b)))
	case 8:
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// binaryFormat reports whether all of a line's values are in the format that scanBinary knows, in which text is the same.
func binaryFormat(result pgx.Rows) bool {
	for i, f := range result.FieldDescriptions() {
		if text := i >= 4 && i <= 8 || i == 10; !text && f.Format != pgx.BinaryFormatCode {
			return false
		}
	}
	return true
}

// collect reads what postgresReading, sqliteReading, postgresDue and sqliteDue return. A row that can't be decoded is bad, and no
// error.
func (s *store) collect(result pgx.Rows, rows []row) ([]cursor, []row, error) {
	var cursors []cursor
	var l scanned
	var id string
	var at leniently
	var version, size, attempts, crashes *int32
	var age *float64
	now := time.Now()
	dest := []any{&l.kind, &l.partition, &l.seq, &id, &l.aggregateType, &l.aggregateID, &l.eventType, &l.contentType, &l.headers, &at, &l.dedupKey,
		&version, &size, &l.payload, &age, &l.foreign, &l.behind, &l.passed, &attempts, &crashes}
	fast := s.pool != nil && binaryFormat(result)
	or0 := func(n *int32) int32 {
		if n == nil {
			return 0
		}
		return *n
	}
	m := memory{}
	for result.Next() {
		var bad error
		if fast {
			l.scanBinary(result.RawValues())
		} else {
			if err := result.Scan(dest...); err != nil {
				return nil, nil, err
			}
			l.version, l.size, l.attempts, l.crashes, l.age = or0(version), or0(size), or0(attempts), or0(crashes), 0
			if age != nil {
				l.age = *age
			}
			if l.at, l.timed = at.Time, at.valid; l.kind != cursorRow {
				var err error
				if l.id, err = uuid.Parse(id); err != nil {
					bad = fmt.Errorf("id: %w", err)
				}
			}
		}
		if l.kind == cursorRow {
			var c cursor
			if err := json.Unmarshal(l.payload, &c); err != nil {
				return nil, nil, fmt.Errorf("cursor: %w", err)
			}
			cursors = append(cursors, c)
			continue
		}
		rows = append(rows, row{kind: l.kind, seq: l.seq, partition: int(l.partition), size: max(int(l.size), len(l.payload)), foreign: l.foreign, behind: l.behind,
			passed: l.passed, attempts: int(l.attempts), crashes: int(l.crashes)})
		r := &rows[len(rows)-1]
		r.put = now.Add(-seconds(l.age))
		m.keep(r, &l)
		if r.bad == nil {
			r.bad = bad
		}
	}
	return cursors, rows, result.Err()
}

// memory is where a reading's rows are kept: in few pieces, and what is as in the row before is kept once.
type memory struct {
	aggregateType, eventType, contentType string
	headersText                           []byte
	headers                               map[string]string
	payloads                              []byte
}

// keep sets r's event.
func (m *memory) keep(r *row, l *scanned) {
	same := func(last *string, b []byte) string {
		if *last != string(b) {
			*last = string(b)
		}
		return *last
	}
	e := &r.Event
	e.ID, e.OccurredAt, e.SchemaVersion = l.id, l.at, int(l.version)
	e.AggregateType, e.Type, e.ContentType = same(&m.aggregateType, l.aggregateType), same(&m.eventType, l.eventType), sqlplan.JSON
	if l.contentType != nil {
		e.ContentType = same(&m.contentType, l.contentType)
	}
	var buffer [256]byte
	texts := string(append(append(buffer[:0], l.aggregateID...), l.dedupKey...))
	e.AggregateID, e.DedupKey = texts[:len(l.aggregateID)], texts[len(l.aggregateID):]
	if l.payload != nil {
		if len(l.payload) > cap(m.payloads)-len(m.payloads) {
			m.payloads = make([]byte, 0, max(64<<10, len(l.payload)))
		}
		start := len(m.payloads)
		m.payloads = append(m.payloads, l.payload...)
		e.Payload = m.payloads[start:len(m.payloads):len(m.payloads)]
	}
	if l.headers != nil {
		if !bytes.Equal(l.headers, m.headersText) || m.headers == nil {
			m.headersText, m.headers = append(m.headersText[:0], l.headers...), nil
			if err := json.Unmarshal(l.headers, &m.headers); err != nil {
				m.headers, r.bad = nil, fmt.Errorf("headers: %w", err)
			}
		}
		e.Headers = m.headers
	}
	if !l.timed {
		r.bad = errors.New("occurred_at is no time in the years 1 to 9999")
	}
}
