package relay

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

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

// read reads the cursors of partitions that this owner has, and what is late or fresh in them, up to limit rows of each kind, into
// memory that is used again, if there is any.
func (s *store) read(ctx context.Context, owner string, partitions []int, limit int, into []row) (cursors []cursor, rows []row, err error) {
	err = s.pinned(ctx, func(result pgx.Rows) (err error) {
		columns := 17
		if s.cfg.Trace.Published != nil {
			columns++
		}
		cursors, rows, err = s.collect(result, columns, into[:0])
		return err
	}, s.reading, s.cfg.Subscription, owner, toJSON(partitions), limit)
	return cursors, rows, err
}

// readDue reads parked events that are due, up to limit aggregates and perTurn events of each; suspects instead: one of those.
func (s *store) readDue(ctx context.Context, owner string, limit, perTurn int, suspects bool) (rows []row, err error) {
	err = s.pinned(ctx, func(result pgx.Rows) (err error) {
		_, rows, err = s.collect(result, 20, nil)
		return err
	}, s.due, s.cfg.Subscription, owner, limit, perTurn, suspects, s.cfg.Unordered)
	return rows, err
}

// toJSON is the text of what can't fail.
func toJSON(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// inline is the size up to which payloads come with their rows, in bytes; larger ones are fetched by themselves, so that what a
// reading brings is bounded.
const inline = 8 << 10

// place is where an event stands.
type place struct {
	Partition int   `json:"partition"`
	Seq       int64 `json:"seq"`
}

// payloads fetches those that read left out of rows.
func (s *store) payloads(ctx context.Context, rows []*row) error {
	patient := s.database
	patient.patience = max(s.patience, s.cfg.PublishTimeout) // one may have 256 MiB
	places, by := make([]place, len(rows)), make(map[int64]*row, len(rows))
	for i, r := range rows {
		places[i], by[r.seq] = place{r.partition, r.seq}, r
	}
	err := patient.rows(ctx, func(result pgx.Row) error {
		var seq int64
		var payload []byte
		if err := result.Scan(&seq, &payload); err != nil {
			return err
		}
		by[seq].Payload = payload
		delete(by, seq)
		return nil
	}, fmt.Sprintf("SELECT e.seq, e.payload FROM %s JOIN %s e ON e.partition = r.partition AND e.seq = r.seq", s.records("$1", "r", "partition smallint", "seq bigint"), s.events), toJSON(places))
	if err == nil {
		for _, r := range by {
			r.state = done // somebody has deleted it meanwhile
		}
	}
	return err
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
	l.foreign, l.behind, l.passed = v[14][0] != 0, v[15][0] != 0, v[16][0] != 0
	if len(v) > 17 {
		l.age = math.Float64frombits(uint64(number(v[17])))
	}
	if len(v) > 18 {
		l.attempts, l.crashes = int32(number(v[18])), int32(number(v[19]))
	}
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

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// binaryFormat reports whether all of a line's values are in the format that scanBinary knows, in which text is the same.
func binaryFormat(result pgx.Rows) bool {
	for i, f := range result.FieldDescriptions() {
		text := i >= 4 && i <= 8 || i == 10
		if i == 8 && f.Format != pgx.TextFormatCode || !text && f.Format != pgx.BinaryFormatCode { // pgx asks for jsonb as text
			return false
		}
	}
	return true
}

// collect reads what postgresReading, sqliteReading, postgresDue and sqliteDue return. A row that can't be decoded is bad, and no
// error.
func (s *store) collect(result pgx.Rows, columns int, rows []row) (cursors []cursor, _ []row, err error) {
	defer result.Close()
	var l scanned
	var id string
	var at leniently
	dest := []any{&l.kind, &l.partition, &l.seq, &id, &l.aggregateType, &l.aggregateID, &l.eventType, &l.contentType, &l.headers, &at, &l.dedupKey,
		&l.version, &l.size, &l.payload, &l.foreign, &l.behind, &l.passed, (*zeronull.Float8)(&l.age), &l.attempts, &l.crashes}
	fast := s.pool != nil && binaryFormat(result)
	now := time.Now()
	var m memory
	for result.Next() {
		var bad error
		if fast {
			l.scanBinary(result.RawValues())
		} else if err := result.Scan(dest[:columns]...); err != nil {
			return nil, nil, err
		} else if l.at, l.timed = at.Time, at.valid; l.kind != cursorRow {
			if l.id, bad = uuid.Parse(id); bad != nil {
				bad = fmt.Errorf("id: %w", bad)
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
			passed: l.passed, attempts: int(l.attempts), crashes: int(l.crashes), put: now.Add(-seconds(l.age)), bad: bad})
		m.keep(&rows[len(rows)-1], &l)
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
	e.AggregateType, e.Type, e.ContentType = same(&m.aggregateType, l.aggregateType), same(&m.eventType, l.eventType), same(&m.contentType, l.contentType)
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
	if string(l.headers) != "{}" {
		if !bytes.Equal(l.headers, m.headersText) || m.headers == nil {
			m.headersText, m.headers = append(m.headersText[:0], l.headers...), nil
			if err := json.Unmarshal(l.headers, &m.headers); err != nil {
				m.headers, r.bad = nil, cmp.Or(r.bad, fmt.Errorf("headers: %w", err))
			}
		}
		e.Headers = m.headers
	}
	if !l.timed {
		r.bad = cmp.Or(r.bad, errors.New("occurred_at is no time in the years 1 to 9999"))
	}
}

// bounded is ctx for a statement or a transaction.
func (d database) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if d.patience == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d.patience)
}

// each hands the rows of a query to scan, one by one.
func each(ctx context.Context, q endstate.Querier, scan func(pgx.Row) error, query string, args ...any) error {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	return drain(rows, scan)
}

func drain(rows pgx.Rows, scan func(pgx.Row) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// pins keep the planner to the indexes, whatever statistics it has, so that one plan, made on the empty table, does for a million
// rows: making another one takes as long as reading five hundred.
// The settings end with the transaction, so that they go through a pooler and stay out of others' statements.
const pins = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true),
	set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), set_config('enable_material', 'off', true), set_config('jit', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)`

// pin pins the plans of a transaction's statements.
func (d database) pin(ctx context.Context, tx endstate.Tx) error {
	if d.sqlite() {
		return nil
	}
	_, err := tx.Exec(ctx, pins)
	return err
}

// What goes around the pins in a transaction that goes on: rolling back to a savepoint takes settings back too. Neither takes a
// transaction id.
const (
	savePins = "SAVEPOINT endstate_pins"
	dropPins = "ROLLBACK TO SAVEPOINT endstate_pins"
)

// rows hands the rows of a query whose plan is pinned to scan, one by one.
func (d database) rows(ctx context.Context, scan func(pgx.Row) error, query string, args ...any) error {
	return d.pinned(ctx, func(rows pgx.Rows) error { return drain(rows, scan) }, query, args...)
}

// row scans the one row of a query whose plan is pinned.
func (d database) row(ctx context.Context, dest []any, query string, args ...any) error {
	return d.rows(ctx, func(row pgx.Row) error { return row.Scan(dest...) }, query, args...)
}

// pinned runs a query whose plan is pinned, in a transaction that has written nothing, and hands its rows to collect, which closes
// them.
func (d database) pinned(ctx context.Context, collect func(pgx.Rows) error, query string, args ...any) error {
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	read := func(rows pgx.Rows, err error) error {
		if err != nil {
			return err
		}
		return collect(rows)
	}
	if d.dialect == sqltx.SQLite {
		return read(d.Query(ctx, query, args...))
	}
	before, after := []string{pins}, []string(nil)
	if d.within {
		before, after = []string{savePins, pins}, []string{dropPins}
	}
	q, ok := d.Querier.(interface {
		SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
	})
	if !ok {
		return d.inTx(ctx, func(ctx context.Context, tx endstate.Tx) (err error) {
			for _, statement := range before {
				if _, err := tx.Exec(ctx, statement); err != nil {
					return err
				}
			}
			err = read(tx.Query(ctx, query, args...))
			for _, statement := range after {
				if err == nil {
					_, err = tx.Exec(ctx, statement)
				}
			}
			return err
		})
	}
	// One trip, and one transaction: a pipeline is one up to its end.
	var batch pgx.Batch
	for _, statement := range before {
		batch.Queue(statement)
	}
	batch.Queue(query, args...)
	for _, statement := range after {
		batch.Queue(statement)
	}
	results := q.SendBatch(ctx, &batch)
	for range before {
		if _, err := results.Exec(); err != nil {
			return errors.Join(err, results.Close())
		}
	}
	err := read(results.Query())
	return errors.Join(err, results.Close())
}
