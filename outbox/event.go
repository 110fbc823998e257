package outbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/internal/uuid7"
)

// Event is one event on its way to consumers. Type, AggregateType and AggregateID are required; inside a finalization the
// last two default to the aggregate's.
type Event struct {
	// ID identifies the event forever, through every repeated publication. Zero: a new UUIDv7.
	ID uuid.UUID
	// AggregateType and AggregateID name what the event is about; events of one aggregate are published in order.
	AggregateType string
	AggregateID   string
	// Type tells consumers what happened, such as "assessment.completed".
	Type string
	// Payload is kept and published byte for byte.
	Payload []byte
	// ContentType is the payload's media type. Empty: "application/json". A payload declared as JSON must be valid JSON.
	ContentType string
	// Headers travel beside the payload, such as trace context; see also Writer.Headers. Names and values together may have
	// MaxHeaders bytes.
	Headers map[string]string
	// OccurredAt is when it happened. Zero: the database's clock at the insert. Microseconds are kept.
	OccurredAt time.Time
	// DedupKey is unique in the table: of two events with one key only the first goes in. Empty: in a bare Put no dedup
	// beyond the ID; inside a finalization aggregate, key and type.
	DedupKey string
	// SchemaVersion is the payload's version, from 1. Zero: 1.
	SchemaVersion int
}

// The limits on an event's fields, in bytes. They keep every index entry well under a btree page's limit.
const (
	MaxName     = 200  // AggregateType, Type, ContentType
	MaxID       = 1000 // AggregateID
	MaxDedupKey = 2000
	MaxHeaders  = 16 << 10 // names and values of all headers together, with those that Writer.Headers adds
	// DefaultMaxPayload applies unless Writer.MaxPayload says otherwise.
	DefaultMaxPayload = 1 << 20
)

// Prepare returns a copy of events with their zero fields filled in (ids among them), or says which field of which event
// can't be stored, or which two share a key. Beside their own Headers they have what Writer.Headers takes from ctx, in maps that
// they may share. It sends nothing.
func (w Writer) Prepare(ctx context.Context, events []Event) ([]Event, error) {
	prepared := append(make([]Event, 0, len(events)), events...)
	var source *uuid7.Source // of ids, made when an event needs it
	var carried map[string]string
	checked := false // whether carried alone can be stored
	if w.Headers != nil && len(events) > 0 {
		carried = w.Headers(ctx)
	}
	for i := range prepared {
		e := &prepared[i]
		if e.ID == uuid.Nil {
			if source == nil {
				source = new(uuid7.Source)
			}
			e.ID = source.New()
		}
		e.fill()
		if err := e.validate(cmp.Or(w.MaxPayload, DefaultMaxPayload)); err != nil {
			return nil, err
		}
		switch {
		case len(e.Headers) == 0 && checked:
			e.Headers = carried
		case len(e.Headers) > 0 || len(carried) > 0:
			checked = checked || len(e.Headers) == 0
			if err := e.carry(carried); err != nil {
				return nil, err
			}
		}
	}
	if len(events) < 2 {
		return prepared, nil
	}
	ids, keys := map[uuid.UUID]int{}, make(map[string]int, len(prepared))
	for i, e := range prepared {
		if events[i].ID != uuid.Nil {
			if first, dup := ids[e.ID]; dup {
				return nil, duplicates(prepared, first, i, "ID "+e.ID.String())
			}
			ids[e.ID] = i
		}
		if e.DedupKey != "" {
			if first, dup := keys[e.DedupKey]; dup {
				return nil, duplicates(prepared, first, i, "DedupKey "+e.DedupKey)
			}
			keys[e.DedupKey] = i
		}
	}
	return prepared, nil
}

func duplicates(events []Event, i, j int, key string) error {
	return fmt.Errorf("%w: events %d (%q) and %d (%q) have the same %s", ErrDuplicate, i+1, events[i].Type, j+1, events[j].Type, key)
}

// fill fills in e's zero fields, but for its id.
func (e *Event) fill() {
	if e.ContentType == "" {
		e.ContentType = sqlplan.JSON
	}
	if e.SchemaVersion == 0 {
		e.SchemaVersion = 1
	}
	if e.Payload == nil {
		e.Payload = []byte{}
	}
	e.OccurredAt = e.OccurredAt.Truncate(time.Microsecond) // as the table keeps it: some drivers send more, and PostgreSQL rounds
}

// validate says which field of e, which has its defaults, can't be stored; its headers are left to carry.
func (e *Event) validate(maxPayload int) error {
	fields := []struct {
		name, value string
		max         int
		required    bool
	}{
		{"Type", e.Type, MaxName, true},
		{"AggregateType", e.AggregateType, MaxName, true},
		{"AggregateID", e.AggregateID, MaxID, true},
		{"ContentType", e.ContentType, MaxName, true},
		{"DedupKey", e.DedupKey, MaxDedupKey, false},
	}
	for _, f := range fields {
		if f.required && f.value == "" {
			return e.invalid(f.name, "is empty")
		}
		if len(f.value) > f.max {
			return e.invalid(f.name, fmt.Sprintf("is %d bytes long, the limit is %d", len(f.value), f.max))
		}
		if err := sqltx.CheckText(f.value); err != nil {
			return e.invalid(f.name, err.Error())
		}
	}
	if e.SchemaVersion < 0 || e.SchemaVersion > 1<<31-1 {
		return e.invalid("SchemaVersion", fmt.Sprintf("is %d", e.SchemaVersion))
	}
	if year := e.OccurredAt.UTC().Year(); year < 1 || year > 9999 { // of UTC, in which it is kept
		return e.invalid("OccurredAt", fmt.Sprintf("is in the year %d; it goes from 1 to 9999", year))
	}
	if len(e.Payload) > maxPayload {
		return e.invalid("Payload", fmt.Sprintf("is %d bytes long, Writer.MaxPayload is %d", len(e.Payload), maxPayload))
	}
	if isJSON(e.ContentType) {
		if bytes.IndexByte(e.Payload, 0) >= 0 {
			return e.invalid("Payload", "contains a NUL byte, though ContentType declares JSON")
		}
		if !utf8.Valid(e.Payload) {
			return e.invalid("Payload", "is not valid UTF-8, though ContentType declares JSON")
		}
		if !json.Valid(e.Payload) {
			return e.invalid("Payload", "is not valid JSON, though ContentType declares it")
		}
	}
	return nil
}

func isJSON(contentType string) bool {
	if contentType == sqlplan.JSON {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == sqlplan.JSON || strings.HasSuffix(media, "+json"))
}

func (e *Event) invalid(field, why string) error {
	return fmt.Errorf("%w: event %q: %s %s", ErrInvalidEvent, e.Type, field, why)
}

// carry adds to e's headers those of carried that it lacks, in a map that events may share. The error says which header can't be
// stored.
func (e *Event) carry(carried map[string]string) error {
	added := e.lacks(carried)
	if err := e.validateHeaders(added); err != nil {
		return err
	}
	if len(e.Headers) == 0 {
		e.Headers = added
	} else if len(added) > 0 {
		added = maps.Clone(added)
		maps.Copy(added, e.Headers)
		e.Headers = added
	}
	return nil
}

// lacks are those of headers that e doesn't have itself. Brokers and HTTP don't tell names by their case, so neither does
// this.
func (e *Event) lacks(headers map[string]string) map[string]string {
	for name := range e.Headers {
		if _, taken := lookup(headers, name); taken {
			headers = maps.Clone(headers)
			maps.DeleteFunc(headers, func(theirs, _ string) bool {
				_, taken := lookup(e.Headers, theirs)
				return taken
			})
			return headers
		}
	}
	return headers
}

// lookup finds a header by its name in any case.
func lookup(headers map[string]string, name string) (value string, found bool) {
	if value, found = headers[name]; found {
		return value, true
	}
	for other, value := range headers {
		if strings.EqualFold(other, name) {
			return value, true
		}
	}
	return "", false
}

// validateHeaders says which header can't be stored.
func (e *Event) validateHeaders(carried map[string]string) error {
	size := 0
	for _, source := range []struct {
		field   string
		headers map[string]string
	}{{"Headers", e.Headers}, {"Headers, with those of Writer.Headers,", carried}} {
		for name, value := range source.headers {
			if err := sqltx.CheckText(name); err != nil {
				return e.invalid(source.field, "has a key that "+err.Error())
			}
			if err := sqltx.CheckText(value); err != nil {
				return e.invalid(source.field, fmt.Sprintf("[%q] %v", name, err))
			}
			size += len(name) + len(value)
		}
		if size > MaxHeaders {
			return e.invalid(source.field, fmt.Sprintf("is %d bytes long, the limit is %d", size, MaxHeaders))
		}
	}
	return nil
}

// Partitions is the number of partitions that aggregates are spread over, and so the highest number of relays that find work
// for one subscription at a time. Rows know their partition, so a table keeps the number it was made with.
const Partitions = 8

// The statements' number is the same; where it isn't, this doesn't compile.
const _ = uint(Partitions-sqlplan.Partitions) + uint(sqlplan.Partitions-Partitions)

// Partition returns the partition of an aggregate, from 0 to Partitions-1: the first byte of the SHA-256 of type, slash and id,
// modulo Partitions. Who inserts events with SQL of their own calls the table's function, which returns the same:
//
//	endstate_outbox_partition(aggregate_type, aggregate_id)
func Partition(aggregateType, aggregateID string) int {
	return sqlplan.Partition(aggregateType, aggregateID)
}
