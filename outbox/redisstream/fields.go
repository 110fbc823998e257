package redisstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/internal/strictjson"
	"github.com/endstate-go/endstate/outbox"
)

// The fields of a stream's entry, all of them text but for the payload's bytes. An entry has each of them, save those that
// say otherwise. Readers have to ignore others.
const (
	FieldID            = "id"             // a UUID in lower case: by it, consumers tell a repeat
	FieldType          = "type"           // such as "assessment.completed"
	FieldAggregateType = "aggregate_type" // such as "batch"
	FieldAggregateID   = "aggregate_id"
	FieldContentType   = "content_type"   // the payload's media type
	FieldSchemaVersion = "schema_version" // the payload's version, from 1
	FieldOccurredAt    = "occurred_at"    // RFC 3339 in UTC, with up to six digits of a second; absent if it isn't known
	FieldHeaders       = "headers"        // a JSON object of strings; absent if there are none
	FieldPayload       = "payload"        // the bytes as they were put
)

// Encode returns an event's fields and their values by turns, as XADD takes them. The payload isn't copied.
func Encode(e outbox.Event) []any {
	fields := []any{
		FieldID, e.ID.String(),
		FieldType, e.Type,
		FieldAggregateType, e.AggregateType,
		FieldAggregateID, e.AggregateID,
		FieldContentType, e.ContentType,
		FieldSchemaVersion, strconv.Itoa(max(e.SchemaVersion, 1)),
	}
	if !e.OccurredAt.IsZero() {
		fields = append(fields, FieldOccurredAt, e.OccurredAt.UTC().Format(time.RFC3339Nano))
	}
	if len(e.Headers) > 0 {
		text, _ := json.Marshal(e.Headers) // a map of strings can't fail
		fields = append(fields, FieldHeaders, text)
	}
	return append(fields, FieldPayload, e.Payload)
}

// ErrNotEvent is returned for an entry that is no event: somebody else wrote it.
var ErrNotEvent = errors.New("redisstream: not an event")

// Decode returns the event of an entry, given its values as go-redis has them in XMessage.Values. It ignores fields that it
// doesn't know.
func Decode(values map[string]any) (outbox.Event, error) {
	text := make(map[string]string, len(values))
	for name, value := range values {
		s, ok := value.(string)
		if !ok {
			return outbox.Event{}, fmt.Errorf("%w: field %q is a %T, not a string", ErrNotEvent, name, value)
		}
		text[name] = s
	}
	for name, value := range text {
		if name != FieldPayload && !utf8.ValidString(value) {
			return outbox.Event{}, fmt.Errorf("%w: field %.100q is not valid UTF-8", ErrNotEvent, name)
		}
	}
	for _, name := range []string{FieldID, FieldType, FieldPayload} {
		if _, ok := text[name]; !ok {
			return outbox.Event{}, fmt.Errorf("%w: field %q is missing", ErrNotEvent, name)
		}
	}
	e := outbox.Event{
		Type: text[FieldType], AggregateType: text[FieldAggregateType], AggregateID: text[FieldAggregateID],
		ContentType: text[FieldContentType], Payload: []byte(text[FieldPayload]), SchemaVersion: 1,
	}
	var err error
	if e.ID, err = uuid.Parse(text[FieldID]); err != nil {
		return outbox.Event{}, fmt.Errorf("%w: field %q is no UUID", ErrNotEvent, FieldID)
	}
	if v, ok := text[FieldSchemaVersion]; ok {
		if e.SchemaVersion, err = strconv.Atoi(v); err != nil || e.SchemaVersion < 1 {
			return outbox.Event{}, fmt.Errorf("%w: field %q is %q", ErrNotEvent, FieldSchemaVersion, v)
		}
	}
	if at, ok := text[FieldOccurredAt]; ok {
		if e.OccurredAt, err = time.Parse(time.RFC3339Nano, strings.ToUpper(at)); err != nil {
			return outbox.Event{}, fmt.Errorf("%w: field %q is not in RFC 3339's format", ErrNotEvent, FieldOccurredAt)
		}
	}
	if h, ok := text[FieldHeaders]; ok {
		if err := strictjson.Unmarshal([]byte(h), &e.Headers); err != nil {
			return outbox.Event{}, fmt.Errorf("%w: field %q is not a JSON object of strings", ErrNotEvent, FieldHeaders)
		}
	}
	return e, nil
}
