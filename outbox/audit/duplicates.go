package audit

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/endstate-go/endstate"
)

// duplicates writes the statement that does all but count: one pass that groups, and one more, over the duplicated
// aggregates' rows alone, for gaps and timelines. It returns the sums on every row, and a row for each bucket with events in
// it of each of the worst aggregates; where there is none, a single row.
func (s *source) duplicates() (string, []any) {
	args := &arguments{dialect: s.dialect}
	where := strings.Join([]string{s.keyed(), s.typed(args), s.within(args)}, " AND ")
	var keys, order, same []string
	for i, column := range s.keys() {
		key := fmt.Sprintf("k%d", i)
		keys = append(keys, column+" AS "+key)
		order = append(order, s.text(key))
		same = append(same, fmt.Sprintf("e.%s = a.%s", key, key))
	}
	var id []string
	for i := range s.cfg.Aggregate {
		id = append(id, s.text(fmt.Sprintf("a.k%d", i)))
	}
	kind := s.text(fmt.Sprintf("a.k%d", len(s.cfg.Aggregate)))
	worst := "rank <= " + args.add(s.cfg.Top, "int8")
	return fmt.Sprintf(`WITH events AS NOT MATERIALIZED (
	SELECT %[1]s, %[2]s AS at, CASE WHEN %[3]s THEN 1 ELSE 0 END AS published FROM %[4]s WHERE %[5]s),
duplicated AS MATERIALIZED (
	SELECT %[6]s, count(*) AS n, sum(published) AS published, min(at) AS first, max(at) AS last
	FROM events GROUP BY %[6]s HAVING count(*) > 1),
ranked AS MATERIALIZED (
	SELECT a.*, row_number() OVER (ORDER BY n DESC, first IS NULL, first, %[7]s) AS rank FROM duplicated a),
gaps AS MATERIALIZED (
	SELECT rank, at, first, last, e.published, at - lag(at) OVER (PARTITION BY rank ORDER BY at) AS gap
	FROM events e JOIN ranked a ON %[8]s WHERE at IS NOT NULL),
sums AS (
	SELECT count(*) AS groups, coalesce(sum(n - 1), 0) AS extra, coalesce(sum(CASE WHEN published > 1 THEN published - 1 ELSE 0 END), 0) AS extra_published
	FROM duplicated),
pairs AS (
	SELECT count(*) AS pairs FROM gaps WHERE gap <= %[9]s),
medians AS (
	SELECT rank, avg(gap) / 1000.0 AS median FROM (
		SELECT rank, gap, row_number() OVER (PARTITION BY rank ORDER BY gap) AS i, count(*) OVER (PARTITION BY rank) AS gaps
		FROM gaps WHERE %[10]s AND gap IS NOT NULL) ordered
	WHERE i IN ((gaps + 1) / 2, (gaps + 2) / 2) GROUP BY rank),
timelines AS (
	SELECT rank, (at - first) * %[11]d / (last - first + 1) AS bucket, count(*) AS n, sum(published) AS published
	FROM gaps WHERE %[10]s GROUP BY 1, 2)
SELECT CAST(groups AS bigint), CAST(extra AS bigint), CAST(extra_published AS bigint), pairs,
	a.rank, %[12]s, %[13]s, a.n, CAST(a.published AS bigint), a.first, a.last, CAST(median AS double precision), bucket, t.n, CAST(t.published AS bigint)
FROM sums CROSS JOIN pairs LEFT JOIN (SELECT * FROM ranked WHERE %[10]s) a ON true
	LEFT JOIN medians m ON m.rank = a.rank LEFT JOIN timelines t ON t.rank = a.rank
ORDER BY a.rank, bucket`,
		strings.Join(keys, ", "), s.time, s.published, s.table(), where, // 1 to 5
		strings.Join(names("k", len(keys)), ", "), strings.Join(order, ", "), strings.Join(same, " AND "), // 6 to 8
		args.add(s.cfg.Window.Microseconds(), "int8"), worst, Buckets, // 9 to 11
		strings.Join(id, " || '/' || "), kind), args.list
}

func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return list
}

// readDuplicates reads what duplicates selects into r.
func (s *source) readDuplicates(ctx context.Context, q endstate.Querier, r *Report) error {
	query, args := s.duplicates()
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var rank, n, published, first, last, bucket, bucketEvents, bucketPublished *int64
		var id, kind *string
		var median *float64
		if err := rows.Scan(&r.Duplicated, &r.Duplicates, &r.Published, &r.PairsWithinWindow,
			&rank, &id, &kind, &n, &published, &first, &last, &median, &bucket, &bucketEvents, &bucketPublished); err != nil {
			return err
		}
		if rank == nil {
			continue
		}
		if int(*rank) > len(r.Worst) {
			r.Worst = append(r.Worst, Aggregate{ID: *id, Type: *kind, Events: *n, Published: *published, First: instant(first), Last: instant(last), MedianGap: median})
		}
		if bucket != nil {
			r.Worst[*rank-1].Timeline[*bucket] = Bucket{*bucketEvents, *bucketPublished}
		}
	}
	return rows.Err()
}

func instant(micros *int64) *time.Time {
	if micros == nil {
		return nil
	}
	t := time.UnixMicro(*micros).UTC()
	return &t
}
