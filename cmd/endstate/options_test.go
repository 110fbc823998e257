package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox/audit"
)

// A configuration is taken whole, or refused with the line and the field; a secret that it brings from elsewhere is in no error.
func FuzzConfig(f *testing.F) {
	f.Add("db: {env: FUZZED_SECRET}\nsubscriptions:\n- subscription: a\n  to: nats://localhost\n  type: [paid, 'refunded.*']\n")
	f.Setenv("FUZZED_SECRET", "nats://user:hunter2-of-nobody@broker:4222")
	a := &app{}
	command, _, err := newRoot(a).Find([]string{"relay"})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "file") {
			return // it would be read, whatever it is
		}
		a.secrets = newRedactor(nil)
		subscriptions, err := a.parseConfig(command, "relay.yaml", []byte(text))
		if err != nil {
			said := err.Error()
			require.True(t, strings.HasPrefix(said, "--config relay.yaml: "), said)
			require.NotContains(t, said, "nil", "%q", text)
			require.NotContains(t, a.secrets.redact(said), "hunter2-of-nobody")
			return
		}
		require.NotEmpty(t, subscriptions)
		names := map[string]bool{}
		for _, s := range subscriptions {
			require.NotEmpty(t, s.to.to)
			require.False(t, names[s.cfg.Subscription], "twice")
			names[s.cfg.Subscription] = true
			require.Positive(t, s.line)
			if err := s.parse(); err != nil {
				require.Contains(t, err.Error(), "(line ")
			}
		}
	})
}

// Whatever names and conditions people give for a table of theirs, the audit runs or says what is wrong with them, and nothing
// of them is taken for SQL: the table beside it stays as it is, and no error is one of the database's syntax.
func FuzzSQLOptions(f *testing.F) {
	f.Add("event_outbox", "aggregate_id", "event_type", "created_at", "status = SENT", "%.completed", "72h")
	db := dbtest.SQLite(f)
	for _, statement := range []string{
		"CREATE TABLE event_outbox (aggregate_id text, event_type text, created_at timestamp, published_at timestamp, status text, sent boolean)",
		"INSERT INTO event_outbox VALUES ('7', 'a.completed', '2026-01-01 00:00:00', NULL, 'SENT', 1), ('7', 'a.completed', '2026-01-01 00:00:01', NULL, 'NEW', 0)",
		"CREATE TABLE canary (n int)", "INSERT INTO canary VALUES (1)",
	} {
		_, err := db.Exec(statement)
		require.NoError(f, err)
	}
	f.Fuzz(func(t *testing.T, table, aggregate, typ, at, published, pattern, since string) {
		cfg := audit.Config{Table: table, Aggregate: []string{aggregate}, Type: typ, Time: at, Published: published, EventTypes: []string{pattern}, NoPublished: published == ""}
		_, err := parseTime("since", since)
		if err != nil {
			require.ErrorContains(t, err, "--since is ")
		}
		_, err = parseStart(since)
		if err != nil {
			require.ErrorContains(t, err, "--start is ")
		}
		if kept, err := parseRetention(since); err == nil {
			require.True(t, kept > 0 || since == "none" || since == "forever")
		}
		report, err := audit.RunSQL(t.Context(), db, cfg)
		switch {
		case err == nil:
			require.LessOrEqual(t, report.Events, int64(2))
		case errors.Is(err, audit.ErrConfig), errors.Is(err, audit.ErrSchema):
		default:
			require.NotContains(t, err.Error(), "syntax error", "%+v", cfg)
			require.NotContains(t, err.Error(), "no such column", "%+v", cfg)
			require.NoError(t, err)
		}
		var n int
		require.NoError(t, db.QueryRow("SELECT count(*) FROM canary WHERE n = 1").Scan(&n))
		require.Equal(t, 1, n)
	})
}
