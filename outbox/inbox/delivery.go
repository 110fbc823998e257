package inbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// The limits on names, in bytes. They keep an index entry well under a btree page's limit.
const (
	MaxConsumer = 200
	MaxKey      = 1000
)

// delivery is one delivery of an event to a consumer.
type delivery struct {
	event    outbox.Event
	consumer string
	key      string
	byID     bool // key is the event's id
	digest   []byte
	again    bool // a dead letter that is tried again

	otherType bool // judge found that an event of another type has the key
}

// newDelivery says what is wrong with an event, or under which key it is handled once. key is the consumer's business key,
// nil for the event's id. The error may be ErrSkip.
func newDelivery(consumer string, event outbox.Event, key func(outbox.Event) (string, error)) (*delivery, error) {
	d := &delivery{event: event, consumer: consumer, key: event.ID.String(), byID: key == nil, digest: digest(&event)}
	for _, f := range []struct{ name, value string }{{"Type", event.Type}, {"AggregateType", event.AggregateType}, {"AggregateID", event.AggregateID}} {
		if !utf8.ValidString(f.value) { // a dead letter's JSON would have another, and so another digest
			return nil, fmt.Errorf("%w: %v: %s is not valid UTF-8", ErrInvalidEvent, d, f.name)
		}
	}
	if year := event.OccurredAt.Year(); year < 0 || year > 9999 { // with which it could be no dead letter
		return nil, fmt.Errorf("%w: %v: OccurredAt is in the year %d", ErrInvalidEvent, d, year)
	}
	if key != nil {
		k, err := key(event)
		if errors.Is(err, ErrSkip) {
			return nil, err
		}
		if err == nil {
			err = checkText(k, MaxKey)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %v: business key %w", ErrInvalidEvent, d, err)
		}
		d.key = k
		if event.ID == uuid.Nil { // another's event, whose own id is no UUID
			d.event.ID = uuid.NewSHA1(withoutID, append([]byte(k+"\x00"), d.digest...))
		}
	}
	if d.event.ID == uuid.Nil {
		return nil, fmt.Errorf("%w: consumer %s: event %q: ID is empty, and there is no business key", ErrInvalidEvent, consumer, event.Type)
	}
	return d, nil
}

// withoutID is the namespace of the ids that events without one get, by their keys and contents.
var withoutID = uuid.MustParse("8ce63f7e-6d1d-4d4b-9d0f-3c5a36b7f2a1")

// String names the delivery in errors.
func (d *delivery) String() string {
	if d.byID {
		return fmt.Sprintf("consumer %s: event %s", d.consumer, d.event.ID)
	}
	return fmt.Sprintf("consumer %s: event %s, key %q", d.consumer, d.event.ID, d.key)
}

func (d *delivery) attrs(more ...any) []any {
	return append([]any{"consumer", d.consumer, "event", d.event.ID.String(), "type", d.event.Type, "key", d.key}, more...)
}

// digestOfType is how many bytes of a digest tell the type alone.
const digestOfType = 8

// digest tells what makes an event: its type, what it is about, and its payload. Headers may change on the way. It is the
// beginnings of two SHA-256, of the type and of all.
func digest(e *outbox.Event) []byte {
	buf := make([]byte, 0, 256)
	for _, s := range []string{e.Type, e.AggregateType, e.AggregateID} {
		buf = binary.AppendUvarint(buf, uint64(len(s)))
		buf = append(buf, s...)
	}
	h := sha256.New()
	h.Write(buf)
	h.Write(e.Payload)
	ofType := sha256.Sum256([]byte(e.Type))
	return append(ofType[:digestOfType], h.Sum(buf[:0])[:sha256.Size-digestOfType]...)
}

// sameType reports whether two digests are of events of one type.
func sameType(a, b []byte) bool {
	return len(a) >= digestOfType && len(b) >= digestOfType && bytes.Equal(a[:digestOfType], b[:digestOfType])
}

// record is what a way has kept of an earlier delivery.
type record struct {
	key    string
	id     string // of the event
	digest []byte
	state  string
	value  []byte
}

// The states of a record.
const (
	claimed = "claimed" // Claims
	handled = "handled"
	failed  = "failed" // Table
	dead    = "dead"   // Table
)

// judge says what the records of a delivery's key and of its event's id mean to it; over is false if it must be handled.
func (d *delivery) judge(records []record) (result Result, over bool, err error) {
	for _, r := range records {
		same := r.id == d.event.ID.String()
		differs := !bytes.Equal(r.digest, d.digest)
		id, err := uuid.Parse(r.id)
		switch {
		case err != nil:
			return Result{}, true, fmt.Errorf("inbox: %v: its record has event id %.40q, which is no UUID", d, r.id)
		case len(r.digest) != sha256.Size: // not ours to compare: it would pass for another event, which isn't applied
			return Result{}, true, fmt.Errorf("inbox: %v: its record has a digest of %d bytes instead of %d", d, len(r.digest), sha256.Size)
		case r.state != claimed && r.state != handled && r.state != failed && r.state != dead: // a newer version's, which may have applied it
			return Result{}, true, fmt.Errorf("inbox: %v: its record is in state %.40q, which isn't known", d, r.state)
		case same && (differs || r.key != d.key && r.state != handled):
			return Result{}, true, fmt.Errorf("%w: it is %s under key %q with digest %x, and was delivered with %x", ErrPayloadMismatch, r.state, r.key, short(r.digest), short(d.digest))
		case r.state == handled && differs:
			d.otherType = !sameType(r.digest, d.digest)
			return Result{Outcome: Collided, First: id, Value: r.value}, true, nil
		case r.state == handled:
			return Result{Outcome: Repeated, First: id, Value: r.value}, true, nil
		case r.state == dead && same && !d.again:
			return Result{Outcome: DeadLettered, First: id}, true, nil
		}
	}
	return Result{}, false, nil
}

// short is enough of a digest to tell two apart by eye.
func short(digest []byte) []byte { return digest[max(len(digest)-6, 0):] }

// checkText says why s can't be a name or key.
func checkText(s string, limit int) error {
	if s == "" {
		return errors.New("is empty")
	}
	if len(s) > limit {
		return fmt.Errorf("is %d bytes long, the limit is %d", len(s), limit)
	}
	return sqltx.CheckText(s)
}
