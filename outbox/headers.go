package outbox

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/endstate-go/endstate/internal/sqltx"
)

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
		for _, name := range slices.Sorted(maps.Keys(source.headers)) {
			value := source.headers[name]
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
