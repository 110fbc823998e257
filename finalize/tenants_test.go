package finalize_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

type tenantKey struct{}

// as is a context in which a tenant calls.
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

// searchPathOf is a pool's hook that shows each tenant its own schema.
func searchPathOf(ctx context.Context, conn *pgx.Conn) (bool, error) {
	tenant, err := tenantOf(ctx)
	if err != nil {
		return true, err
	}
	if conn.PgConn().CustomData()["tenant"] == tenant {
		return true, nil
	}
	_, err = conn.Exec(ctx, "SELECT set_config('search_path', $1, false)", pgx.Identifier{tenant}.Sanitize())
	conn.PgConn().CustomData()["tenant"] = tenant
	return err == nil, err
}

// tenants are those of a test, whose aggregates have the same keys.
var tenants = []string{"acme", "globex"}

// tenantsWorld is a service with a schema for each tenant, behind one finalizer.
type tenantsWorld struct {
	door
	admin *pgxpool.Pool
	pool  *pgxpool.Pool
}

// eachTenantWorld runs a test on pgx and on database/sql.
func eachTenantWorld(t *testing.T, ids []string, run func(t *testing.T, w *tenantsWorld), configure ...func(*finalize.Config)) {
	for _, database := range []string{"pgx", "sql"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			w := &tenantsWorld{admin: dbtest.PoolOn(t, url)}
			w.pool = dbtest.PoolOn(t, url, func(c *pgxpool.Config) { c.PrepareConn = searchPathOf })
			cfg := &finalize.Config{Aggregate: aggregate, Guard: guard.All(statusGuard(), guard.Ledger{}), Tenant: tenantOf, Logger: discard()}
			for _, f := range configure {
				f(cfg)
			}
			if database == "pgx" {
				fin, err := finalize.New(w.pool, cfg)
				require.NoError(t, err)
				w.door = doorOf(fin, func(tx pgx.Tx) endstate.Tx { return tx }, func(ctx context.Context, _ string) (pgx.Tx, error) { return w.pool.Begin(ctx) })
			} else {
				db := stdlib.OpenDBFromPool(w.pool)
				t.Cleanup(func() { _ = db.Close() })
				fin, err := finalize.NewSQL(db, cfg)
				require.NoError(t, err)
				w.door = doorOf(fin, func(tx *sql.Tx) endstate.Tx { return endstate.PostgresTx(tx) }, func(ctx context.Context, _ string) (*sql.Tx, error) { return db.BeginTx(ctx, nil) })
			}
			for _, tenant := range tenants {
				_, err := w.admin.Exec(t.Context(), fmt.Sprintf(`CREATE SCHEMA %[1]s; CREATE TABLE %[1]s.batches (id text PRIMARY KEY, status text, touched timestamptz DEFAULT '2020-01-01')`, tenant))
				require.NoError(t, err)
				_, err = w.admin.Exec(t.Context(), fmt.Sprintf("INSERT INTO %s.batches (id) SELECT unnest($1::text[])", tenant), ids)
				require.NoError(t, err)
				require.NoError(t, w.migrate(as(t.Context(), tenant)))
				require.NoError(t, w.check(as(t.Context(), tenant)))
			}
			run(t, w)
		})
	}
}

// outcomeOf is what a tenant's calls want, which tells its rows from another's.
func outcomeOf(tenant string) finalize.Outcome {
	return finalize.Outcome{State: "COMPLETE_" + tenant, Events: []outbox.Event{{Type: "done", Payload: []byte(`"` + tenant + `"`)}}}
}

// requireOwn checks that all rows of each tenant are its own: states, ledger entries and events, one for each id.
func (w *tenantsWorld) requireOwn(t *testing.T, ids []string) {
	t.Helper()
	for _, tenant := range tenants {
		for what, query := range map[string]string{
			"states": "SELECT count(*) FROM %s.batches WHERE status = $1", "ledger": "SELECT count(*) FROM %s.endstate_ledger WHERE state = $1",
			"events": `SELECT count(*) FROM %s.endstate_outbox WHERE convert_from(payload, 'UTF8') = '"' || substr($1, 10) || '"'`,
		} {
			var n int
			require.NoError(t, w.admin.QueryRow(t.Context(), fmt.Sprintf(query, tenant), "COMPLETE_"+tenant).Scan(&n))
			require.Equal(t, len(ids), n, "%s of %s", what, tenant)
		}
	}
}

// F33: by search_path, through every door.
func TestEachTenantsAggregateIsItsOwn(t *testing.T) {
	ids := []string{"do", "settle", "prepared", "dotx", "many"}
	eachTenantWorld(t, ids, func(t *testing.T, w *tenantsWorld) {
		for _, tenant := range tenants {
			ctx, out := as(t.Context(), tenant), outcomeOf(tenant)
			fn := func(context.Context, endstate.Tx) (finalize.Outcome, error) { return out, nil }
			for i := range 3 { // repeats are answered from memory
				won := func(r finalize.Receipt, err error) {
					t.Helper()
					require.NoError(t, err)
					require.Equal(t, i == 0, r.Won, tenant)
					require.Equal(t, out.State, r.State)
					require.Equal(t, finalize.Trigger(tenant), r.Trigger)
				}
				won(w.do(ctx, guard.Text("do"), finalize.Trigger(tenant), fn))
				won(w.settle(ctx, guard.Text("settle"), finalize.Trigger(tenant), out))
				won(w.prepare(ctx, guard.Text("prepared"), finalize.Trigger(tenant), stages{
					Prepare: func(context.Context) (string, error) { return "", nil },
					Commit:  func(ctx context.Context, tx endstate.Tx, _ string) (finalize.Outcome, error) { return out, nil },
				}))
				results, err := w.many(ctx, finalize.Trigger(tenant), []finalize.Item{{Key: guard.Text("many"), Outcome: out}})
				require.NoError(t, err)
				won(results[0].Receipt, results[0].Err)
				tx, err := w.begin(ctx, "")
				require.NoError(t, err)
				won(tx.doTx(ctx, guard.Text("dotx"), finalize.Trigger(tenant), fn))
				require.NoError(t, tx.Commit(ctx))
			}
		}
		w.requireOwn(t, ids)
	})
}

// F33: calls for one key of two tenants don't wait for each other, and none is answered by what the other learnt.
func TestTenantsDoNotTakeTurns(t *testing.T) {
	eachTenantWorld(t, []string{"b"}, func(t *testing.T, w *tenantsWorld) {
		r, err := w.do(as(t.Context(), "acme"), guard.Text("b"), "acme", func(context.Context, endstate.Tx) (finalize.Outcome, error) {
			r, err := w.settle(as(t.Context(), "globex"), guard.Text("b"), "globex", outcomeOf("globex"))
			require.NoError(t, err)
			require.True(t, r.Won)
			return outcomeOf("acme"), nil
		})
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireOwn(t, []string{"b"})
	})
}

// F33: a group is one tenant's: its statement runs on a connection that was prepared for that tenant.
func TestTenantsAreNotGrouped(t *testing.T) {
	ids := ids(250)
	eachTenantWorld(t, ids, func(t *testing.T, w *tenantsWorld) {
		before := w.pool.Stat().AcquireCount()
		var all sync.WaitGroup
		for _, id := range ids {
			for _, tenant := range tenants {
				all.Go(func() {
					r, err := w.settle(as(t.Context(), tenant), guard.Text(id), finalize.Trigger(tenant), outcomeOf(tenant))
					if err != nil || !r.Won || r.State != "COMPLETE_"+tenant {
						t.Errorf("%s %s: %+v, %v", tenant, id, r, err)
					}
				})
			}
		}
		all.Wait()
		w.requireOwn(t, ids)
		if t.Name() == "TestTenantsAreNotGrouped/pgx" {
			require.Less(t, w.pool.Stat().AcquireCount()-before, int64(len(ids)), "they were grouped at all")
		}
	}, func(c *finalize.Config) { c.Group.Wait = 100 * time.Millisecond })
}

// F33: what is forgotten of one is remembered of the other.
func TestForgetIsOneTenants(t *testing.T) {
	eachTenantWorld(t, []string{"b"}, func(t *testing.T, w *tenantsWorld) {
		for _, tenant := range tenants {
			_, err := w.settle(as(t.Context(), tenant), guard.Text("b"), "first", outcomeOf(tenant))
			require.NoError(t, err)
			_, err = w.admin.Exec(t.Context(), fmt.Sprintf("DELETE FROM %[1]s.endstate_ledger; UPDATE %[1]s.batches SET status = NULL; DELETE FROM %[1]s.endstate_outbox", tenant))
			require.NoError(t, err)
		}
		require.NoError(t, w.forget(as(t.Context(), "acme"), guard.Text("b")))
		for tenant, asked := range map[string]bool{"acme": true, "globex": false} {
			r, err := w.settle(as(t.Context(), tenant), guard.Text("b"), "second", outcomeOf(tenant))
			require.NoError(t, err)
			require.Equal(t, asked, r.Won, tenant)
		}
	})
}

// F33: a call whose tenant isn't known is refused.
func TestWhoseAggregateMustBeKnown(t *testing.T) {
	eachTenantWorld(t, []string{"b"}, func(t *testing.T, w *tenantsWorld) {
		_, err := w.settle(as(t.Context(), "acme"), guard.Text("b"), "first", outcomeOf("acme"))
		require.NoError(t, err)
		fn := func(context.Context, endstate.Tx) (finalize.Outcome, error) { return outcomeOf("nobody"), nil }
		for name, ctx := range map[string]context.Context{"fails": t.Context(), "is empty": as(t.Context(), ""), "is not valid UTF-8": as(t.Context(), "\xff")} {
			_, err := w.do(ctx, guard.Text("b"), "t", fn)
			require.ErrorIs(t, err, finalize.ErrTenant, name)
			_, err = w.settle(ctx, guard.Text("b"), "t", outcomeOf("nobody"))
			require.ErrorIs(t, err, finalize.ErrTenant, name)
			_, err = w.prepare(ctx, guard.Text("b"), "t", stages{Prepare: neverPrepare(t)})
			require.ErrorIs(t, err, finalize.ErrTenant, name)
			results, err := w.many(ctx, "t", []finalize.Item{{Key: guard.Text("b"), Outcome: outcomeOf("nobody")}})
			require.ErrorIs(t, err, finalize.ErrTenant, name)
			require.ErrorIs(t, results[0].Err, finalize.ErrTenant, name)
			require.ErrorIs(t, w.forget(ctx, guard.Text("b")), finalize.ErrTenant, name)
			tx, err := w.begin(as(t.Context(), "acme"), "")
			require.NoError(t, err)
			_, err = tx.doTx(ctx, guard.Text("b"), "t", fn)
			require.ErrorIs(t, err, finalize.ErrTenant, name)
			require.NoError(t, tx.Rollback(t.Context()))
		}
	})
}

// F33: one tenant's sweep is no other's.
func TestSweeperGoesThroughTenants(t *testing.T) {
	touched := func(c *finalize.Config) {
		status := statusGuard()
		status.Touched = "touched"
		c.Guard = guard.All(status, guard.Ledger{})
	}
	ids := ids(30)
	fn := func(ctx context.Context, _ endstate.Tx, _ guard.Key) (finalize.Outcome, error) {
		tenant, err := tenantOf(ctx)
		return outcomeOf(tenant), err
	}
	eachTenantWorld(t, ids, func(t *testing.T, w *tenantsWorld) {
		s, err := w.sweeper(fn, &finalize.SweeperConfig{Tenants: func(ctx context.Context) iter.Seq2[context.Context, error] {
			return func(yield func(context.Context, error) bool) {
				// One tenant's trouble is no other's.
				for _, tenant := range []string{"acme", "gone", "globex", "gone"} {
					if !yield(as(ctx, tenant), nil) {
						return
					}
				}
				yield(nil, errors.New("the directory is away"))
			}
		}})
		require.NoError(t, err)
		swept := s.Sweep(t.Context())
		require.ErrorContains(t, swept.Err, "find the tenants: the directory is away")
		require.ErrorContains(t, swept.Err, "tenant gone: ")
		require.Equal(t, 2*len(ids), swept.Won)
		require.Equal(t, swept.Found, swept.Won)
		w.requireOwn(t, ids)

		alone, err := w.sweeper(fn, nil)
		require.NoError(t, err)
		require.ErrorIs(t, alone.Sweep(t.Context()).Err, finalize.ErrTenant, "nobody said for whom")
		require.NoError(t, alone.Sweep(as(t.Context(), "acme")).Err)
	}, touched)
}
