package relay

import (
	"encoding/base64"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox"
)

// eventJSON is an event's row in JSON.
type eventJSON struct {
	Seq           int64             `json:"seq"`
	ID            uuid.UUID         `json:"id"`
	Type          string            `json:"type"`
	AggregateType string            `json:"aggregate_type"`
	AggregateID   string            `json:"aggregate_id"`
	Partition     int               `json:"partition"`
	CreatedAt     time.Time         `json:"created_at,omitzero"`
	OccurredAt    time.Time         `json:"occurred_at,omitzero"`
	DedupKey      string            `json:"dedup_key,omitempty"`
	SchemaVersion int               `json:"schema_version"`
	ContentType   string            `json:"content_type"`
	Headers       map[string]string `json:"headers,omitempty"`
}

func newEventJSON(e *outbox.Event, seq int64, partition int, created time.Time) eventJSON {
	return eventJSON{seq, e.ID, e.Type, e.AggregateType, e.AggregateID, partition, created, e.OccurredAt, e.DedupKey, e.SchemaVersion, e.ContentType, e.Headers}
}

// MarshalJSON implements json.Marshaler: the event's and the delivery's fields, in snake case, without what is zero.
func (r Record) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		eventJSON
		Delivery
	}{newEventJSON(&r.Event, r.Seq, r.Partition, r.CreatedAt), r.Delivery})
}

// MarshalJSON implements json.Marshaler. A payload that was read is its "payload" if it is UTF-8, else "payload_base64", and
// "payload_cut" if that isn't all of it.
func (s Shown) MarshalJSON() ([]byte, error) {
	v := struct {
		eventJSON
		PayloadBytes  int64          `json:"payload_bytes"`
		Payload       string         `json:"payload,omitempty"`
		PayloadBase64 string         `json:"payload_base64,omitempty"`
		PayloadCut    bool           `json:"payload_cut,omitempty"`
		Deliveries    []Delivery     `json:"deliveries"`
		History       []Intervention `json:"history"`
	}{
		eventJSON: newEventJSON(&s.Event, s.Seq, s.Partition, s.CreatedAt), PayloadBytes: s.PayloadSize, PayloadCut: s.Cut(),
		Deliveries: append([]Delivery{}, s.Deliveries...), History: append([]Intervention{}, s.History...),
	}
	if utf8.Valid(s.Payload) {
		v.Payload = string(s.Payload)
	} else {
		v.PayloadBase64 = base64.StdEncoding.EncodeToString(s.Payload)
	}
	return json.Marshal(v)
}

// Cut reports whether Payload is only the beginning of the event's payload.
func (s Shown) Cut() bool { return len(s.Payload) > 0 && int64(len(s.Payload)) < s.PayloadSize }
