package sqlplan

import (
	"crypto/sha256"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// Call is what the arguments of one finalization are taken from.
type Call struct {
	Aggregate string
	Key       string // the key's canonical encoding
	Parts     []any  // the key's parts, each as its SQL type wants it
	Part      [1]any // room for Parts, where there is one
	Shape     string // their kinds, a letter each
	State     string
	Trigger   string
	Token     uuid.UUID // random for each attempt; what a statement raises when it must not be committed is its sqltx.Signal
	Digest    []byte
	Events    []*Event
	Room      []any // for statements' arguments, behind those of earlier ones
	arrays    []any // of many events
}

// Arg takes one argument from a call.
type Arg func(*Call) any

// Args collects a statement's arguments while its text is written. Each costs time on both sides, so what several parts of
// a statement want is passed once.
type Args struct {
	list  []Arg
	named map[string]string
}

// Add adds an argument and returns its placeholder.
func (a *Args) Add(arg Arg) string {
	a.list = append(a.list, arg)
	return "$" + strconv.Itoa(len(a.list))
}

// Named is Add for an argument that is added once under its name, and found under it after that.
func (a *Args) Named(name string, arg Arg) string {
	placeholder, ok := a.named[name]
	if !ok {
		if a.named == nil {
			a.named = map[string]string{}
		}
		placeholder = a.Add(arg)
		a.named[name] = placeholder
	}
	return placeholder
}

// The placeholders of a call's fields.

func (a *Args) Aggregate() string {
	return a.Named("aggregate", func(c *Call) any { return (*Text)(&c.Aggregate) }) + "::text"
}
func (a *Args) Key() string {
	return a.Named("key", func(c *Call) any { return (*Text)(&c.Key) }) + "::text"
}
func (a *Args) State() string {
	return a.Named("outcome", func(c *Call) any { return (*Text)(&c.State) }) + "::text"
}
func (a *Args) Token() string {
	return a.Named("token", func(c *Call) any { return (*UUID)(&c.Token) }) + "::uuid"
}

// Statement is a finished text with its arguments.
type Statement struct {
	SQL  string
	args []Arg
}

// Build writes a statement.
func Build(write func(*Args) string) Statement {
	var a Args
	sql := write(&a)
	return Statement{sql, a.list}
}

// Args evaluates the statement's arguments for c.
func (s Statement) Args(c *Call) []any {
	n := len(c.Room)
	c.Room = slices.Grow(c.Room, len(s.args))
	for _, arg := range s.args {
		c.Room = append(c.Room, arg(c))
	}
	return slices.Clip(c.Room[n:])
}

// Event is an outbox.Event that is prepared. The two have the same fields, so that one converts into the other.
type Event struct {
	ID            uuid.UUID
	AggregateType string
	AggregateID   string
	Type          string
	Payload       []byte
	ContentType   string
	Headers       map[string]string
	OccurredAt    time.Time
	DedupKey      string
	SchemaVersion int
}

// Size is about how many bytes e takes on its way: what a statement that writes several events is bounded by.
func (e *Event) Size() int {
	n := len(e.AggregateType) + len(e.AggregateID) + len(e.Type) + len(e.ContentType) + len(e.DedupKey) + len(e.Payload)
	for key, value := range e.Headers {
		n += len(key) + len(value)
	}
	return n
}

// A statement takes so many events, and so many bytes of what they carry, unless a single event is longer: a message to
// PostgreSQL ends at 1 GiB, and a driver may send bytes as text of twice the length, after it has built the message in memory.
const (
	chunkSize  = 1000
	chunkBytes = 16 << 20
)

// Chunks are events, in their order, as a statement takes them.
func Chunks(events []Event) iter.Seq[[]Event] {
	return func(yield func([]Event) bool) {
		for len(events) > 0 {
			n, bytes := 1, events[0].Size()
			for n < min(len(events), chunkSize) && bytes+events[n].Size() <= chunkBytes {
				bytes += events[n].Size()
				n++
			}
			if !yield(events[:n:n]) {
				return
			}
			events = events[n:]
		}
	}
}

// InsertColumns are the columns of an insert.
const InsertColumns = "(id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)"

// columnTypes are PostgreSQL's types of InsertColumns.
var columnTypes = [...]string{"uuid", "text", "text", "text", "bytea", "text", "jsonb", "timestamptz", "text", "int4", "int2"}

const occurredAt = 7 // among InsertColumns

// JSON is the content type that an event has unless it says otherwise.
const JSON = "application/json"

// usual reports whether an event has what most have: JSON in its first version, and no time of its own. That is spelled out in the
// statement, since an argument costs more than a constant, on both sides.
func (e *Event) usual() bool {
	return e.ContentType == JSON && e.OccurredAt.IsZero() && e.SchemaVersion == 1
}

var usualConstants = [len(columnTypes)]string{5: "'" + JSON + "'", occurredAt: "clock_timestamp()", 9: "1"}

func (e *Event) headers() string { return (*headers)(&e.Headers).String() }

func (e *Event) partition() int16 { return int16(Partition(e.AggregateType, e.AggregateID)) }

// Partitions is how many there are.
const Partitions = 8

// Partition is outbox.Partition.
func Partition(aggregateType, aggregateID string) int {
	var buffer [128]byte
	name := append(append(append(buffer[:0], aggregateType...), '/'), aggregateID...)
	return int(sha256.Sum256(name)[0]) % Partitions
}

// Arrays are the events' values by column, as arrays for one unnest. Where all events have the same value, as they mostly
// have in half of the columns, it is sent once: see received.
func Arrays(events []Event) []any {
	n := len(events)
	ids, dedup := make(uuids, n), make(pgtype.FlatArray[pgtype.Text], n) // which pgx encodes without looking for a way
	aggregateTypes, aggregateIDs, types := make([]string, n), make([]string, n), make([]string, n)
	payloads, contentTypes, headers := make([][]byte, n), make([]string, n), make([]string, n)
	occurred, versions, partitions := make([]*time.Time, n), make([]int32, n), make([]int16, n)
	for i := range events {
		e := &events[i]
		ids[i], dedup[i] = pgtype.UUID{Bytes: e.ID, Valid: true}, pgtype.Text{String: e.DedupKey, Valid: e.DedupKey != ""}
		aggregateTypes[i], aggregateIDs[i], types[i] = e.AggregateType, e.AggregateID, e.Type
		payloads[i], contentTypes[i] = e.Payload, e.ContentType
		before := i - 1 // what events of one call share is made once
		if i > 0 && same(e.Headers, events[before].Headers) {
			headers[i] = headers[before]
		} else {
			headers[i] = e.headers()
		}
		if i > 0 && e.AggregateID == events[before].AggregateID && e.AggregateType == events[before].AggregateType {
			partitions[i] = partitions[before]
		} else {
			partitions[i] = e.partition()
		}
		if !e.OccurredAt.IsZero() {
			occurred[i] = &e.OccurredAt
		}
		versions[i] = int32(e.SchemaVersion)
	}
	if !slices.ContainsFunc(occurred, func(t *time.Time) bool { return t != nil }) {
		occurred = nil
	}
	return []any{ids, alike(aggregateTypes), aggregateIDs, alike(types), payloads, alike(contentTypes), alike(headers), occurred, dedup, alike(versions), partitions}
}

// same reports whether two maps are one, as those that Writer.Headers adds are, or equal.
func same(a, b map[string]string) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer() || maps.Equal(a, b)
}

// alike returns the first of values if all are the same, else values.
func alike[T comparable](values []T) []T {
	for _, v := range values {
		if v != values[0] {
			return values
		}
	}
	return values[:min(1, len(values))]
}

// FewEvents events or fewer are passed as scalars, which the server takes faster than arrays. The number also bounds how
// many different statements a connection keeps prepared.
const FewEvents = 4

// Form is a form of an insert: of a few usual events, of a few of any kind, or of many. The zero Form inserts none.
type Form int

// Forms is how many forms there are. The last is that of many events.
const Forms = 2*FewEvents + 2

const many Form = Forms - 1

// Rows is how many events an insert of this form takes; more than FewEvents: any number.
func (f Form) Rows() int {
	if f > FewEvents && f != many {
		return int(f) - FewEvents
	}
	return int(f)
}

func (f Form) usual() bool { return f <= FewEvents }

// Form returns which form of an insert takes c's events.
func (c *Call) Form() Form {
	if len(c.Events) > FewEvents {
		values := make([]Event, len(c.Events))
		for i, e := range c.Events {
			values[i] = *e
		}
		c.arrays = Arrays(values)
		return many
	}
	form := Form(len(c.Events))
	for _, e := range c.Events {
		if !e.usual() {
			return form + FewEvents
		}
	}
	return form
}

// eventArg takes an argument from the event at i.
func eventArg(i, column int) Arg { return func(c *Call) any { return c.Events[i].arg(column) } }

// arg is e's value in one of InsertColumns.
func (e *Event) arg(column int) any {
	switch column {
	case 0:
		return (*UUID)(&e.ID)
	case 1:
		return (*Text)(&e.AggregateType)
	case 2:
		return (*Text)(&e.AggregateID)
	case 3:
		return (*Text)(&e.Type)
	case 4:
		return (*Bytes)(&e.Payload)
	case 5:
		return (*Text)(&e.ContentType)
	case 6:
		return (*headers)(&e.Headers)
	case occurredAt:
		if e.OccurredAt.IsZero() {
			return nil
		}
		return e.OccurredAt
	case 8:
		if e.DedupKey == "" {
			return nil
		}
		return (*Text)(&e.DedupKey)
	case 9:
		return int32(e.SchemaVersion)
	}
	return e.partition()
}
