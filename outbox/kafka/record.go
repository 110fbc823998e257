package kafka

import (
	"errors"
	"fmt"
	"mime"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/cloudevents"
)

const (
	attributePrefix = "ce_"
	contentType     = "content-type"
	structuredMedia = "application/cloudevents"
)

// record makes an event's record. Its value is the payload itself: the client holds none of it when Publish returns.
func record(e outbox.Event, topic, source string) (*kgo.Record, error) {
	attributes, err := cloudevents.Attributes(e, source)
	if err != nil {
		return nil, err
	}
	headers := make([]kgo.RecordHeader, 0, len(attributes))
	for _, a := range attributes {
		name := attributePrefix + a.Name
		if a.Name == cloudevents.DataContentType {
			name = contentType
		}
		headers = append(headers, kgo.RecordHeader{Key: name, Value: []byte(a.Value)})
	}
	value := e.Payload
	if value == nil {
		value = []byte{} // null would be a tombstone
	}
	return &kgo.Record{Topic: topic, Key: []byte(e.AggregateID), Value: value, Headers: headers}, nil
}

// size is about how long a record is in a batch: more rather than less.
func size(r *kgo.Record) int {
	const own, perHeader = 32, 10 // lengths and such
	n := own + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += perHeader + len(h.Key) + len(h.Value)
	}
	return n
}

// ErrNotEvent is returned for a record that is no event: somebody else sent it.
var ErrNotEvent = errors.New("kafka: not an event")

// Decode returns the event of a record, in binary mode or in structured mode, given its headers and value, which it doesn't copy.
// Fields that another producer of CloudEvents leaves out are empty; an id that isn't a UUID is in the header
// cloudevents.OriginalID. Headers that are no CloudEvents attributes are left out.
func Decode(headers []kgo.RecordHeader, value []byte) (outbox.Event, error) {
	attributes := map[string]string{}
	for _, h := range headers {
		name, ok := strings.CutPrefix(h.Key, attributePrefix)
		if !ok {
			if !strings.EqualFold(h.Key, contentType) {
				continue
			}
			name = cloudevents.DataContentType
		}
		if _, twice := attributes[name]; twice {
			return outbox.Event{}, fmt.Errorf("%w: header %.100q appears twice", ErrNotEvent, h.Key)
		}
		attributes[name] = string(h.Value)
	}
	var e outbox.Event
	var err error
	if media, _, _ := mime.ParseMediaType(attributes[cloudevents.DataContentType]); strings.HasPrefix(media, structuredMedia) {
		if media != structuredMedia+"+json" {
			return outbox.Event{}, fmt.Errorf("%w: its content type is %.100q; there are %s+json and binary mode", ErrNotEvent, media, structuredMedia)
		}
		e, err = cloudevents.ParseStructured(value)
	} else {
		e, err = cloudevents.FromAttributes(attributes, value)
	}
	if err != nil {
		return outbox.Event{}, fmt.Errorf("%w: %w", ErrNotEvent, err)
	}
	return e, nil
}
