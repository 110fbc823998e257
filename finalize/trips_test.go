package finalize_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox"
)

const noted = `CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; `

// unpinged has one connection, which isn't pinged after it was idle for a second, as it may be on a busy machine.
func unpinged(c *pgxpool.Config) {
	c.MaxConns = 1
	c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
}

// Round trips on a warm connection, counted at the wire.
func TestRoundTrips(t *testing.T) {
	for name, tt := range map[string]struct {
		guard                                    guard.Guard
		schema                                   string
		doWins, doLoses, settleWins, settleLoses int
		many                                     int // all of which win
	}{
		"status": {statusGuard(), "", 2, 2, 1, 2, 1},
		"ledger": {guard.Ledger{}, "", 2, 2, 1, 2, 1},
		"all":    {guard.All(statusGuard(), guard.Ledger{}), "", 2, 2, 1, 2, 1},
		// What a BEFORE trigger makes of the row is returned with it.
		"a BEFORE trigger": {guard.All(statusGuard(), guard.Ledger{}), noted + `CREATE TRIGGER note BEFORE UPDATE ON batches FOR EACH ROW EXECUTE FUNCTION note()`, 2, 2, 1, 2, 1},
		// The second look travels with the commit, and with the statement of a SettleMany; a Settle claims first.
		"an AFTER trigger": {guard.All(statusGuard(), guard.Ledger{}), noted + `CREATE TRIGGER note AFTER UPDATE ON batches FOR EACH ROW EXECUTE FUNCTION note()`, 2, 2, 2, 2, 1},
		// Its Claim takes two, of which a loser needs one, and its Settle one. Begin is one, as are the events,
		// the commit, and a rollback.
		"own": {ownGuard{}, "", 6, 3, 6, 3, 18},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			url := dbtest.Postgres(t)
			direct := dbtest.PoolOn(t, url)
			_, err := direct.Exec(ctx, `CREATE TABLE batches (id text PRIMARY KEY, status text, note text); INSERT INTO batches SELECT n, 'PENDING' FROM generate_series(1, 20) n; `+tt.schema)
			require.NoError(t, err)
			proxy := pgfault.New(t, url)
			fin, err := finalize.New(dbtest.PoolOn(t, proxy.URL(), unpinged), &finalize.Config{Aggregate: "batch", Guard: tt.guard, Logger: discard(), Cache: finalize.CacheConfig{Off: true}})
			require.NoError(t, err)
			require.NoError(t, fin.Migrate(ctx))
			if s, ok := tt.guard.(guard.Status); ok { // whose trigger is known, and changes nothing
				tx, err := direct.Begin(ctx)
				require.NoError(t, err)
				require.NoError(t, s.Protect(ctx, tx))
				require.NoError(t, tx.Commit(ctx))
			}
			out := finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "a", Payload: []byte(`1`)}, {Type: "b", Payload: []byte(`2`)}}}
			do := func(key string, wins bool) {
				r, err := fin.Do(ctx, guard.Text(key), "caller", func(context.Context, pgx.Tx) (finalize.Outcome, error) { return out, nil })
				require.NoError(t, err)
				require.Equal(t, wins, r.Won)
			}
			settle := func(key string, wins bool) {
				r, err := fin.Settle(ctx, guard.Text(key), "caller", out)
				require.NoError(t, err)
				require.Equal(t, wins, r.Won)
			}
			many := func(keys ...string) {
				var items []finalize.Item
				for _, key := range keys {
					items = append(items, finalize.Item{Key: guard.Text(key), Outcome: out})
				}
				results, err := fin.SettleMany(ctx, "caller", items)
				require.NoError(t, err)
				for _, r := range results {
					require.True(t, r.Receipt.Won)
				}
			}
			do("1", true) // prepares the statements
			do("1", false)
			settle("2", true)
			settle("2", false)
			many("5", "6", "7")
			for _, c := range []struct {
				name string
				want int
				call func()
			}{
				{"Do wins", tt.doWins, func() { do("3", true) }},
				{"Do loses", tt.doLoses, func() { do("3", false) }},
				{"Settle wins", tt.settleWins, func() { settle("4", true) }},
				{"Settle loses", tt.settleLoses, func() { settle("4", false) }},
				{"SettleMany wins", tt.many, func() { many("8", "9", "10") }},
			} {
				trips := proxy.Trips(c.call)
				require.Len(t, trips, c.want, c.name)
			}
		})
	}
}

// Where most calls lose, they look first: a loser is answered in one trip. Where they win again, they don't.
func TestCallsLookFirstWhereMostLose(t *testing.T) {
	for name, g := range map[string]guard.Guard{"status": statusGuard(), "ledger": guard.Ledger{}, "all": guard.All(statusGuard(), guard.Ledger{})} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			url := dbtest.Postgres(t)
			direct := dbtest.PoolOn(t, url)
			_, err := direct.Exec(ctx, `CREATE TABLE batches (id text PRIMARY KEY, status text, note text); INSERT INTO batches SELECT n, 'PENDING' FROM generate_series(1, 100) n`)
			require.NoError(t, err)
			proxy := pgfault.New(t, url)
			pool := dbtest.PoolOn(t, proxy.URL(), unpinged)
			fin, err := finalize.New(pool, &finalize.Config{Aggregate: "batch", Guard: g, Logger: discard(), Cache: finalize.CacheConfig{Off: true}})
			require.NoError(t, err)
			require.NoError(t, fin.Migrate(ctx))
			out := finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "a", Payload: []byte(`1`)}}}
			settle := func(n int, wins bool) {
				r, err := fin.Settle(ctx, guard.Text(strconv.Itoa(n)), "caller", out)
				require.NoError(t, err)
				require.Equal(t, wins, r.Won)
			}
			do := func(n int, wins bool) {
				r, err := fin.Do(ctx, guard.Text(strconv.Itoa(n)), "caller", func(context.Context, pgx.Tx) (finalize.Outcome, error) { return out, nil })
				require.NoError(t, err)
				require.Equal(t, wins, r.Won)
			}
			settle(1, true)
			do(2, true)
			for range 30 {
				settle(1, false)
			}
			require.Len(t, proxy.Trips(func() { settle(1, false) }), 1)
			require.Len(t, proxy.Trips(func() { do(2, false) }), 1)
			acquired := pool.Stat().AcquireCount()
			require.Len(t, proxy.Trips(func() { settle(3, true) }), 2, "a winner pays")
			require.Len(t, proxy.Trips(func() { do(4, true) }), 3)
			require.Equal(t, acquired+2, pool.Stat().AcquireCount(), "who has looked goes on with the same connection")
			for n := range 30 {
				settle(10+n, true)
			}
			require.Len(t, proxy.Trips(func() { settle(5, true) }), 1)
			require.Len(t, proxy.Trips(func() { settle(5, false) }), 2)
		})
	}
}
