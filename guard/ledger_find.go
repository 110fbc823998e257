package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Entry is what a ledger has of one aggregate.
type Entry struct {
	Ref
	Record
}

// maxFind bounds what Find and Latest return.
const maxFind = 1000

// Find returns the entries of aggregates whose type and key people have written down, without saying of which kind the key is:
// "42" may be a text or a number. An empty aggregate finds those of all types, of which a ledger may have a hundred. A key may be
// written as Encode has it, too. It reads by the primary key.
func (l Ledger) Find(ctx context.Context, q endstate.Querier, aggregate, key string) ([]Entry, error) {
	keys := readings(key)
	if len(keys) == 0 || sqltx.CheckText(aggregate) != nil {
		return nil, nil
	}
	aggregates := []string{aggregate}
	if aggregate == "" {
		var err error
		if aggregates, err = l.Aggregates(ctx, q); err != nil || len(aggregates) == 0 {
			return nil, err
		}
	}
	encoded := make([]string, len(keys))
	for i, k := range keys {
		encoded[i] = k.Encode()
	}
	wanted := func(list any) string {
		text, _ := json.Marshal(list) // can't fail
		return string(text)
	}
	// Pair by pair through the index, whatever statistics say of a ledger that was small when they were made.
	query := `SELECT e.aggregate, e."key", e.state, e."trigger", e.token::text, e.at, e.digest FROM json_array_elements_text($1::json) a CROSS JOIN json_array_elements_text($2::json) k
CROSS JOIN LATERAL (SELECT * FROM %s WHERE aggregate = a.value AND "key" = k.value LIMIT 1) e ORDER BY e.at LIMIT %d`
	if sqltx.Of(q) == sqltx.SQLite {
		query = `SELECT e.aggregate, e."key", e.state, e."trigger", e.token, e.at, e.digest FROM json_each(?1) a CROSS JOIN json_each(?2) k
CROSS JOIN %s e WHERE e.aggregate = a.value AND e."key" = k.value ORDER BY e.at LIMIT %d`
	}
	return l.entries(ctx, q, fmt.Sprintf(query, l.table(), maxFind), wanted(aggregates), wanted(encoded))
}

// readings are the keys that a text may mean.
func readings(text string) (keys []Key) {
	add := func(k Key) {
		if k.Validate() == nil {
			keys = append(keys, k)
		}
	}
	add(Text(text))
	if k := single(text); k != (Key{}) {
		add(k)
	}
	add(Key{text}.canonical())
	if parts := strings.Split(text, "/"); len(parts) > 1 && len(parts) <= 4 {
		// Each part as a text, or as what else it may be.
		unescape := strings.NewReplacer("%2F", "/", "%25", "%")
		composed := []Key{{}}
		for i, part := range parts {
			part = unescape.Replace(part)
			choices := []Key{Text(part)}
			if k := single(part); k != (Key{}) {
				choices = append(choices, k)
			}
			var longer []Key
			for _, begun := range composed {
				for _, choice := range choices {
					if i == 0 {
						longer = append(longer, choice)
					} else {
						longer = append(longer, Composite(begun, choice))
					}
				}
			}
			composed = longer
		}
		for _, k := range composed {
			add(k)
		}
	}
	return keys
}

// single is the key of one part, other than text, that a text is the usual form of; zero if there is none.
func single(text string) Key {
	var n int64
	if _, err := fmt.Sscanf(text, "%d", &n); err == nil && fmt.Sprint(n) == text {
		return Int(n)
	}
	if k, err := ParseUUID(text); err == nil {
		return k
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return Time(t)
	}
	if t, err := time.Parse(dateLayout, text); err == nil {
		return Date(t)
	}
	return Key{}
}

// canonical is a key that is written as Encode has it; zero if it isn't.
func (k Key) canonical() Key {
	for part := range strings.SplitSeq(k.encoded, "/") {
		if len(part) < 3 || part[1] != ':' || !strings.ContainsRune("tiusdb", rune(part[0])) {
			return Key{}
		}
	}
	return k
}

// Aggregates returns the types of the aggregates that a ledger has entries of, at most a hundred. It goes from one to the next by
// the primary key.
func (l Ledger) Aggregates(ctx context.Context, q endstate.Querier) ([]string, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(`WITH RECURSIVE endstate_next(aggregate, n) AS (
	SELECT (SELECT aggregate FROM %[1]s ORDER BY aggregate, "key" LIMIT 1), 1
	UNION ALL SELECT (SELECT e.aggregate FROM %[1]s e WHERE e.aggregate > endstate_next.aggregate ORDER BY e.aggregate, e."key" LIMIT 1), n + 1 FROM endstate_next WHERE aggregate IS NOT NULL AND n < 100)
SELECT aggregate FROM endstate_next WHERE aggregate IS NOT NULL`, l.table()))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		list = append(list, name)
	}
	return list, rows.Err()
}

// Latest returns the latest entries, the latest first, at most limit and 1,000.
func (l Ledger) Latest(ctx context.Context, q endstate.Querier, limit int) ([]Entry, error) {
	token := "token"
	if sqltx.Of(q) == sqltx.Postgres {
		token = "token::text"
	}
	return l.entries(ctx, q, fmt.Sprintf(`SELECT aggregate, "key", state, "trigger", %s, at, digest FROM %s ORDER BY at DESC LIMIT %d`, token, l.table(), min(max(limit, 0), maxFind)))
}

// maxCounted is how many entries Minutes looks at.
const maxCounted = 20_000

// Minutes counts, by the minute's beginning and the trigger, what was finalized at a time or later. It looks at the latest 20,000
// entries, by the ledger's index on time: whole reports whether these were all.
func (l Ledger) Minutes(ctx context.Context, q endstate.Querier, since time.Time) (counts map[time.Time]map[string]int64, whole bool, err error) {
	// Number n of a minute since 1970, in either dialect.
	minute, after, arg := "CAST(floor(extract(epoch FROM at) / 60) AS bigint)", "$1::timestamptz", any(since.UTC())
	if sqltx.Of(q) == sqltx.SQLite {
		minute, after, arg = "CAST(strftime('%s', at) AS INTEGER) / 60", "?1", since.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	rows, err := q.Query(ctx, fmt.Sprintf(`SELECT minute, "trigger", count(*) FROM (SELECT %s AS minute, "trigger" FROM %s WHERE at >= %s ORDER BY at DESC LIMIT %d) endstate_latest GROUP BY minute, "trigger"`,
		minute, l.table(), after, maxCounted), arg)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	var all int64
	counts = map[time.Time]map[string]int64{}
	for rows.Next() {
		var trigger string
		var n, count int64
		if err := rows.Scan(&n, &trigger, &count); err != nil {
			return nil, false, err
		}
		at := time.Unix(60*n, 0).UTC()
		if counts[at] == nil {
			counts[at] = map[string]int64{}
		}
		counts[at][trigger] = count
		all += count
	}
	return counts, all < maxCounted, rows.Err()
}

func (l Ledger) entries(ctx context.Context, q endstate.Querier, query string, args ...any) ([]Entry, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Entry
	for rows.Next() {
		var e Entry
		var p Provenance
		var token string
		var at any
		if err := rows.Scan(&e.Aggregate, &e.Key.encoded, &e.State, &p.Trigger, &token, &at, &p.Digest); err != nil {
			return nil, err
		}
		if p.Token, err = uuid.Parse(token); err == nil {
			p.At, err = entryTime(at)
		}
		if err != nil {
			return nil, fmt.Errorf("guard: %s, row of %v: %w", l.name(), e.Ref, err)
		}
		e.Final, e.Provenance = true, &p
		list = append(list, e)
	}
	return list, rows.Err()
}

func entryTime(v any) (time.Time, error) {
	switch v := v.(type) {
	case time.Time:
		return v.UTC(), nil
	case string:
		return time.Parse(time.RFC3339Nano, v)
	case []byte:
		return time.Parse(time.RFC3339Nano, string(v))
	}
	return time.Time{}, errors.New("at is no time")
}
