package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

type tenantKey struct{}

func as(ctx context.Context, tenant string) context.Context {
	return context.WithValue(ctx, tenantKey{}, tenant)
}

func tenantOf(ctx context.Context) (string, error) {
	tenant, ok := ctx.Value(tenantKey{}).(string)
	if !ok {
		return "", errors.New("the context names no tenant")
	}
	return tenant, nil
}

// F33: one event, or two of one key, are handled once for each tenant, and its dead letters are its own.
func TestEachTenantsEventsAreItsOwn(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]func(outbox.Event) (string, error){"by id": nil, "by key": func(outbox.Event) (string, error) { return "credit/batch-1", nil }} {
		t.Run(name, func(t *testing.T) {
			db := dbtest.SQLite(t)
			table, err := inbox.NewTableSQL(db, &inbox.TableConfig{Consumer: "entitlements", Key: key, Tenant: tenantOf, MaxAttempts: 1, Logger: discard()})
			require.NoError(t, err)
			require.NoError(t, table.Migrate(t.Context()))
			claims := newClaims(t, dbtest.Redis(t), func(cfg *inbox.ClaimsConfig) { cfg.Key, cfg.Tenant = key, tenantOf })
			for way, handle := range map[string]inbox.Handler{
				"table":  inbox.Handle(table, func(context.Context, *sql.Tx, outbox.Event) error { return nil }),
				"claims": inbox.Handle(claims, func(context.Context, outbox.Event) error { return nil }),
			} {
				e := event()
				for _, tenant := range []string{"acme", "globex", "acme/entitlements"} {
					for _, want := range []inbox.Outcome{inbox.Applied, inbox.Repeated} {
						r, err := handle(as(t.Context(), tenant), e)
						require.NoError(t, err, way)
						require.Equal(t, want, r.Outcome, "%s: %s", way, tenant)
					}
				}
				for _, nobody := range []context.Context{t.Context(), as(t.Context(), "")} {
					_, err := handle(nobody, e)
					require.ErrorIs(t, err, inbox.ErrTenant, way)
				}
			}
		})
	}
}

func TestEachTenantsDeadLettersAreItsOwn(t *testing.T) {
	t.Parallel()
	table, err := inbox.NewTableSQL(dbtest.SQLite(t), &inbox.TableConfig{Consumer: "entitlements", Tenant: tenantOf, MaxAttempts: 1, Logger: discard()})
	require.NoError(t, err)
	require.NoError(t, table.Migrate(t.Context()))
	acme, globex, e := as(t.Context(), "acme"), as(t.Context(), "globex"), event()
	bad := inbox.Handle(table, func(context.Context, *sql.Tx, outbox.Event) error { return errors.New("no such account") })
	for _, tenant := range []context.Context{acme, globex} {
		r, err := bad(tenant, e)
		require.NoError(t, err)
		require.Equal(t, inbox.DeadLettered, r.Outcome)
	}
	require.NoError(t, table.Discard(acme, e.ID.String()))
	for tenant, want := range map[context.Context]int{acme: 0, globex: 1} {
		letters, err := table.DeadLetters(tenant, 10)
		require.NoError(t, err)
		require.Len(t, letters, want)
	}
	fine := func(context.Context, *sql.Tx, outbox.Event) error { return nil }
	_, err = table.Retry(acme, e.ID.String(), fine)
	require.ErrorIs(t, err, inbox.ErrNotFound)
	r, err := table.Retry(globex, e.ID.String(), fine)
	require.NoError(t, err)
	require.Equal(t, inbox.Applied, r.Outcome)
	_, err = table.Clean(acme)
	require.NoError(t, err)

	_, err = table.DeadLetters(t.Context(), 10)
	require.ErrorIs(t, err, inbox.ErrTenant)
	_, err = table.Clean(t.Context())
	require.ErrorIs(t, err, inbox.ErrTenant)
	require.ErrorIs(t, table.Discard(t.Context(), e.ID.String()), inbox.ErrTenant)
	_, err = table.Retry(t.Context(), e.ID.String(), fine)
	require.ErrorIs(t, err, inbox.ErrTenant)
}
