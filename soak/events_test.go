package soak

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// written is an event as the outbox has it.
type written struct {
	ID              uuid.UUID
	Aggregate, Type string
}

// requireDrained waits until every subscription has passed all events, and every consumer has applied them.
func (r *round) requireDrained() {
	r.t.Helper()
	const wanted = "(SELECT count(*) FROM endstate_outbox WHERE name IN ('nats', 'kafka') OR type = 'step' OR name = 'inside' AND type = 'result')"
	const query = `SELECT name || ' has applied ' || (SELECT count(*) FROM effects WHERE consumer = name) || ' of ' || ` + wanted + ` FROM unnest($1::text[]) AS name
		WHERE (SELECT count(*) FROM effects WHERE consumer = name) < ` + wanted + `
		UNION ALL SELECT 'parked for ' || subscription || ': ' || count(*) FROM endstate_outbox_parked GROUP BY subscription`
	var behind, before []string
	said, moved := time.Now(), time.Now()
	for time.Since(moved) < 3*time.Minute {
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			r.t.Logf("not drained yet: %v", behind)
		}
		time.Sleep(300 * time.Millisecond)
		rows, err := r.servers.direct.Query(r.t.Context(), query, subscriptions())
		if err != nil {
			continue
		}
		if behind, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil && len(behind) == 0 {
			return
		}
		if !slices.Equal(behind, before) {
			before, moved = behind, time.Now()
		}
	}
	require.Fail(r.t, "for three minutes nothing was drained", "%v", behind)
}

// requireDelivered checks I5 and I6 on what the brokers hold, and that each effect is there once, in order where the consumer
// promises one.
func (r *round) requireDelivered(t *testing.T) (events int) {
	t.Helper()
	rows, err := r.servers.direct.Query(t.Context(), "SELECT id, aggregate_type || ' ' || aggregate_id, type FROM endstate_outbox ORDER BY seq")
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[written])
	require.NoError(t, err)
	published := r.brokers.published(t)
	for _, broker := range []string{toNATS, toKafka, toRedis} {
		requireOrder(t, broker, all, published[broker], false)
	}
	for _, consumer := range subscriptions() {
		rows, err := r.servers.direct.Query(t.Context(), "SELECT event FROM effects WHERE consumer = $1 ORDER BY at", consumer)
		require.NoError(t, err)
		effects, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		require.NoError(t, err)
		if consumer == toKafka || consumer == inside {
			requireOrder(t, effectsOf+consumer, all, effects, true)
			continue
		}
		requireOnce(t, effectsOf+consumer, all, effects)
	}
	return len(all)
}

const effectsOf = "the effects of "

// requireOnce makes sure that what came is what was written, each once.
func requireOnce(t *testing.T, where string, all []written, came []uuid.UUID) {
	t.Helper()
	times := map[uuid.UUID]int{}
	for _, id := range came {
		times[id]++
	}
	var bad []string
	for _, e := range all {
		if n := times[e.ID]; n != 1 && concerns(where, e) {
			bad = append(bad, fmt.Sprintf("%s of %s, %s: %d times", e.Type, e.Aggregate, e.ID, n))
		}
		delete(times, e.ID)
	}
	require.Empty(t, bad[:min(len(bad), 10)], "%s: %d events are lost or doubled", where, len(bad))
	require.Empty(t, times, "%s: nobody has written these", where)
}

// requireOrder makes sure that all that was written came, each aggregate's in their order, first arrivals considered. With once,
// there are no others.
func requireOrder(t *testing.T, where string, all []written, came []uuid.UUID, once bool) {
	t.Helper()
	first := map[uuid.UUID]int{}
	var firsts []uuid.UUID
	for i, id := range came {
		if _, repeated := first[id]; !repeated {
			first[id] = i
			firsts = append(firsts, id)
		}
	}
	if once {
		firsts = came
	}
	requireOnce(t, where, all, firsts)
	last := map[string]int{}
	var bad []string
	for _, e := range all {
		if !concerns(where, e) {
			continue
		}
		if at, before := last[e.Aggregate]; before && first[e.ID] < at {
			bad = append(bad, fmt.Sprintf("%s of %s, %s: came before an earlier one", e.Type, e.Aggregate, e.ID))
		}
		last[e.Aggregate] = first[e.ID]
	}
	require.Empty(t, bad[:min(len(bad), 10)], "%s: %d events are out of order", where, len(bad))
}

// concerns reports whether an event comes to a broker or a consumer.
func concerns(where string, e written) bool {
	switch strings.TrimPrefix(where, effectsOf) {
	case toRedis:
		return e.Type == stepType
	case inside:
		return e.Type == stepType || e.Type == resultType
	}
	return true
}

// requireSteps makes sure that the steps of each aggregate are all there, in the order in which they committed.
func (r *round) requireSteps(t *testing.T) {
	t.Helper()
	r.requireNone(t, "steps without their event, twice, or out of order", `WITH step AS (
			SELECT aggregate_id::int AS id, convert_from(payload, 'UTF8')::int AS n, row_number() OVER (PARTITION BY aggregate_id ORDER BY seq) AS place
			FROM endstate_outbox WHERE type = 'step')
		SELECT id || ': ' || n FROM step WHERE n <> place UNION ALL
		SELECT id || ': ' || n FROM steps WHERE n <> (SELECT count(*) FROM step WHERE step.id = steps.id)`)
}

// requireNothingHeld checks I7 in the database: every process has ended by now. Of connections that have gone silent, the server
// still has its end.
func (r *round) requireNothingHeld(t *testing.T) {
	t.Helper()
	for _, proxy := range r.proxies {
		proxy.CutAll()
	}
	require.Eventually(t, func() bool {
		var n int
		err := r.servers.direct.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name = ANY($1))
			+ (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') + (SELECT count(*) FROM pg_prepared_xacts)`, []string{producing, relaying, consuming}).Scan(&n)
		return err == nil && n == 0
	}, time.Minute, 50*time.Millisecond, "sessions, advisory locks and prepared transactions")
	r.requireNone(t, "parked events", "SELECT subscription || ': ' || last_error FROM endstate_outbox_parked")
	r.requireNone(t, "dead letters of an inbox", "SELECT consumer::text FROM endstate_inbox WHERE state = 'dead'")
	r.requireNone(t, "partitions that somebody owns", "SELECT subscription || ' ' || partition FROM endstate_outbox_cursors WHERE owner IS NOT NULL")
}

// requireNone makes sure that a query finds nothing.
func (r *round) requireNone(t *testing.T, what, query string) {
	t.Helper()
	rows, err := r.servers.direct.Query(t.Context(), query+" LIMIT 10")
	require.NoError(t, err, query)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err, query)
	require.Empty(t, found, what)
}
