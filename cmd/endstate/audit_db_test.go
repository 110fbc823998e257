package main

import (
	"bytes"
	"database/sql"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox/audit"
)

// incident makes the incident's table, with its figures: 25 batches, 119 events, one batch with 83 of them in six seconds and
// one with 13 over days.
func incident(t testing.TB, db *sql.DB) {
	t.Helper()
	mustExec(t, db, "CREATE TABLE event_outbox (event_id text, aggregate_id text, event_type text, created_at timestamp, published_at timestamp)")
	insert := func(id string, at time.Time, published any) {
		_, err := db.Exec("INSERT INTO event_outbox VALUES ($1, $2, 'cj_assessment.completed', $3, $4)",
			fmt.Sprint(id, at.UnixNano()), id, at.Format("2006-01-02 15:04:05.000000"), published)
		require.NoError(t, err)
	}
	loop := time.Date(2025, 11, 15, 18, 59, 43, 0, time.UTC)
	for i := range 83 {
		insert("2f8dc826-d6c6-4d5b-b9d2-1ed94fb47a50", loop.Add(time.Duration(i)*73*time.Millisecond), "2025-11-15 19:00:00")
	}
	first, last := time.Date(2025, 11, 15, 12, 1, 16, 0, time.UTC), time.Date(2025, 11, 21, 11, 49, 52, 0, time.UTC)
	for i := range 13 {
		insert("test-batch-123", first.Add(last.Sub(first)*time.Duration(i)/12), nil)
	}
	for i := range 23 {
		insert(fmt.Sprintf("<b>batch</b>-%d", i), loop.Add(time.Duration(i)*time.Hour), nil)
	}
}

func TestAuditDB(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		incident(t, db)
		r := cli(t, url, "audit", "db", "--table", "event_outbox")
		require.Equal(t, 1, r.status, r.stderr)
		require.Empty(t, r.stderr)
		for _, line := range []string{
			`unique aggregates            25  pairs of an id and an event type`,
			`events                      119`,
			`published events             83`,
			`duplicates                   94`,
			`duplicates, percent      376.00  of the unique aggregates`,
			`events per aggregate       4.76`,
			`published duplicates         82  consumers have seen them`,
			`2f8dc826-d6c6-4d5b-b9d2-1ed94fb47a50  cj_assessment.completed      83         83  2025-11-15T18:59:43Z  2025-11-15T18:59:48Z        73ms  tight loop`,
			`test-batch-123                        cj_assessment.completed      13          0  2025-11-15T12:01:16Z  2025-11-21T11:49:52Z    11h59m3s  spread`,
			`█···█····█····█····█····█····█····█····█····█····█····█····█  6.0 days`,
			`94 duplicates in event_outbox.`,
		} {
			require.Contains(t, r.stdout, line)
		}

		r = cli(t, url, "audit", "db", "--table", "event_outbox", "--json", "--event-type", "%.completed", "--top", "1")
		require.Equal(t, 1, r.status)
		fields := decode[map[string]any](t, r)
		require.Equal(t, 376.0, fields["duplicate_percentage"])
		require.Equal(t, 4.76, fields["average_per_aggregate"])
		require.Len(t, fields["worst"], 1)

		// What isn't there is clean; so is what is limited to a single event of each.
		r = cli(t, url, "audit", "db", "--table", "event_outbox", "--event-type", "other")
		require.Equal(t, result{stdout: r.stdout}, r)
		require.Contains(t, r.stdout, "No duplicates in event_outbox.")
		require.Zero(t, cli(t, url, "audit", "db", "--table", "event_outbox", "--since", "2025-11-21").status)
		require.Zero(t, cli(t, url, "audit", "db", "--table", "event_outbox", "--aggregate", "event_id", "--published", "").status)
	})
}

func TestAuditDBCannotRun(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		incident(t, db)
		page := filepath.Join(t.TempDir(), "missing", "page.html")
		for said, args := range map[string][]string{
			`table "nowhere" does not exist`:               {"--table", "nowhere"},
			`table "event_outbox" has no column "payload"`: {"--published", "payload"},
			`--since is "soon"`:                            {"--since", "soon"},
			`Window is negative`:                           {"--window", "-5m"},
			`write ` + page:                                {"--html", page},
		} {
			r := cli(t, url, append([]string{"audit", "db", "--table", "event_outbox", "--json"}, args...)...)
			require.Equal(t, 2, r.status, "%+v", r)
			require.Empty(t, r.stdout)
			require.Contains(t, r.stderr, said)
		}
	})
	missing := filepath.Join(t.TempDir(), "missing.db")
	require.Equal(t, 2, cli(t, missing, "audit", "db").status)
	require.NoFileExists(t, missing, "to look for it must not make it")
}

// SCHEMA.TABLE, and a table whose own name has a dot.
func TestAuditDBNamesATable(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	db := dbtest.SQLOn(t, url)
	incident(t, db)
	mustExec(t, db, `CREATE SCHEMA "Own"`, `ALTER TABLE event_outbox SET SCHEMA "Own"`, `CREATE VIEW "a.b" AS SELECT * FROM "Own".event_outbox`)
	require.Equal(t, 1, cli(t, url, "audit", "db", "--table", "Own.event_outbox").status)
	require.Equal(t, 1, cli(t, url, "audit", "db", "--table", "event_outbox", "--schema", "Own").status)
	require.Equal(t, 1, cli(t, url, "audit", "db", "--table", "a.b").status)
	r := cli(t, url, "audit", "db", "--table", "own.event_outbox")
	require.Equal(t, 2, r.status)
	require.Contains(t, r.stderr, `table "own"."event_outbox" does not exist`)
}

// A connection that is lost midway: no half result.
func TestAuditDBLosesItsConnection(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	db := dbtest.SQLOn(t, url)
	incident(t, db)
	tx, err := db.Begin()
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback()) }()
	_, err = tx.Exec("LOCK TABLE event_outbox")
	require.NoError(t, err)

	page := filepath.Join(t.TempDir(), "page.html")
	run := start(t, url, "audit", "db", "--table", "event_outbox", "--json", "--html", page)
	require.Eventually(t, func() bool {
		var cut bool
		err := db.QueryRow("SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'endstate' AND wait_event_type = 'Lock'").Scan(&cut)
		return err == nil && cut
	}, time.Minute, 10*time.Millisecond)
	r := run.wait(t)
	require.Equal(t, 2, r.status)
	require.Empty(t, r.stdout)
	require.Contains(t, r.stderr, "57P01")
	require.NoFileExists(t, page)
}

// The page needs nothing from elsewhere, and shows ids as text.
func TestAuditPage(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		incident(t, db)
		mustExec(t, db, "INSERT INTO event_outbox SELECT 'x', aggregate_id, event_type, created_at, NULL FROM event_outbox WHERE aggregate_id = '<b>batch</b>-7'")
		path := filepath.Join(t.TempDir(), "page.html")
		r := cli(t, url, "audit", "db", "--table", "event_outbox", "--html", path)
		require.Equal(t, 1, r.status, r.stderr)
		page, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, 3, bytes.Count(page, []byte("<svg ")))
		for _, part := range []string{"95 duplicates in event_outbox", "380.00", "&lt;b&gt;batch&lt;/b&gt;-7", "2025-11-15 18:59:43", "83 events, 83 of them published"} {
			require.Contains(t, string(page), part)
		}
		require.NotContains(t, string(page), "<b>batch")
		require.NotRegexp(t, `(?i)(src|href)=|@import|url\(|<script`, string(page))
		// Each drawing is well-formed, with a bar for each bucket that has events, inside of the picture.
		for _, drawing := range strings.Split(string(page), "<svg ")[1:] {
			drawing, _, _ = strings.Cut("<svg "+drawing, "</svg>")
			decoder := xml.NewDecoder(strings.NewReader(drawing + "</svg>"))
			rects := 0
			for {
				token, err := decoder.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				require.NoError(t, err)
				if start, ok := token.(xml.StartElement); ok && start.Name.Local == "rect" {
					rects++
				}
			}
			require.NotZero(t, rects)
		}
	})
}

// F38: what ids and types hold is shown, and steers neither a terminal nor a page.
func TestControlCharactersAreEscaped(t *testing.T) {
	t.Parallel()
	db := dbtest.SQLite(t)
	mustExec(t, db, "CREATE TABLE event_outbox (aggregate_id text, event_type text, created_at text, published_at text)")
	const id, kind = "b\x1b[31m1\u202e\u200b\x7f\u009b2J\nnext", "t\x07\u2066"
	for range 2 {
		_, err := db.Exec("INSERT INTO event_outbox VALUES ($1, $2, '2025-11-15 12:00:00', NULL)", id, kind)
		require.NoError(t, err)
	}
	path := filepath.Join(t.TempDir(), "page.html")
	url := sqlitePath(t, db)
	text := cli(t, url, "audit", "db", "--table", "event_outbox", "--html", path)
	object := cli(t, url, "audit", "db", "--table", "event_outbox", "--json")
	failed := cli(t, url, "audit", "db", "--table", "no\x1b[31m\u202e\ntable")
	require.Equal(t, 2, failed.status)
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, out := range []string{text.stdout, object.stdout, failed.stderr, string(page)} {
		require.NotRegexp(t, `[^\pL\pM\pN\pP\pS\n ]`, out)
	}
	require.Contains(t, string(page), `<h2>b\x1b[31m1\u202e\u200b\x7f\u009b2J\nnext</h2>`)
	require.Contains(t, text.stdout, `\x1b[31m1\u202e`)
	report := decode[audit.Report](t, object)
	require.Equal(t, id, report.Worst[0].ID, "JSON has it as it is")
	require.Equal(t, kind, report.Worst[0].Type)
}
