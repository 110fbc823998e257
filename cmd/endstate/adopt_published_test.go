package main

import (
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
)

// Of a pair the published one stays, and plan says which and why; what can't be judged is refused before anything is touched.
func TestAdoptKeepsThePublishedOne(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	db := dbtest.SQLOn(t, url)
	mustExec(t, db, "CREATE TABLE event_outbox (id text PRIMARY KEY, aggregate_id text, event_type text, created_at timestamptz, status text NOT NULL)",
		"INSERT INTO event_outbox VALUES ('e1', 'b', 'done', '2025-11-15 12:00', 'PENDING'), ('e2', 'b', 'done', '2025-11-15 12:01', 'SENT'), ('e3', E'c\u202e', 'done', now(), 'SENT')")
	for _, use := range []string{"plan", "apply"} {
		r := cli(t, url, "adopt", use, "--published", "status")
		require.Equal(t, 2, r.status, r.stderr)
		require.Contains(t, r.stderr, `column "status" is text NOT NULL`)
		r = cli(t, url, "adopt", use, "--published", "status = SEND")
		require.Equal(t, 2, r.status, r.stderr)
		require.Contains(t, r.stderr, `has "status" = SEND`)
		r = cli(t, url, "adopt", use, "--published", "status = SENT; DELETE FROM event_outbox")
		require.Equal(t, 2, r.status, r.stderr)
		require.Contains(t, r.stderr, "write COLUMN")
	}
	condition := []string{"--published", "status = SENT"}
	r := cli(t, url, append([]string{"adopt", "plan"}, condition...)...)
	require.Equal(t, 1, r.status, r.stderr)
	require.Regexp(t, `(?m)^b +done +2 +1  e2 +the only one that was published  e1$`, r.stdout)
	require.Contains(t, r.stdout, `published if    "status" = SENT`)
	r = cli(t, url, append([]string{"adopt", "apply"}, condition...)...)
	require.Zero(t, r.status, r.stderr)
	var stays string
	require.NoError(t, db.QueryRow("SELECT id FROM event_outbox WHERE aggregate_id = 'b'").Scan(&stays))
	require.Equal(t, "e2", stays)
	// The doctor takes a condition, too.
	r = cli(t, url, "doctor", "--table", "event_outbox", "--published", "status = SENT")
	require.Equal(t, 1, r.status, r.stderr)
	require.Contains(t, r.stdout, `ON "event_outbox" ("status", "created_at")`)
}

// Without --table, what is audited is the library's own outbox, with its columns.
func TestAuditDBLooksAtTheLibrarysOutbox(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		r := cli(t, url, "audit", "db")
		require.Equal(t, 2, r.status)
		require.Contains(t, r.stderr, `table "endstate_outbox" does not exist`)
		putEvents(t, url, db, event("7", "paid"), event("8", "paid"))
		r = cli(t, url, "audit", "db")
		require.Zero(t, r.status, r.stderr)
		require.Contains(t, r.stdout, "No duplicates in endstate_outbox.")
		require.Contains(t, r.stdout, "unique aggregates           2")
		mustExec(t, db, "CREATE VIEW mine AS SELECT 'order' AS aggregate_type, aggregate_id, type, dedup_key, created_at FROM endstate_outbox UNION ALL SELECT 'invoice', aggregate_id, type, dedup_key, created_at FROM endstate_outbox")
		r = cli(t, url, "audit", "db", "--table", "mine")
		require.Zero(t, r.status, r.stderr)
		require.Equal(t, 1, cli(t, url, "audit", "db", "--table", "mine", "--aggregate", "aggregate_id").status)
		require.Equal(t, 2, cli(t, url, "audit", "db", "--table", "mine", "--published", "published_at").status)
	})
}
