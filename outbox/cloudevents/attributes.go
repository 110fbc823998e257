package cloudevents

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/internal/strictjson"
	"github.com/endstate-go/endstate/outbox"
)

// DataContentType is the attribute that bindings to a transport carry as the transport's own content type.
const DataContentType = "datacontenttype"

// The names of the other attributes. Every one that isn't among them is a header.
const (
	specVersion   = "specversion"
	id            = "id"
	source        = "source"
	eventType     = "type"
	subject       = "subject"
	occurredAt    = "time"
	dataSchema    = "dataschema"
	aggregateType = "aggregatetype"
	schemaVersion = "schemaversion"
	headers       = "headers"
)

var reserved = []string{specVersion, id, source, eventType, subject, occurredAt, DataContentType, dataSchema, "data", aggregateType, schemaVersion, headers}

const version = "1.0"

// Attribute is one attribute of an event: its name of a-z and 0-9, and its value as text, not escaped.
type Attribute struct{ Name, Value string }

// OriginalID is the header that holds the id of an event whose producer gave it one that isn't a UUID, such as evt_123. The
// event's own ID is a UUID that is derived from its source and this id, which CloudEvents wants to be unique together.
const OriginalID = "originalid"

// otherIDs is the namespace of the UUIDs that are derived.
var otherIDs = uuid.MustParse("4f0d2b8e-3f5c-4c0c-8d5b-0b8c7c1c3d6e")

// Attributes returns all that there is of an event except its data, in a fixed order. The source is a URI reference that says
// where it comes from. Optional attributes that are empty are left out. The error names the attribute that CloudEvents forbids:
// only Unicode is allowed, without control characters and noncharacters. Headers always find a way.
func Attributes(e outbox.Event, from string) ([]Attribute, error) {
	all := []Attribute{
		{specVersion, version},
		{id, e.ID.String()},
		{source, from},
		{eventType, e.Type},
		{subject, e.AggregateID},
		{occurredAt, ""},
		{DataContentType, e.ContentType},
		{aggregateType, e.AggregateType},
		{schemaVersion, strconv.Itoa(max(e.SchemaVersion, 1))},
	}
	if !e.OccurredAt.IsZero() {
		all[5].Value = e.OccurredAt.UTC().Format(time.RFC3339Nano)
	}
	var others map[string]string
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		value := e.Headers[name]
		if isExtension(name, value) {
			all = append(all, Attribute{name, value})
			continue
		}
		if others == nil {
			others = map[string]string{}
		}
		others[name] = value
	}
	if others != nil {
		text, _ := json.Marshal(others) // a map of strings can't fail
		all = append(all, Attribute{headers, ascii(text)})
	}
	all = slices.DeleteFunc(all, func(a Attribute) bool { return a.Value == "" })
	for _, a := range all {
		if err := checkValue(a.Name, a.Value); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// checkValue says why CloudEvents forbids a value.
func checkValue(name, value string) error {
	if !utf8.ValidString(value) {
		return fmt.Errorf("attribute %q is not valid UTF-8", name)
	}
	for _, c := range value {
		if unicode.IsControl(c) || c&0xfffe == 0xfffe || 0xfdd0 <= c && c <= 0xfdef {
			return fmt.Errorf("attribute %q contains %U, which CloudEvents forbids", name, c)
		}
	}
	return nil
}

// isExtension reports whether CloudEvents allows a header as an attribute, and every transport carries it unchanged.
func isExtension(name, value string) bool {
	if !isName(name) || len(name) > 20 || value == "" || slices.Contains(reserved, name) {
		return false
	}
	for _, c := range value {
		if !unicode.IsGraphic(c) {
			return false
		}
	}
	return true
}

// isName reports whether CloudEvents allows a name, if it isn't too long.
func isName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool { return !('a' <= c && c <= 'z' || '0' <= c && c <= '9') })
}

// ascii escapes what is beyond ASCII, and DEL, in a JSON text: control characters have no place in an attribute.
func ascii(text []byte) string {
	var b strings.Builder
	for _, c := range string(text) {
		switch {
		case c < 0x7f:
			b.WriteRune(c)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	return b.String()
}

// FromAttributes makes an event of its attributes and data, as Attributes gives them or another producer sends them. The error
// names the attribute: id, source and type must not be empty, specversion must be 1.0, and values must be such as Attributes
// returns. An id that isn't a UUID becomes the header OriginalID. Attributes that another producer leaves out are empty fields;
// those that aren't ours are headers. The data isn't copied.
func FromAttributes(attributes map[string]string, data []byte) (outbox.Event, error) {
	e := outbox.Event{
		Type:          attributes[eventType],
		AggregateType: attributes[aggregateType],
		AggregateID:   attributes[subject],
		ContentType:   attributes[DataContentType],
		Payload:       data,
		SchemaVersion: 1,
	}
	if v := attributes[specVersion]; v != version {
		return e, fmt.Errorf("%s is %q, not %s", specVersion, v, version)
	}
	for _, name := range []string{id, source, eventType} {
		if attributes[name] == "" {
			return e, fmt.Errorf("%s is missing", name)
		}
	}
	for name, value := range attributes {
		if !isName(name) {
			return e, fmt.Errorf("attribute %.100q has a name that is not of a-z and 0-9", name)
		}
		if err := checkValue(name, value); err != nil {
			return e, err
		}
	}
	var err error
	if at := attributes[occurredAt]; at != "" {
		if e.OccurredAt, err = time.Parse(time.RFC3339Nano, strings.ToUpper(at)); err != nil { // RFC 3339 allows t and z, Go doesn't
			return e, fmt.Errorf("%s %q is not in RFC 3339's format", occurredAt, at)
		}
	}
	if v, ok := attributes[schemaVersion]; ok {
		if e.SchemaVersion, err = strconv.Atoi(v); err != nil || e.SchemaVersion < 1 {
			return e, fmt.Errorf("%s %q is no version", schemaVersion, v)
		}
	}
	if e.Headers, err = headersOf(attributes); err != nil {
		return e, err
	}
	if e.ID, err = uuid.Parse(attributes[id]); err != nil || e.ID == uuid.Nil {
		e.ID = uuid.NewSHA1(otherIDs, []byte(attributes[source]+"\x00"+attributes[id]))
		if e.Headers == nil {
			e.Headers = map[string]string{}
		}
		e.Headers[OriginalID] = attributes[id]
	}
	return e, nil
}

func headersOf(attributes map[string]string) (map[string]string, error) {
	var all map[string]string
	if text, ok := attributes[headers]; ok {
		if err := strictjson.Unmarshal([]byte(text), &all); err != nil {
			return nil, errors.New(headers + " is not a JSON object of strings")
		}
	}
	for name, value := range attributes {
		if slices.Contains(reserved, name) {
			continue
		}
		if all == nil {
			all = map[string]string{}
		}
		all[name] = value
	}
	return all, nil
}
