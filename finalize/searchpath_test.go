package finalize_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// F33: without a Tenant, a pool that prepares connections for callers needs names with schemas.
func TestPoolWithAHookNeedsATenant(t *testing.T) {
	status := statusGuard()
	status.Schema = "app"
	qualified := guard.All(status, guard.Ledger{Schema: "app"})
	for name, hook := range map[string]func(*pgxpool.Config){
		"PrepareConn": func(c *pgxpool.Config) { c.PrepareConn = searchPathOf },
		"BeforeAcquire": func(c *pgxpool.Config) {
			//lint:ignore SA1019 it is deprecated, and still called
			c.BeforeAcquire = func(context.Context, *pgx.Conn) bool { return true }
		},
	} {
		t.Run(name, func(t *testing.T) {
			pool := dbtest.PoolOn(t, "postgres://127.0.0.1:1/x", hook)
			for want, cfg := range map[string]*finalize.Config{
				"batches, endstate_ledger, endstate_outbox": {Guard: guard.All(statusGuard(), guard.Ledger{})},
				"by the pool's " + name:                     {Guard: qualified},
				"without a schema: endstate_ledger.":        {Guard: guard.All(status, guard.Ledger{}), Outbox: outbox.Writer{Schema: "app"}},
			} {
				cfg.Aggregate = "batch"
				_, err := finalize.New(pool, cfg)
				require.ErrorIs(t, err, finalize.ErrConfig)
				require.ErrorContains(t, err, "Tenant is nil")
				require.ErrorContains(t, err, want)
				cfg.Tenant = tenantOf
				_, err = finalize.New(pool, cfg)
				require.NoError(t, err)
			}
			_, err := finalize.New(pool, &finalize.Config{Aggregate: "batch", Guard: qualified, Outbox: outbox.Writer{Schema: "app"}})
			require.NoError(t, err, "every name says which table it is")
		})
	}
}

// F33: behind database/sql a hook can't be seen, what connections show can: nothing is written where it differs, and nothing that
// was learnt before is told.
func TestConnectionsThatDifferAreRefused(t *testing.T) {
	url := dbtest.Postgres(t)
	admin := dbtest.PoolOn(t, url)
	for _, tenant := range tenants {
		_, err := admin.Exec(t.Context(), `CREATE SCHEMA `+tenant+`; CREATE TABLE `+tenant+`.batches (id text PRIMARY KEY, status text); INSERT INTO `+tenant+`.batches VALUES ('1'), ('2')`)
		require.NoError(t, err)
	}
	db := stdlib.OpenDBFromPool(dbtest.PoolOn(t, url, func(c *pgxpool.Config) { c.PrepareConn = searchPathOf }))
	defer db.Close()
	fin, err := finalize.NewSQL(db, &finalize.Config{Aggregate: "batch", Guard: statusGuard(), Logger: discard()})
	require.NoError(t, err)
	acme, globex := as(t.Context(), "acme"), as(t.Context(), "globex")
	require.NoError(t, fin.Migrate(acme))
	require.NoError(t, fin.Migrate(globex), "where a table is missing, nothing can be mixed up")

	r, err := fin.Settle(acme, guard.Text("1"), "webhook", outcomeOf("acme"))
	require.NoError(t, err)
	require.True(t, r.Won)
	_, err = fin.Settle(globex, guard.Text("2"), "webhook", outcomeOf("globex"))
	require.ErrorIs(t, err, finalize.ErrTenant)
	require.ErrorContains(t, err, "batches, endstate_outbox")
	_, err = fin.Settle(globex, guard.Text("1"), "webhook", outcomeOf("globex"))
	require.ErrorIs(t, err, finalize.ErrTenant, "what acme's call learnt is told no more")
	for _, tenant := range tenants {
		var done int
		require.NoError(t, admin.QueryRow(t.Context(), "SELECT count(*) FROM "+tenant+".batches WHERE status IS NOT NULL").Scan(&done))
		require.Equal(t, map[string]int{"acme": 1, "globex": 0}[tenant], done)
	}
}
