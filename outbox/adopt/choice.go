package adopt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/published"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Choice is what becomes of one aggregate's events, as the table is now.
type Choice struct {
	Aggregate string `json:"aggregate"` // of several columns: joined by slashes
	Type      string `json:"event_type"`
	// Stays and Go are rows: the values of the primary key, or a ctid where there is none. Of those that go, at most ten are
	// listed.
	Stays     string   `json:"stays"`
	Why       string   `json:"why"`
	Go        []string `json:"go"`
	Events    int64    `json:"events"`
	Published int64    `json:"published"` // of the events
}

// judge finds out how published events are told from others, unless there is nothing to remove.
func (t *target) judge(ctx context.Context, q endstate.Querier) error {
	if t.cfg.Published == "" {
		return nil
	}
	if unique, err := t.isUnique(ctx, q); err != nil || unique {
		return err
	}
	verdict, err := t.condition.Judge(ctx, q, t.cfg.Schema, t.cfg.Table, nil)
	if errors.Is(err, published.ErrUnclear) {
		return fmt.Errorf("%w: %w", ErrSchema, err)
	}
	if err != nil {
		return err
	}
	t.published = verdict
	if !t.condition.Stated() {
		return nil
	}
	var some, any bool
	err = q.QueryRow(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM %[1]s), EXISTS (SELECT FROM %[1]s WHERE %[2]s)", t.table(), verdict.SQL)).Scan(&some, &any)
	if err == nil && some && !any {
		err = fmt.Errorf("%w: no row of %s has %s, so that nothing in it would be published; if that is so, say that it has no column for it",
			ErrSchema, t.table(), t.condition)
	}
	return err
}

// publishedIf is the condition in the form that all spellings of it have.
func (t *target) publishedIf() string {
	if t.cfg.Published == "" {
		return ""
	}
	return t.condition.String()
}

// best orders an aggregate's rows: the first one stays.
func (t *target) best() string {
	order := sqltx.Quote("", t.cfg.Time) + " NULLS LAST, ctid"
	if t.published.When != "" {
		order = t.published.When + " NULLS LAST, " + order
	}
	if t.published.SQL != "" {
		order = t.published.SQL + " DESC, " + order
	}
	return order
}

// why says what made a row the one that stays.
func (t *target) why(publishedOnes int64) string {
	switch {
	case publishedOnes == 1:
		return "the only one that was published"
	case publishedOnes > 1 && t.published.When != "":
		return fmt.Sprintf("published first, of %d that were", publishedOnes)
	case publishedOnes > 1:
		return fmt.Sprintf("the oldest of %d that were published", publishedOnes)
	case t.cfg.Published == "":
		return "the oldest"
	}
	return "the oldest: none was published"
}

// maxGo is how many of an aggregate's rows that go are listed.
const maxGo = 10

// choices says of the aggregates with the most events what becomes of them.
func (t *target) choices(ctx context.Context, q endstate.Querier) ([]Choice, error) {
	list := []Choice{}
	if t.cfg.Show < 0 {
		return list, nil
	}
	var id *string
	err := q.QueryRow(ctx, `SELECT string_agg(format('%I::text', a.attname), ' || ''/'' || ' ORDER BY k.n) FROM pg_index i
	CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k (number, n) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = $1 AND i.indisprimary`, t.oid).Scan(&id)
	if err != nil {
		return nil, err
	}
	if id == nil {
		row := "ctid::text"
		id = &row
	}
	publishedOne := "false"
	if t.published.SQL != "" {
		publishedOne = t.published.SQL
	}
	var texts, same, named, ranks []string
	for i, key := range t.keys() {
		column := sqltx.Quote("", key)
		texts = append(texts, column+"::text")
		named = append(named, fmt.Sprintf("%s AS endstate_k%d", column, i))
		ranks = append(ranks, column)
		same = append(same, fmt.Sprintf("%s = endstate_k%d", column, i))
	}
	last := len(texts) - 1
	rows, err := q.Query(ctx, fmt.Sprintf(`WITH endstate_d AS (
	SELECT %[1]s, count(*) AS endstate_n, row_number() OVER (ORDER BY count(*) DESC, %[2]s) AS endstate_rank
	FROM %[3]s WHERE %[4]s GROUP BY %[2]s HAVING count(*) > 1 ORDER BY endstate_rank LIMIT %[5]d),
endstate_rows AS (
	SELECT endstate_rank, endstate_n, %[6]s AS endstate_aggregate, %[7]s AS endstate_type, %[8]s AS endstate_id,
		count(*) FILTER (WHERE %[9]s) OVER (PARTITION BY endstate_rank) AS endstate_published,
		row_number() OVER (PARTITION BY endstate_rank ORDER BY %[10]s) AS endstate_place
	FROM %[3]s, endstate_d WHERE %[11]s AND %[4]s)
SELECT endstate_n, endstate_aggregate, endstate_type, endstate_id, endstate_published, endstate_place
FROM endstate_rows WHERE endstate_place <= %[12]d ORDER BY endstate_rank, endstate_place`,
		strings.Join(named, ", "), strings.Join(ranks, ", "), t.table(), t.covered(""), t.cfg.Show, // 1 to 5
		strings.Join(texts[:last], " || '/' || "), texts[last], *id, publishedOne, t.best(), strings.Join(same, " AND "), maxGo+1)) // 6 to 12
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var place int64
		c := Choice{Go: []string{}}
		if err := rows.Scan(&c.Events, &c.Aggregate, &c.Type, &c.Stays, &c.Published, &place); err != nil {
			return nil, err
		}
		if place == 1 {
			c.Why = t.why(c.Published)
			list = append(list, c)
			continue
		}
		of := &list[len(list)-1]
		of.Go = append(of.Go, c.Stays)
	}
	return list, rows.Err()
}
