package inbox

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Found is what an inbox has of an event: for people who ask what became of it.
type Found struct {
	Consumer string
	Key      string    // the event's id, or the consumer's business key
	EventID  uuid.UUID // of the event that was asked for
	State    string    // "handled", "failed" or "dead"
	Attempts int
	At       time.Time // of the last attempt
	Err      string    // of the last attempt unless it was handled
}

// Find returns what the inbox in a schema (empty: the connection's search path) and table has of events, at most 1,000, of
// whichever consumers, of which it may have a hundred. It reads by the primary key and the index by event.
func Find(ctx context.Context, q endstate.Querier, schema, table string, events ...uuid.UUID) ([]Found, error) {
	ids, _ := json.Marshal(events) // can't fail
	name := sqltx.Quote(schema, table)
	next := fmt.Sprintf(`WITH RECURSIVE endstate_consumer(consumer, n) AS (
	SELECT (SELECT consumer FROM %[1]s ORDER BY consumer, "key" LIMIT 1), 1
	UNION ALL SELECT (SELECT r.consumer FROM %[1]s r WHERE r.consumer > endstate_consumer.consumer ORDER BY r.consumer, r."key" LIMIT 1), n + 1 FROM endstate_consumer WHERE consumer IS NOT NULL AND n < 100)
`, name)
	const columns = `r.consumer, r."key", i.value, r.state, r.attempts, r.at, coalesce(r.error, '')`
	query := next + fmt.Sprintf(`SELECT %[1]s FROM endstate_consumer c CROSS JOIN json_array_elements_text($1::json) i
CROSS JOIN LATERAL (SELECT * FROM %[2]s WHERE consumer = c.consumer AND "key" = i.value LIMIT 1) r
UNION ALL SELECT %[1]s FROM endstate_consumer c CROSS JOIN json_array_elements_text($1::json) i
CROSS JOIN LATERAL (SELECT * FROM %[2]s WHERE consumer = c.consumer AND event_id = i.value::uuid AND event_id IS NOT NULL LIMIT 1) r
LIMIT 1000`, columns, name)
	if sqltx.Of(q) == sqltx.SQLite {
		query = next + fmt.Sprintf(`SELECT %[1]s FROM endstate_consumer c CROSS JOIN json_each(?1) i CROSS JOIN %[2]s r WHERE r.consumer = c.consumer AND r."key" = i.value
UNION ALL SELECT %[1]s FROM endstate_consumer c CROSS JOIN json_each(?1) i CROSS JOIN %[2]s r WHERE r.consumer = c.consumer AND r.event_id = i.value AND r.event_id IS NOT NULL
LIMIT 1000`, columns, name)
	}
	fail := func(err error) ([]Found, error) { return nil, fmt.Errorf("inbox: find in %s: %w", name, err) }
	rows, err := q.Query(ctx, query, string(ids))
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	var list []Found
	for rows.Next() {
		var f Found
		var id string
		var at any
		if err = rows.Scan(&f.Consumer, &f.Key, &id, &f.State, &f.Attempts, &at, &f.Err); err == nil {
			f.EventID, err = uuid.Parse(id)
		}
		if err == nil {
			f.At, err = instant(at)
		}
		if err != nil {
			return fail(err)
		}
		list = append(list, f)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return list, nil
}
