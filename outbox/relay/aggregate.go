package relay

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// aggregateEvents bounds the events that one look returns.
const aggregateEvents = 100

// Aggregate looks for the latest events of an aggregate, or those before the number from, or, where near isn't zero, those that were
// written at about that time, such as a finalization's. With each comes what became of it in every subscription that is for it and
// what people did with it: the latest first, at most 100, without payloads, and with long texts cut. Before is what to call it with
// to look further back, 0 if there is nothing; since is when the oldest event was written that it looked at.
//
// An outbox has no index by aggregate, for which each Put would pay: the log of the aggregate's partition is looked through, some
// thousand events at a time. Where somebody has made such an index, it is used.
func (a *Admin) Aggregate(ctx context.Context, aggregateType, aggregateID string, from int64, near time.Time) (events []Shown, before int64, since time.Time, err error) {
	if aggregateType == "" || aggregateID == "" {
		return nil, 0, time.Time{}, fmt.Errorf("%w: aggregate: type and id are required", outbox.ErrConfig)
	}
	if err := texts("aggregate: ", "type", aggregateType, "id", aggregateID); err != nil {
		return nil, 0, time.Time{}, err
	}
	if !kept(near) {
		return nil, 0, time.Time{}, fmt.Errorf("%w: aggregate: near is in the year %d; events are of the years 1 to 9999", outbox.ErrConfig, near.UTC().Year())
	}
	indexed, err := a.indexed(ctx)
	partition := outbox.Partition(aggregateType, aggregateID)
	if err == nil && !near.IsZero() && !indexed {
		from, err = a.near(ctx, partition, near)
	}
	if err == nil {
		events, before, since, err = a.look(ctx, aggregateType, aggregateID, partition, from, indexed)
	}
	if err != nil {
		return nil, 0, time.Time{}, fmt.Errorf("relay: aggregate: %w", err)
	}
	return events, before, since, nil
}

func (a *Admin) look(ctx context.Context, aggregateType, aggregateID string, partition int, from int64, indexed bool) (events []Shown, before int64, since time.Time, err error) {
	seq, args := "true", []any{aggregateType, aggregateID}
	if from != 0 {
		seq, args = "seq < CAST($3 AS bigint)", append(args, from)
	}
	const is = "e.aggregate_type = CAST($1 AS text) AND e.aggregate_id = CAST($2 AS text)"
	source := fmt.Sprintf("%s e WHERE %s AND %s ORDER BY e.aggregate_type DESC, e.aggregate_id DESC, e.seq DESC", a.store.events, is, seq)
	if !indexed {
		window := fmt.Sprintf("SELECT * FROM %s WHERE partition = %d AND %s ORDER BY partition DESC, seq DESC LIMIT %d", a.store.events, partition, seq, looked)
		source = fmt.Sprintf("(%s) e WHERE %s ORDER BY e.seq DESC", window, is)
		var oldest moment
		var n int
		// The arguments are named, so that they have types where the window needs fewer.
		if err := a.store.row(ctx, []any{&before, &oldest, &n},
			fmt.Sprintf("SELECT coalesce(min(seq), 0), min(created_at), count(*) FROM (%s) e WHERE CAST($1 AS text) <> '' AND CAST($2 AS text) <> ''", window), args...); err != nil {
			return nil, 0, since, err
		}
		if since = oldest.Time; n < looked {
			before, since = 0, time.Time{}
		}
	}
	err = a.store.rows(ctx, func(row pgx.Row) error {
		var s Shown
		err := scanEvent(row, &s.Event, &s.Seq, &s.Partition, &s.CreatedAt, &s.PayloadSize)
		events = append(events, s)
		return err
	}, fmt.Sprintf("SELECT %s, length(e.payload) FROM %s LIMIT %d", a.store.times(briefColumns), source, aggregateEvents), args...)
	if err != nil {
		return nil, 0, since, err
	}
	if len(events) == aggregateEvents {
		last := events[aggregateEvents-1]
		before, since = last.Seq, last.CreatedAt
	}
	return events, before, since, a.complete(ctx, events)
}

// complete adds to events what became of them in each subscription that is for them, and what people did with them.
func (a *Admin) complete(ctx context.Context, events []Shown) error {
	if len(events) == 0 {
		return nil
	}
	subscriptions, err := a.subscriptionList(ctx, a.store)
	if err != nil {
		return err
	}
	match := map[string]types{}
	for _, s := range subscriptions {
		match[s.Name] = s.types
	}
	places, ids := make([]place, len(events)), make([]uuid.UUID, len(events))
	at, byID := map[int64]*Shown{}, map[uuid.UUID]*Shown{}
	for i := range events {
		e := &events[i]
		places[i], ids[i] = place{e.Partition, e.Seq}, e.ID
		at[e.Seq], byID[e.ID] = e, e
	}
	// Samples have the positions at which a cursor stood: at the first one that isn't before the event, it was past it. None is
	// older than the event itself.
	err = a.store.rows(ctx, func(row pgx.Row) error {
		var seq int64
		var d Delivery
		var by moment
		err := scanDelivery(func(dest ...any) error { return row.Scan(append([]any{&seq, &d.Subscription}, dest...)...) }, &d, &by)
		d.PublishedBy = by.Time
		if e := at[seq]; e != nil && match[d.Subscription].matches(e.Type) {
			e.Deliveries = append(e.Deliveries, d)
		}
		return err
	}, fmt.Sprintf(`SELECT e.seq, s.name, %s, CASE WHEN p.seq IS NULL AND c.position >= e.seq THEN (SELECT x.at FROM %s x
	WHERE x.subscription = s.name AND x.partition = e.partition AND x.at >= e.created_at AND x.position >= e.seq ORDER BY x.at LIMIT 1) END
FROM %s JOIN %s e ON e.partition = endstate_at.partition AND e.seq = endstate_at.seq CROSS JOIN %s s
LEFT JOIN %s c ON c.subscription = s.name AND c.partition = e.partition
LEFT JOIN %s p ON p.subscription = s.name AND p.partition = e.partition AND p.seq = e.seq ORDER BY s.name`, briefDelivery, a.store.samples,
		a.store.records("$1", "endstate_at", "partition smallint", "seq bigint"), a.store.events, a.store.subscriptions, a.store.cursors, a.store.parked), toJSON(places))
	if err != nil {
		return err
	}
	history, err := a.interventions(ctx, fmt.Sprintf("%s WHERE event_id IN (%s) LIMIT %d", a.store.audit, a.store.elements("$1", "uuid"), looked), toJSON(ids))
	slices.SortStableFunc(history, func(a, b Intervention) int { return a.At.Compare(b.At) })
	for _, i := range history {
		if e := byID[i.EventID]; e != nil {
			e.History = append(e.History, i)
		}
	}
	return err
}

// indexed reports whether the outbox has an index whose first columns are the aggregate's.
func (a *Admin) indexed(ctx context.Context) (there bool, err error) {
	query, args := `SELECT EXISTS (SELECT 1 FROM pragma_index_list($1) l WHERE NOT l.partial AND (SELECT name FROM pragma_index_info(l.name) WHERE seqno = 0) = 'aggregate_type'
	AND (SELECT name FROM pragma_index_info(l.name) WHERE seqno = 1) = 'aggregate_id')`, []any{a.store.cfg.Outbox.Name()}
	if !a.store.sqlite() {
		query = `SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute t ON t.attrelid = i.indrelid AND t.attnum = i.indkey[0] JOIN pg_attribute d ON d.attrelid = i.indrelid AND d.attnum = i.indkey[1]
WHERE i.indrelid = to_regclass(CAST($1 AS text)) AND i.indisvalid AND i.indpred IS NULL AND t.attname = 'aggregate_type' AND d.attname = 'aggregate_id')`
		args[0] = sqltx.Quote(a.store.cfg.Outbox.Schema, a.store.cfg.Outbox.Name())
	}
	err = a.store.QueryRow(ctx, query, args...).Scan(&there)
	return there, err
}

// near returns a number behind which, in a partition, half of a look's events were written after a time. Numbers and times
// ascend together, so that it is found by halving.
func (a *Admin) near(ctx context.Context, partition int, at time.Time) (before int64, err error) {
	first := func(order string) string {
		return fmt.Sprintf("coalesce((SELECT seq FROM %s WHERE partition = %d ORDER BY partition %[3]s, seq %[3]s LIMIT 1), 0)", a.store.events, partition, order)
	}
	earlier := fmt.Sprintf("coalesce((SELECT e.created_at FROM %s e WHERE e.partition = %d AND e.seq > (lo + hi) / 2 ORDER BY e.partition, e.seq LIMIT 1) < %s, 1 = 0)", a.store.events, partition, a.store.time("$1"))
	err = a.store.row(ctx, []any{&before}, fmt.Sprintf(`WITH RECURSIVE endstate_half(lo, hi, n) AS (SELECT %s, %s, 0
	UNION ALL SELECT CASE WHEN %[3]s THEN (lo + hi) / 2 ELSE lo END, CASE WHEN %[3]s THEN hi ELSE (lo + hi) / 2 END, n + 1 FROM endstate_half WHERE hi - lo > 1 AND n < 64)
SELECT coalesce((SELECT max(seq) FROM (SELECT seq FROM %[4]s WHERE partition = %[5]d AND seq >= (SELECT lo FROM endstate_half ORDER BY n DESC LIMIT 1) ORDER BY partition, seq LIMIT %[6]d) endstate_after), 0) + 1`,
		first(""), first("DESC"), earlier, a.store.events, partition, looked/2), a.store.timeArg(at))
	return before, err
}
