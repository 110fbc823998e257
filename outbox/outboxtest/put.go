package outboxtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// Match says which events are meant: those that have every field that isn't empty here.
type Match struct {
	Type, AggregateType, AggregateID, DedupKey string
	// Payload returns nil for a payload that is meant, else why it isn't. JSON and JSONEqual make it.
	Payload func(payload []byte) error
	// Outbox is where to look. The zero one is the default outbox.
	Outbox outbox.Writer
}

// RequirePut ends the test unless exactly one event that matches is in the outbox, and returns that event. It looks at what
// tx sees: the events that were put in it, and those that were committed before. Where a test's database keeps the events of
// other tests, match the aggregate, too. A *sql.Tx is wrapped by endstate.PostgresTx or endstate.SQLiteTx.
func RequirePut(t testing.TB, tx endstate.Tx, m Match) outbox.Event {
	t.Helper()
	all := Events(t, tx, m.Outbox)
	var found []outbox.Event
	for _, e := range all {
		if m.differs(e) == "" {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		if len(all) == 0 {
			t.Fatalf("outboxtest: no event%s is in %s, which is empty", m, m.Outbox.Name())
		}
		t.Fatalf("outboxtest: no event%s is in %s, which holds:\n%s", m, m.Outbox.Name(), table(all, m.differs))
	case 1:
	default:
		t.Fatalf("outboxtest: %d events%s are in %s, not one:\n%s", len(found), m, m.Outbox.Name(), table(found, nil))
	}
	return found[0]
}

// RequireNotPut ends the test if an event that matches is in the outbox, as tx sees it (see RequirePut).
func RequireNotPut(t testing.TB, tx endstate.Tx, m Match) {
	t.Helper()
	for _, e := range Events(t, tx, m.Outbox) {
		if m.differs(e) == "" {
			t.Fatalf("outboxtest: an event%s is in %s:\n%s", m, m.Outbox.Name(), table([]outbox.Event{e}, nil))
		}
	}
}

// RequireTypes ends the test unless the events that match are of exactly these types, in the order in which they were put (see
// RequirePut).
func RequireTypes(t testing.TB, tx endstate.Tx, m Match, types ...string) {
	t.Helper()
	all := Events(t, tx, m.Outbox)
	var found []string
	for _, e := range all {
		if m.differs(e) == "" {
			found = append(found, e.Type)
		}
	}
	if slices.Equal(found, types) {
		return
	}
	if len(all) == 0 {
		t.Fatalf("outboxtest: want the events %q%s, and %s is empty", types, m, m.Outbox.Name())
	}
	t.Fatalf("outboxtest: want the events %q%s, not %q; %s holds:\n%s", types, m, found, m.Outbox.Name(), table(all, m.differs))
}

// Events returns all events in an outbox, as tx sees it, in the order in which they were put.
func Events(t testing.TB, tx endstate.Tx, in outbox.Writer) []outbox.Event {
	t.Helper()
	events, err := read(t.Context(), tx, in)
	if err != nil {
		t.Fatalf("outboxtest: read %s: %v", in.Name(), err)
	}
	return events
}

func read(ctx context.Context, tx endstate.Tx, in outbox.Writer) ([]outbox.Event, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `SELECT CAST(id AS text), aggregate_type, aggregate_id, type, payload, content_type, CAST(headers AS text), occurred_at, coalesce(dedup_key, ''), schema_version
FROM `+sqltx.Quote(in.Schema, in.Name())+` ORDER BY seq`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var events []outbox.Event
	for rows.Next() {
		var e outbox.Event
		var id, headers string
		var at any // SQLite has it as text
		if err := rows.Scan(&id, &e.AggregateType, &e.AggregateID, &e.Type, &e.Payload, &e.ContentType, &headers, &at, &e.DedupKey, &e.SchemaVersion); err != nil {
			return nil, err
		}
		var errID, errAt error
		e.ID, errID = uuid.Parse(id)
		switch at := at.(type) {
		case time.Time:
			e.OccurredAt = at.UTC()
		case string:
			e.OccurredAt, errAt = time.Parse(time.RFC3339Nano, at)
		}
		if err := errors.Join(errID, errAt, json.Unmarshal([]byte(headers), &e.Headers)); err != nil {
			return nil, fmt.Errorf("event %s: %w", id, err)
		}
		events = append(events, e)
	}
	return events, rows.Err()
}

// differs says in what e isn't meant; it is empty if e is.
func (m Match) differs(e outbox.Event) string {
	for _, f := range []struct{ name, want, got string }{
		{"type", m.Type, e.Type},
		{"aggregate type", m.AggregateType, e.AggregateType},
		{"aggregate id", m.AggregateID, e.AggregateID},
		{"dedup key", m.DedupKey, e.DedupKey},
	} {
		if f.want != "" && f.want != f.got {
			return f.name + " differs"
		}
	}
	if m.Payload != nil {
		if err := m.Payload(e.Payload); err != nil {
			return "payload: " + err.Error()
		}
	}
	return ""
}

// String says what is meant, as it goes after the word "event".
func (m Match) String() string {
	var parts []string
	for _, f := range []struct{ name, want string }{
		{"type", m.Type}, {"aggregate type", m.AggregateType}, {"aggregate id", m.AggregateID}, {"dedup key", m.DedupKey},
	} {
		if f.want != "" {
			parts = append(parts, fmt.Sprintf("%s %q", f.name, f.want))
		}
	}
	if m.Payload != nil {
		parts = append(parts, "the payload asked for")
	}
	if len(parts) == 0 {
		return ""
	}
	return " with " + strings.Join(parts, ", ")
}

// JSON makes a Match.Payload of a condition on the payload, decoded into a T.
func JSON[T any](meant func(T) bool) func([]byte) error {
	return func(payload []byte) error {
		var v T
		if err := json.Unmarshal(payload, &v); err != nil {
			return err
		}
		if !meant(v) {
			return errors.New("is another")
		}
		return nil
	}
}

// JSONEqual makes a Match.Payload of a JSON text: spaces and the order of keys don't matter.
func JSONEqual(want string) func([]byte) error {
	return func(payload []byte) error {
		wanted, err := canonical([]byte(want))
		if err != nil {
			return fmt.Errorf("what JSONEqual wants: %w", err)
		}
		got, err := canonical(payload)
		if err != nil {
			return err
		}
		if !bytes.Equal(wanted, got) {
			return errors.New("is another")
		}
		return nil
	}
}

// canonical sorts keys and drops spaces. Numbers stay as they are written.
func canonical(text []byte) ([]byte, error) {
	var v any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

const (
	maxRows = 20
	maxText = 60
)

// table shows events, with a remark on each if why isn't nil.
func table(events []outbox.Event, why func(outbox.Event) string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i, e := range events {
		if i == maxRows {
			fmt.Fprintf(w, "  … and %d more\n", len(events)-maxRows)
			break
		}
		fmt.Fprintf(w, "  %s\t%s %s\t%s", e.Type, e.AggregateType, e.AggregateID, cut(e.Payload))
		if why != nil {
			fmt.Fprintf(w, "\t%s", why(e))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // a strings.Builder takes everything
	return strings.TrimRight(b.String(), "\n")
}

func cut(payload []byte) string {
	text := strings.Trim(fmt.Sprintf("%q", payload[:min(len(payload), maxText)]), `"`)
	if len(payload) > maxText {
		text += "…"
	}
	return strings.ReplaceAll(text, `\"`, `"`)
}
