package main

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
)

func TestAdoptMove(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	db := dbtest.SQLOn(t, url)
	require.Zero(t, cli(t, url, "migrate").status)
	mustExec(t, db, "CREATE TABLE event_outbox (id bigserial PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), published_at timestamptz)")
	mustExec(t, db, "INSERT INTO event_outbox (aggregate_id, event_type, payload) VALUES ('7', 'paid', '{}'), ('8', 'paid', '{}')")

	r := cli(t, url, "adopt", "move", "plan")
	require.Equal(t, 2, r.status)
	require.Contains(t, r.stderr, "AggregateType or AggregateName must be set")
	r = cli(t, url, "adopt", "move", "plan", "--aggregate-name", "order", "--payload", "body")
	require.Equal(t, 2, r.status)
	require.Contains(t, r.stderr, `column "body" of "public"."event_outbox" does not exist`)
	r = cli(t, url, "adopt", "move", "plan", "--aggregate-name", "order")
	require.Equal(t, 1, r.status, r.stderr)
	require.Regexp(t, `(?m)^pending events +2$`, r.stdout)
	require.Contains(t, r.stdout, `CREATE TRIGGER "event_outbox_endstate_moving" AFTER INSERT ON "public"."event_outbox"`)

	r = cli(t, url, "adopt", "move", "apply", "--aggregate-name", "order", "--json")
	require.Zero(t, r.status, r.stderr)
	require.Equal(t, 2.0, decode[map[string]any](t, r)["moved"])
	mustExec(t, db, "INSERT INTO event_outbox (aggregate_id, event_type, payload) VALUES ('9', 'paid', '{}')")
	r = cli(t, url, "adopt", "move", "plan", "--aggregate-name", "order")
	require.Zero(t, r.status, r.stderr)
	require.Contains(t, r.stdout, "Nothing is to be done.")

	require.Equal(t, "3 events moved back\n", cli(t, url, "adopt", "move", "undo", "--aggregate-name", "order").stdout)
	require.Equal(t, "3 events moved\n", cli(t, url, "adopt", "move", "apply", "--aggregate-name", "order").stdout)
	require.Equal(t, "0 events moved\n", cli(t, url, "adopt", "move", "finish", "--aggregate-name", "order").stdout)

	lite := "sqlite:" + t.TempDir() + "/x.db"
	require.Zero(t, cli(t, lite, "migrate").status)
	require.Contains(t, cli(t, lite, "adopt", "move", "plan", "--aggregate-name", "order").stderr, "for PostgreSQL")
}

// What a move says of its steps, and of what fails, is for everybody's eyes: no payload, whatever the server says of the row, and no
// password.
func TestWhatAMoveSaysHasNoPayloadsAndNoPasswords(t *testing.T) {
	t.Parallel()
	direct := dbtest.Postgres(t)
	db := dbtest.SQLOn(t, direct)
	u, err := url.Parse(direct)
	require.NoError(t, err)
	u.User = url.UserPassword(u.User.Username(), "hunter2-of-nobody")
	require.Zero(t, cli(t, direct, "migrate").status)
	mustExec(t, db, "CREATE TABLE event_outbox (id bigserial PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL, payload text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), published_at timestamptz)")
	mustExec(t, db, `INSERT INTO event_outbox (aggregate_id, event_type, payload) VALUES ('7', 'paid', '{"iban": "confidential"}')`)
	mustExec(t, db, "ALTER TABLE endstate_outbox ADD CONSTRAINT no_events CHECK (octet_length(payload) < 10)")
	for _, apply := range []struct {
		status int
		says   []string
		first  string
	}{
		{2, []string{"adopt: move pending events", "no_events"}, "SELECT"},
		{0, []string{"adopt: "}, "ALTER TABLE endstate_outbox DROP CONSTRAINT no_events"},
	} {
		mustExec(t, db, apply.first)
		for _, form := range [][]string{nil, {"--json"}} {
			r := cli(t, u.String(), append([]string{"adopt", "move", "apply", "--aggregate-name", "order"}, form...)...)
			require.Equal(t, apply.status, r.status, r.stderr)
			for _, part := range apply.says {
				require.Contains(t, r.stderr, part)
			}
			require.NotContains(t, r.stdout+r.stderr, "confidential")
			require.NotContains(t, r.stdout+r.stderr, "hunter2")
		}
	}
}
