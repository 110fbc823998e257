package outbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/internal/sqlplan"
	"github.com/endstate-go/endstate/internal/sqltx"
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
	var carried map[string]string
	if w.Headers != nil && len(events) > 0 {
		carried = w.Headers(ctx)
	}
	for i := range prepared {
		e := &prepared[i]
		if err := e.fill(); err != nil {
			return nil, err
		}
		if err := e.validate(cmp.Or(w.MaxPayload, DefaultMaxPayload)); err != nil {
			return nil, err
		}
		if len(e.Headers) > 0 || len(carried) > 0 {
			if err := e.carry(carried); err != nil {
				return nil, err
			}
		}
	}
	if len(events) < 2 {
		return prepared, nil
	}
	seen := make(map[string]int, 2*len(prepared))
	for i, e := range prepared {
		keys := []string{"ID " + e.ID.String()}
		if e.DedupKey != "" {
			keys = append(keys, "DedupKey "+e.DedupKey)
		}
		for _, key := range keys {
			if first, dup := seen[key]; dup {
				return nil, fmt.Errorf("%w: events %d (%q) and %d (%q) have the same %s",
					ErrDuplicate, first+1, prepared[first].Type, i+1, e.Type, key)
			}
			seen[key] = i
		}
	}
	return prepared, nil
}

// fill fills in e's zero fields.
func (e *Event) fill() error {
	if e.ID == uuid.Nil {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("outbox: new event id: %w", err)
		}
		e.ID = id
	}
	if e.ContentType == "" {
		e.ContentType = sqlplan.JSON
	}
	if e.SchemaVersion == 0 {
		e.SchemaVersion = 1
	}
	if e.Payload == nil {
		e.Payload = []byte{}
	}
	return nil
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
	if year := e.OccurredAt.Year(); !e.OccurredAt.IsZero() && (year < 1 || year > 9999) {
		return e.invalid("OccurredAt", fmt.Sprintf("is in the year %d", year))
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
