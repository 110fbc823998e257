package outboxwatermill

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox"
)

// Metadata of our own.
const (
	metaType          = "name"
	prefix            = "endstate_"
	metaAggregateType = prefix + "aggregate_type"
	metaAggregateID   = prefix + "aggregate_id"
	metaContentType   = prefix + "content_type"
	metaOccurredAt    = prefix + "occurred_at"
	metaSchemaVersion = prefix + "schema_version"
	metaHeaders       = prefix + "headers"
)

// ErrNotEvent is returned for a message that Encode has not made. No repetition fixes it: it is outbox.ErrPermanent, too.
var ErrNotEvent = fmt.Errorf("outboxwatermill: the message is no event: %w", outbox.ErrPermanent)

// Encode makes a message of an event, which shares no memory with it. It fails, permanently, for what no transport could carry.
func Encode(e outbox.Event) (*message.Message, error) {
	meta := message.Metadata{
		metaType: e.Type, metaAggregateType: e.AggregateType, metaAggregateID: e.AggregateID, metaContentType: e.ContentType,
		metaSchemaVersion: strconv.Itoa(e.SchemaVersion),
	}
	for name, value := range meta {
		if !printable(value) {
			return nil, outbox.Permanent(fmt.Errorf("outboxwatermill: event %s: metadata %s has a control character, or isn't UTF-8", e.ID, name))
		}
	}
	if !e.OccurredAt.IsZero() {
		meta[metaOccurredAt] = e.OccurredAt.UTC().Format(time.RFC3339Nano)
	}
	rest := map[string]string{}
	for name, value := range e.Headers {
		if plain(name) && printable(value) {
			meta[name] = value
		} else {
			rest[name] = value
		}
	}
	if len(rest) > 0 {
		text, err := json.Marshal(rest)
		if err != nil {
			return nil, outbox.Permanent(fmt.Errorf("outboxwatermill: event %s: headers: %w", e.ID, err))
		}
		meta[metaHeaders] = string(text)
	}
	msg := message.NewMessage(e.ID.String(), bytes.Clone(e.Payload))
	msg.Metadata = meta
	return msg, nil
}

// Decode reads a message that Encode made. Metadata that others added, such as a router's middleware, are headers. The error is
// ErrNotEvent.
func Decode(msg *message.Message) (outbox.Event, error) {
	fail := func(field string, err error) (outbox.Event, error) {
		return outbox.Event{}, fmt.Errorf("%w: %s: %w", ErrNotEvent, field, err)
	}
	e := outbox.Event{
		Type: msg.Metadata[metaType], AggregateType: msg.Metadata[metaAggregateType], AggregateID: msg.Metadata[metaAggregateID],
		ContentType: msg.Metadata[metaContentType], Payload: msg.Payload,
	}
	var err error
	if e.ID, err = uuid.Parse(msg.UUID); err != nil {
		return fail("UUID", err)
	}
	for name, value := range map[string]string{metaType: e.Type, metaAggregateType: e.AggregateType, metaAggregateID: e.AggregateID} {
		if value == "" {
			return fail("metadata "+name, errors.New("there is none"))
		}
	}
	if e.SchemaVersion, err = strconv.Atoi(msg.Metadata[metaSchemaVersion]); err != nil {
		return fail("metadata "+metaSchemaVersion, err)
	}
	if at := msg.Metadata[metaOccurredAt]; at != "" {
		if e.OccurredAt, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return fail("metadata "+metaOccurredAt, err)
		}
	}
	headers := map[string]string{}
	if text := msg.Metadata[metaHeaders]; text != "" {
		if err := json.Unmarshal([]byte(text), &headers); err != nil {
			return fail("metadata "+metaHeaders, err)
		}
		if headers == nil { // of the text null
			headers = map[string]string{}
		}
	}
	for name, value := range msg.Metadata {
		if name != metaType && !strings.HasPrefix(name, prefix) {
			headers[name] = value
		}
	}
	if len(headers) > 0 {
		e.Headers = headers
	}
	if e.Payload == nil {
		e.Payload = []byte{}
	}
	return e, nil
}

// PartitionKey names the aggregate of a message, for a marshaler that partitions, such as watermill-kafka's
// NewWithPartitioningMarshaler: a partition keeps their order.
func PartitionKey(_ string, msg *message.Message) (string, error) {
	return msg.Metadata[metaAggregateType] + "/" + msg.Metadata[metaAggregateID], nil
}

// plain reports whether a header may be metadata of the same name.
func plain(name string) bool {
	if name == "" || len(name) > 100 || name == metaType || strings.HasPrefix(name, prefix) || strings.HasPrefix(name, "_watermill") {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// printable reports whether every transport carries a text as it is.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) || r&0xfffe == 0xfffe || r >= 0xfdd0 && r <= 0xfdef // the last two aren't characters
	})
}
