package finalize_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// Every line of Go in docs/tenants.md stands in a file that these tests run.
func TestTenantRecipesAreCompiled(t *testing.T) {
	page, err := os.ReadFile("../docs/tenants.md")
	require.NoError(t, err)
	compiled := ""
	for _, file := range []string{"tenants_test.go", "tenants_recipe_test.go"} {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		compiled += unindented(string(source))
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	require.Len(t, blocks, 5)
	for _, block := range blocks {
		require.Contains(t, compiled, unindented(block[1]))
	}
}

func unindented(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, "\n")
}

// forSchemas is the finalizer of tenants with a schema each, on a pool whose PrepareConn is searchPathOf.
func forSchemas(pool *pgxpool.Pool) (*finalize.Finalizer[pgx.Tx], error) {
	return finalize.New(pool, &finalize.Config{
		Aggregate: "batch",
		Guard:     guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")},
		Tenant:    tenantOf,
	})
}

// rowsOf is a pool's hook that shows each tenant its own rows.
func rowsOf(ctx context.Context, conn *pgx.Conn) (bool, error) {
	tenant, err := tenantOf(ctx)
	if err != nil {
		return true, err
	}
	_, err = conn.Exec(ctx, "SELECT set_config('app.tenant', $1, false)", tenant)
	return err == nil, err
}

// batchKey is unique among all tenants, whose entries share a ledger and an outbox.
func batchKey(tenant string, id int64) guard.Key {
	return guard.Composite(guard.Text(tenant), guard.Int(id))
}

const rowSecurity = `
CREATE TABLE batches (tenant text, id bigint, status text, PRIMARY KEY (tenant, id));
ALTER TABLE batches ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON batches USING (tenant = current_setting('app.tenant'));`

// F33: by row security over one table.
func TestRowsOfEachTenant(t *testing.T) {
	url := dbtest.Postgres(t)
	admin := dbtest.PoolOn(t, url)
	_, err := admin.Exec(t.Context(), rowSecurity+`INSERT INTO batches VALUES ('acme', 1), ('globex', 1), ('globex', 2);`)
	require.NoError(t, err)
	// Roles are the server's: the name is this test's.
	role := pgx.Identifier{"app_" + admin.Config().ConnConfig.Database}.Sanitize()
	_, err = admin.Exec(t.Context(), "CREATE ROLE "+role)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := admin.Exec(context.WithoutCancel(t.Context()), "DROP OWNED BY "+role+"; DROP ROLE "+role)
		require.NoError(t, err)
	})
	pool := dbtest.PoolOn(t, url, func(c *pgxpool.Config) {
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "SET ROLE "+role) // the owner of a table sees all rows
			return err
		}
		c.PrepareConn = rowsOf
	})
	cfg := &finalize.Config{
		Aggregate: "batch",
		Guard: guard.All(
			guard.Status{Table: "batches", Keys: []string{"tenant", "id"}, Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")},
			guard.Ledger{},
		),
		Tenant: tenantOf,
	}
	cfg.Logger = discard()
	owner, err := finalize.New(admin, cfg)
	require.NoError(t, err)
	require.NoError(t, owner.Migrate(t.Context()))
	_, err = admin.Exec(t.Context(), "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO "+role+"; GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "+role)
	require.NoError(t, err)

	fin, err := finalize.New(pool, cfg)
	require.NoError(t, err)
	for _, tenant := range tenants {
		for _, won := range []bool{true, false} {
			r, err := fin.Settle(as(t.Context(), tenant), batchKey(tenant, 1), finalize.Trigger(tenant), outcomeOf(tenant))
			require.NoError(t, err)
			require.Equal(t, won, r.Won)
			require.Equal(t, finalize.Trigger(tenant), r.Trigger)
		}
	}
	// Another's key finds nothing, though this process knows the answer.
	_, err = fin.Settle(as(t.Context(), "acme"), batchKey("globex", 1), "curious", outcomeOf("acme"))
	require.ErrorIs(t, err, guard.ErrNotFound)
	_, err = fin.Settle(as(t.Context(), "acme"), batchKey("globex", 2), "curious", outcomeOf("acme"))
	require.ErrorIs(t, err, guard.ErrNotFound)
	var states []string
	require.NoError(t, admin.QueryRow(t.Context(), "SELECT array_agg(concat_ws(' ', tenant, id, status) ORDER BY tenant, id) FROM batches").Scan(&states))
	require.Equal(t, []string{"acme 1 COMPLETE_acme", "globex 1 COMPLETE_globex", "globex 2"}, states)
}

// finalizers are those of the tenants' databases.
type finalizers struct {
	open func(ctx context.Context, tenant string) (*pgxpool.Pool, error)

	mu       sync.Mutex
	byTenant map[string]*finalize.Finalizer[pgx.Tx]
}

// of returns the finalizer of the tenant for whom ctx calls.
func (f *finalizers) of(ctx context.Context) (*finalize.Finalizer[pgx.Tx], error) {
	tenant, err := tenantOf(ctx)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fin := f.byTenant[tenant]; fin != nil {
		return fin, nil
	}
	pool, err := f.open(ctx, tenant)
	if err != nil {
		return nil, err
	}
	fin, err := finalize.New(pool, &finalize.Config{
		Aggregate: "batch",
		Guard:     guard.Ledger{},
		Tenant:    func(context.Context) (string, error) { return tenant, nil }, // tells locks and log lines apart
	})
	if err == nil {
		f.byTenant[tenant] = fin
	}
	return fin, err
}

// F33: by database.
func TestDatabaseOfEachTenant(t *testing.T) {
	urls := map[string]string{}
	for _, tenant := range tenants {
		urls[tenant] = dbtest.Postgres(t)
	}
	all := &finalizers{byTenant: map[string]*finalize.Finalizer[pgx.Tx]{}, open: func(_ context.Context, tenant string) (*pgxpool.Pool, error) {
		return dbtest.PoolOn(t, urls[tenant]), nil
	}}
	for _, tenant := range tenants {
		ctx := as(t.Context(), tenant)
		for _, won := range []bool{true, false} {
			fin, err := all.of(ctx)
			require.NoError(t, err)
			require.NoError(t, fin.Migrate(ctx))
			r, err := fin.Settle(ctx, guard.Int(1), finalize.Trigger(tenant), outcomeOf(tenant))
			require.NoError(t, err)
			require.Equal(t, won, r.Won)
			require.Equal(t, "COMPLETE_"+tenant, r.State)
		}
	}
	require.Len(t, all.byTenant, len(tenants))
}

func TestSchemaOfEachTenant(t *testing.T) {
	url := dbtest.Postgres(t)
	_, err := dbtest.PoolOn(t, url).Exec(t.Context(), `CREATE SCHEMA acme; CREATE TABLE acme.batches (id text PRIMARY KEY, status text); INSERT INTO acme.batches VALUES ('b')`)
	require.NoError(t, err)
	fin, err := forSchemas(dbtest.PoolOn(t, url, func(c *pgxpool.Config) { c.PrepareConn = searchPathOf }))
	require.NoError(t, err)
	require.NoError(t, fin.Migrate(as(t.Context(), "acme")))
	r, err := fin.Settle(as(t.Context(), "acme"), guard.Text("b"), "t", outcomeOf("acme"))
	require.NoError(t, err)
	require.True(t, r.Won)
}
