package sqlplan

import (
	"crypto/sha256"
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

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

// row are e's values in the order of InsertColumns.
func (e *Event) row() [len(columnTypes)]any {
	row := [len(columnTypes)]any{e.ID.String(), e.AggregateType, e.AggregateID, e.Type, e.Payload, e.ContentType, e.headers(), nil, e.dedupKey(), int32(e.SchemaVersion), e.partition()}
	if !e.OccurredAt.IsZero() {
		row[occurredAt] = e.OccurredAt
	}
	return row
}

// JSON is the content type that an event has unless it says otherwise.
const JSON = "application/json"

// usual reports whether an event has what most have: JSON in its first version, and no time of its own. That is spelled out in the
// statement, since an argument costs more than a constant, on both sides.
func (e *Event) usual() bool {
	return e.ContentType == JSON && e.OccurredAt.IsZero() && e.SchemaVersion == 1
}

var usualConstants = [len(columnTypes)]string{5: "'" + JSON + "'", occurredAt: "clock_timestamp()", 9: "1"}

// headers are the headers as JSON.
func (e *Event) headers() string {
	switch len(e.Headers) {
	case 0:
		return "{}"
	case 1: // a trace's, as a rule, in which nothing needs an escape
		for name, value := range e.Headers {
			if plain(name) && plain(value) {
				return `{"` + name + `":"` + value + `"}`
			}
		}
	}
	text, _ := json.Marshal(e.Headers) // a map of strings can't fail
	return string(text)
}

// plain reports whether JSON has text as it is.
func plain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func (e *Event) dedupKey() any {
	if e.DedupKey == "" {
		return nil
	}
	return e.DedupKey
}

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
	ids, aggregateTypes, aggregateIDs, types := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	payloads, contentTypes, headers := make([][]byte, n), make([]string, n), make([]string, n)
	occurred, dedup, versions, partitions := make([]*time.Time, n), make([]*string, n), make([]int32, n), make([]int16, n)
	for i := range events {
		e := &events[i]
		ids[i], aggregateTypes[i], aggregateIDs[i], types[i] = e.ID.String(), e.AggregateType, e.AggregateID, e.Type
		payloads[i], contentTypes[i] = e.Payload, e.ContentType
		before := i - 1 // what events of one call share is made once
		if i > 0 && maps.Equal(e.Headers, events[before].Headers) {
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
		if e.DedupKey != "" {
			dedup[i] = &e.DedupKey
		}
		versions[i] = int32(e.SchemaVersion)
	}
	if !slices.ContainsFunc(occurred, func(t *time.Time) bool { return t != nil }) {
		occurred = nil
	}
	return []any{ids, alike(aggregateTypes), aggregateIDs, alike(types), payloads, alike(contentTypes), alike(headers), occurred, dedup, alike(versions), partitions}
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

// Batch returns the arguments of an insert of events that are to go in together, and which form of it takes them.
func Batch(events []*Event) (form Form, args []any) {
	if len(events) > FewEvents {
		values := make([]Event, len(events))
		for i, e := range events {
			values[i] = *e
		}
		return many, Arrays(values)
	}
	usual := true
	for i := range events {
		usual = usual && events[i].usual()
	}
	if form = Form(len(events)); !usual {
		form += FewEvents
	}
	args = make([]any, 0, len(events)*len(columnTypes))
	for i := range events {
		for column, value := range events[i].row() {
			if usualConstants[column] == "" || !usual {
				args = append(args, value)
			}
		}
	}
	return form, args
}
