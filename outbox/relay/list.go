package relay

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/outbox"
)

// State is what an event waits for in a subscription.
type State string

// The states of an event.
const (
	Pending   State = "pending"   // it goes out as soon as a relay comes to it
	Retrying  State = "retrying"  // it failed, and waits for its next attempt
	Behind    State = "behind"    // it waits behind a failed event of its aggregate
	Dead      State = "dead"      // given up: a dead letter
	Published State = "published" // done, or older than the subscription
)

// Record is an event with what became of it in one subscription.
type Record struct {
	outbox.Event
	Seq       int64
	Partition int
	CreatedAt time.Time
	Delivery
}

// Delivery is an event's way through one subscription. Times that don't apply are zero, and left out of JSON.
type Delivery struct {
	Subscription  string    `json:"subscription"`
	State         State     `json:"state"`
	Attempts      int       `json:"attempts"` // failed publications
	Crashes       int       `json:"crashes"`  // relays that died while they published this event alone
	NextAttemptAt time.Time `json:"next_attempt_at,omitzero"`
	LastError     string    `json:"last_error,omitempty"`
	ParkedAt      time.Time `json:"parked_at,omitzero"` // when it failed first, or came to wait behind one that failed
	DeadAt        time.Time `json:"dead_at,omitzero"`
	// PublishedBy is when it was published at the latest, as far as the cursor's samples tell: they are some seconds apart.
	// Show has it; List leaves it zero.
	PublishedBy time.Time `json:"published_by,omitzero"`
}

// Filter says which events to list. Zero fields match all.
type Filter struct {
	Subscription  string // default: "default"
	State         State
	AggregateType string
	AggregateID   string
	Type          string
	Error         string        // a part of the last error
	OlderThan     time.Duration // created longer ago than this
	Newest        bool          // the newest first
	Brief         bool          // without headers, and with long texts cut: for people, and safe whatever is in the table
	After         int64         // for the next page: Page.Next
	Limit         int           // default 100, at most 10,000
}

// Page is a part of a list.
type Page struct {
	Records []Record // in the order of Seq, without their payloads
	// Next is the Filter.After with which the list goes on; 0 if this was its end. A page may be short, or empty, and have a
	// Next: a list looks at a bounded number of events at a time.
	Next int64
}

// A List with conditions looks at so many rows of each partition: listed, or joined where what is set aside doesn't have what a
// condition is on, so that each row costs a look into the log. looked is how many one look at a single partition, or at what people
// did, reads.
const (
	listed = 2_000
	joined = 250
	looked = 5_000
)

const eventColumns = `CAST(e.id AS text), e.aggregate_type, e.aggregate_id, e.type, e.content_type, CAST(e.headers AS text), e.occurred_at, coalesce(e.dedup_key, ''), e.schema_version,
	e.seq, e.partition, e.created_at`

const deliveryColumns = stateOf + deliveryRest + `, coalesce(p.last_error, '')`

const deliveryRest = `, coalesce(p.attempts, 0), coalesce(p.crashes, 0), p.next_attempt_at, p.parked_at, p.dead_at`

// The same with long texts cut.
var (
	briefColumns = fmt.Sprintf("CAST(e.id AS text), %s, %s, %s, %s, '{}', e.occurred_at, %s, e.schema_version, e.seq, e.partition, e.created_at",
		cut("e.aggregate_type"), cut("e.aggregate_id"), cut("e.type"), cut("e.content_type"), cut("coalesce(e.dedup_key, '')"))
	briefDelivery = stateOf + deliveryRest + ", " + cut("coalesce(p.last_error, '')")
)

// cut is a text, an expression, of which a reader gets no more than shown characters, and how many there are.
func cut(text string) string {
	return fmt.Sprintf("CASE WHEN length(%[1]s) > %[2]d THEN substr(%[1]s, 1, %[2]d) || '... (' || length(%[1]s) || ' characters)' ELSE %[1]s END", text, shown)
}

// shown is how many characters of a text are left where it is cut: no less than what a Put takes.
const shown = 2000

const stateOf = `CASE WHEN p.dead_at IS NOT NULL THEN 'dead' WHEN p.next_attempt_at IS NOT NULL THEN 'retrying' WHEN p.seq IS NOT NULL THEN 'behind'
		WHEN c.position IS NULL OR e.seq > c.position THEN 'pending' ELSE 'published' END`

// List returns a page of the events that a subscription is for. It goes by indexes: pending events are looked for behind the
// cursors, failed and dead ones among those that are set aside, all others by their number. An event of a transaction that was
// still open when the cursor passed it counts as published until the relay finds it.
func (a *Admin) List(ctx context.Context, f Filter) (Page, error) {
	limit, err := f.withDefaults()
	if err != nil {
		return Page{}, err
	}
	match, err := a.subscribed(ctx, a.store, f.Subscription)
	if err != nil {
		return Page{}, fmt.Errorf("relay: list: %w", err)
	}
	page, err := a.page(ctx, a.listing(f, match), limit)
	if err != nil {
		return Page{}, fmt.Errorf("relay: list: %w", err)
	}
	for i := range page.Records {
		page.Records[i].Subscription = f.Subscription
	}
	return page, nil
}

func (a *Admin) page(ctx context.Context, l *listing, limit int) (page Page, err error) {
	if len(l.conditions) > 0 {
		if err := a.store.row(ctx, []any{&page.Next}, l.edge(), l.args[:l.sourceArgs]...); err != nil {
			return page, err
		}
	}
	err = a.store.rows(ctx, func(row pgx.Row) error {
		var r Record
		err := scanDelivery(func(dest ...any) error { return scanEvent(row, &r.Event, &r.Seq, &r.Partition, &r.CreatedAt, dest...) }, &r.Delivery)
		page.Records = append(page.Records, r)
		return err
	}, l.statement(page.Next, limit), l.args...)
	if len(page.Records) == limit {
		page.Next = page.Records[limit-1].Seq
	}
	return page, err
}

func (f *Filter) withDefaults() (limit int, err error) {
	f.Subscription = cmp.Or(f.Subscription, DefaultSubscription)
	if limit = cmp.Or(f.Limit, 100); limit < 0 || limit > 10_000 {
		return 0, fmt.Errorf("%w: Filter.Limit is %d; it goes to 10,000", outbox.ErrConfig, f.Limit)
	}
	if !slices.Contains([]State{"", Pending, Retrying, Behind, Dead, Published}, f.State) {
		return 0, fmt.Errorf("%w: Filter.State is %q; use pending, retrying, behind, dead or published", outbox.ErrConfig, f.State)
	}
	if err := texts("Filter.", "Subscription", f.Subscription, "AggregateType", f.AggregateType, "AggregateID", f.AggregateID, "Type", f.Type, "Error", f.Error); err != nil {
		return 0, err
	}
	if f.OlderThan < 0 {
		return 0, fmt.Errorf("%w: Filter.OlderThan is negative", outbox.ErrConfig)
	}
	return limit, nil
}

// listing is what a List asks for.
type listing struct {
	*Admin
	parked      bool     // what is set aside is looked at, rather than the log
	look        int      // at how many rows of each partition
	within      string   // which rows of it come next in partition %[1]d
	conditions  []string // on the event e, the cursor c and the parked event p
	args        []any
	sourceArgs  int // how many of them within has
	newestFirst bool
	columns     string // a Record's, of the event e, the cursor c and the parked event p
}

func (a *Admin) listing(f Filter, match types) *listing {
	l := &listing{Admin: a, look: listed, args: []any{f.Subscription}, newestFirst: f.Newest, columns: eventColumns + ", " + deliveryColumns, within: "partition = %[1]d"}
	if f.Brief {
		l.columns = briefColumns + ", " + briefDelivery
	}
	param := func(v any, cast string) string {
		l.args = append(l.args, v)
		return fmt.Sprintf("CAST($%d AS %s)", len(l.args), cast)
	}
	if f.AggregateType != "" && f.AggregateID != "" {
		l.within += fmt.Sprintf(" AND partition = %d", outbox.Partition(f.AggregateType, f.AggregateID))
	}
	if f.After != 0 && f.Newest {
		l.within += " AND seq < " + param(f.After, "bigint")
	} else if f.After != 0 {
		l.within += " AND seq > " + param(f.After, "bigint")
	}
	position := fmt.Sprintf("coalesce((SELECT position FROM %s WHERE subscription = CAST($1 AS text) AND partition = %%[1]d), 0)", a.store.cursors)
	switch f.State {
	case Pending:
		l.within += " AND seq > " + position
		l.conditions = append(l.conditions, "p.seq IS NULL")
	case Published:
		l.within += " AND seq <= " + position
		l.conditions = append(l.conditions, "p.seq IS NULL")
	case Retrying:
		l.conditions = append(l.conditions, "p.dead_at IS NULL", "p.next_attempt_at IS NOT NULL")
	case Behind:
		l.conditions = append(l.conditions, "p.dead_at IS NULL", "p.next_attempt_at IS NULL")
	case Dead:
		l.conditions = append(l.conditions, "p.dead_at IS NOT NULL")
	}
	// What has no error isn't set aside, so that what has one is looked for there.
	if l.parked = f.State == Retrying || f.State == Behind || f.State == Dead || f.Error != ""; l.parked {
		l.within += " AND subscription = CAST($1 AS text)"
	}
	l.sourceArgs = len(l.args)
	if l.parked && (len(match) > 0 || f.Type != "" || f.OlderThan > 0) {
		l.look = joined
	}
	if len(match) > 0 {
		l.conditions = append(l.conditions, match.condition(a.store.dialect, "e.type"))
	}
	aggregate := "e."
	if l.parked {
		aggregate = "p."
	}
	for _, c := range []struct{ column, value string }{{aggregate + "aggregate_type", f.AggregateType}, {aggregate + "aggregate_id", f.AggregateID}, {"e.type", f.Type}} {
		if c.value != "" {
			l.conditions = append(l.conditions, c.column+" = "+param(c.value, "text"))
		}
	}
	if f.Error != "" {
		l.conditions = append(l.conditions, a.store.contains("p.last_error", param(f.Error, "text")))
	}
	if f.OlderThan > 0 {
		l.conditions = append(l.conditions, "e.created_at < "+a.store.later("-"+param(f.OlderThan.Seconds(), "double precision")))
	}
	return l
}

func (l *listing) order() string {
	if l.newestFirst {
		return "seq DESC"
	}
	return "seq"
}

// source asks for some columns of the next rows of each partition, up to the edge.
func (l *listing) source(columns string, edge int64, look int) string {
	table, within := l.store.events, l.within
	if l.parked {
		table = l.store.parked
	}
	if edge != 0 && l.newestFirst {
		within += fmt.Sprintf(" AND seq >= %d", edge)
	} else if edge != 0 {
		within += fmt.Sprintf(" AND seq <= %d", edge)
	}
	return eachPartition(fmt.Sprintf("SELECT %s FROM %s WHERE %s ORDER BY partition, %s LIMIT %d", columns, table, within, l.order(), look))
}

// edge asks how far a list gets that looks at so many events of each partition: to where the first partition has more.
// 0: to its end.
func (l *listing) edge() string {
	ends := "min(last)"
	last := "max(seq)"
	if l.newestFirst {
		ends, last = "max(last)", "min(seq)"
	}
	return fmt.Sprintf("SELECT coalesce(%s, 0) FROM (SELECT %s AS last, count(*) AS n FROM (%s) endstate_taken GROUP BY partition) endstate_ends WHERE n = %d AND CAST($1 AS text) <> ''",
		ends, last, l.source("partition, seq", 0, l.look), l.look)
}

// statement asks for the events up to the edge. Conditions on what is looked at apply before anything is joined to it.
func (l *listing) statement(edge int64, limit int) string {
	look := limit
	if len(l.conditions) > 0 {
		look = l.look
	}
	from := fmt.Sprintf("(%s) e LEFT JOIN %s p ON p.subscription = CAST($1 AS text) AND p.partition = e.partition AND p.seq = e.seq",
		l.source("id, aggregate_type, aggregate_id, type, content_type, headers, occurred_at, dedup_key, schema_version, seq, partition, created_at", edge, look), l.store.parked)
	order := "e." + l.order()
	if l.parked {
		from = fmt.Sprintf("(%s) p JOIN %s e ON e.partition = p.partition AND e.seq = p.seq", l.source("*", edge, look), l.store.events)
		order = "p." + l.order()
	}
	return fmt.Sprintf("SELECT %s\nFROM %s\nLEFT JOIN %s c ON c.subscription = CAST($1 AS text) AND c.partition = e.partition\nWHERE %s\nORDER BY %s LIMIT %d",
		l.store.times(l.columns), from, l.store.cursors, strings.Join(append([]string{"true"}, l.conditions...), " AND "), order, limit)
}

// Shown is an event, whole.
type Shown struct {
	outbox.Event
	Seq         int64
	Partition   int
	CreatedAt   time.Time
	PayloadSize int64      // in bytes, also where Payload is cut
	Deliveries  []Delivery // by subscription
	History     []Intervention
}

// Show returns an event with its payload, what became of it in each subscription that is for it, and what people did with it.
func (a *Admin) Show(ctx context.Context, id uuid.UUID) (Shown, error) {
	return a.show(ctx, id, eventColumns, "e.payload")
}

// ShowCut is Show for a page that people look at: of the payload it returns no more than the first most bytes, and long texts are
// cut. Headers of more than 64 KiB are left out, but for one that says so.
func (a *Admin) ShowCut(ctx context.Context, id uuid.UUID, most int) (Shown, error) {
	headers := "CASE WHEN length(CAST(e.headers AS text)) > 65536 THEN '{\"...\": \"' || length(CAST(e.headers AS text)) || ' characters, not shown\"}' ELSE CAST(e.headers AS text) END"
	return a.show(ctx, id, strings.Replace(briefColumns, "'{}'", headers, 1), fmt.Sprintf("substr(e.payload, 1, %d)", max(most, 0)))
}

func (a *Admin) show(ctx context.Context, id uuid.UUID, columns, payload string) (Shown, error) {
	list := make([]Shown, 1)
	s := &list[0]
	row := a.store.QueryRow(ctx, fmt.Sprintf("SELECT %s, %s, length(e.payload) FROM %s e WHERE e.id = %s", a.store.times(columns), payload, a.store.events, a.store.uuid("CAST($1 AS text)")), id.String())
	err := scanEvent(row, &s.Event, &s.Seq, &s.Partition, &s.CreatedAt, &s.Payload, &s.PayloadSize)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err == nil {
		err = a.complete(ctx, list)
	}
	if err != nil {
		return Shown{}, fmt.Errorf("relay: show %s: %w", id, err)
	}
	return *s, nil
}

// scanEvent leaves what can't be decoded zero: an operator must see the row all the same.
func scanEvent(row pgx.Row, e *outbox.Event, seq *int64, partition *int, created *time.Time, more ...any) error {
	var id, headers string
	var occurred, at leniently
	if err := row.Scan(append([]any{&id, &e.AggregateType, &e.AggregateID, &e.Type, &e.ContentType, &headers, &occurred, &e.DedupKey, &e.SchemaVersion,
		seq, partition, &at}, more...)...); err != nil {
		return err
	}
	e.OccurredAt, *created = occurred.Time, at.Time
	e.ID, _ = uuid.Parse(id)
	if json.Unmarshal([]byte(headers), &e.Headers) != nil {
		e.Headers = nil
	}
	return nil
}

func scanDelivery(scan func(...any) error, d *Delivery, more ...any) error {
	var next, parked, dead moment
	var state string
	err := scan(append([]any{&state, &d.Attempts, &d.Crashes, &next, &parked, &dead, &d.LastError}, more...)...)
	d.State, d.NextAttemptAt, d.ParkedAt, d.DeadAt = State(state), next.Time, parked.Time, dead.Time
	return err
}
