package main

import (
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
