package cloudevents

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/endstate-go/endstate/internal/strictjson"
	"github.com/endstate-go/endstate/outbox"
)

// StructuredType is the media type of an event as one JSON text.
const StructuredType = "application/cloudevents+json"

// Structured returns an event from a source as one JSON text. A JSON payload stands in it byte for byte, as the member data;
// every other one, and JSON that wouldn't come out of it as it was, is in data_base64. The error is that of Attributes.
func Structured(e outbox.Event, from string) ([]byte, error) {
	all, err := Attributes(e, from)
	if err != nil {
		return nil, err
	}
	b := []byte{'{'}
	for _, a := range all {
		b = appendString(b, a.Name)
		b = append(b, ':')
		if a.Name == schemaVersion {
			b = append(b, a.Value...)
		} else {
			b = appendString(b, a.Value)
		}
		b = append(b, ',')
	}
	attributes := len(b)
	if isJSON(e.ContentType) && len(bytes.TrimSpace(e.Payload)) == len(e.Payload) && utf8.Valid(e.Payload) && json.Valid(e.Payload) {
		b = append(b, `"data":`...)
		b = append(b, e.Payload...)
		b = append(b, '}')
		if json.Valid(b) { // else it nests deeper than parsers go
			return b, nil
		}
	}
	b = append(b[:attributes], `"data_base64":"`...)
	b = base64.StdEncoding.AppendEncode(b, e.Payload)
	return append(b, `"}`...), nil
}

func appendString(b []byte, s string) []byte {
	text, _ := json.Marshal(s) // a string can't fail
	return append(b, text...)
}

// isJSON reports whether a media type is JSON. The empty one is: it is the default of events and of CloudEvents' JSON format.
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return contentType == "" || err == nil && (media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json"))
}

// ParseStructured reads what Structured, or another producer, wrote. Its errors are those of FromAttributes, and what is wrong
// with the JSON text. Data of a JSON content type is returned byte for byte; a string of another one is its text.
func ParseStructured(text []byte) (outbox.Event, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return outbox.Event{}, errors.New("the body is not a JSON object")
	}
	if !utf8.Valid(text) {
		return outbox.Event{}, errors.New("the body is not valid UTF-8")
	}
	data, encoded := members["data"], members["data_base64"]
	delete(members, "data")
	delete(members, "data_base64")
	attributes := make(map[string]string, len(members))
	for name, raw := range members {
		switch raw[0] {
		case 'n': // null: as if it weren't there
		case '{', '[':
			return outbox.Event{}, fmt.Errorf("attribute %q is neither text, number nor boolean", name)
		case '"':
			var value string
			if err := strictjson.Unmarshal(raw, &value); err != nil {
				return outbox.Event{}, fmt.Errorf("attribute %q %w", name, err)
			}
			attributes[name] = value
		default:
			attributes[name] = string(raw)
		}
	}
	payload, err := payload(data, encoded, isJSON(attributes[DataContentType]))
	if err != nil {
		return outbox.Event{}, err
	}
	return FromAttributes(attributes, payload)
}

// payload is what one of two members holds.
func payload(data, encoded json.RawMessage, isJSON bool) ([]byte, error) {
	switch {
	case data != nil && encoded != nil:
		return nil, errors.New("there are both data and data_base64")
	case encoded != nil:
		var plain []byte
		if err := json.Unmarshal(encoded, &plain); err != nil {
			return nil, errors.New("data_base64 is not in base64")
		}
		return plain, nil
	case data == nil || isJSON:
		return data, nil
	}
	var text string
	switch err := strictjson.Unmarshal(data, &text); {
	case errors.Is(err, strictjson.ErrNotUnicode):
		return nil, fmt.Errorf("data %w", err)
	case err != nil:
		return data, nil // JSON after all, which CloudEvents leaves to the receiver
	}
	return []byte(text), nil
}
