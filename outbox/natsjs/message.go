package natsjs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/cloudevents"
)

const (
	attributePrefix = "ce-"
	contentType     = "content-type"
)

// message makes an event's message. Its data is a copy: the client may send it again after Publish has returned.
func message(e outbox.Event, subject, source string) (*nats.Msg, error) {
	attributes, err := cloudevents.Attributes(e, source)
	if err != nil {
		return nil, err
	}
	header := nats.Header{}
	for _, a := range attributes {
		if a.Name == cloudevents.DataContentType {
			header.Set(contentType, cloudevents.Escape(a.Value))
		} else {
			header.Set(attributePrefix+a.Name, cloudevents.Escape(a.Value))
		}
	}
	header.Set(jetstream.MsgIDHeader, e.ID.String())
	return &nats.Msg{Subject: subject, Header: header, Data: bytes.Clone(e.Payload)}, nil
}

// ErrNotEvent is returned for a message that is no event: somebody else sent it.
var ErrNotEvent = errors.New("natsjs: not an event")

// Decode returns the event of a message, given its headers and data. Fields that another producer of CloudEvents leaves out
// are empty; an id that isn't a UUID is in the header cloudevents.OriginalID.
func Decode(header nats.Header, data []byte) (outbox.Event, error) {
	attributes := map[string]string{}
	for name, values := range header {
		if len(values) == 0 {
			continue
		}
		attribute, ok := strings.CutPrefix(strings.ToLower(name), attributePrefix)
		if !ok {
			if !strings.EqualFold(name, contentType) {
				continue
			}
			attribute = cloudevents.DataContentType
		}
		value, err := cloudevents.Unescape(values[0])
		if err != nil {
			return outbox.Event{}, fmt.Errorf("%w: header %s %w", ErrNotEvent, name, err)
		}
		attributes[attribute] = value
	}
	e, err := cloudevents.FromAttributes(attributes, data)
	if err != nil {
		return outbox.Event{}, fmt.Errorf("%w: %w", ErrNotEvent, err)
	}
	return e, nil
}

// subject is where an event goes by default. Dots of the event's type part tokens, as in events.batch.assessment.completed;
// all that a token may not hold is percent-encoded.
func subject(prefix string, e outbox.Event) string {
	tokens := []string{prefix, token(e.AggregateType)}
	parts := strings.Split(e.Type, ".")
	for _, part := range parts {
		if part == "" { // dots that part nothing
			parts = []string{e.Type}
			break
		}
	}
	for _, part := range parts {
		tokens = append(tokens, token(part))
	}
	return strings.Join(tokens, ".")
}

var tokenEscapes = strings.NewReplacer(".", "%2E", "*", "%2A", ">", "%3E")

func token(s string) string { return tokenEscapes.Replace(cloudevents.Escape(s)) }

// validSubject reports whether a message can be sent to a subject: one with a space would break the protocol's line.
func validSubject(s string) bool {
	for t := range strings.SplitSeq(s, ".") {
		if t == "" || t == "*" || t == ">" || strings.ContainsFunc(t, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
			return false
		}
	}
	return true
}
