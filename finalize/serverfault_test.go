package finalize_test

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// F5: the server ends sessions in the middle of a callback: a clear error or another attempt, and nothing half-written.
func TestServerEndsTheSession(t *testing.T) {
	for _, tt := range []struct{ name, setting, during string }{
		{"terminated", "", `SELECT pg_terminate_backend(pg_backend_pid())`},
		{"statement_timeout", "SET LOCAL statement_timeout = '20ms'", `SELECT pg_sleep(10)`},
		{"idle_in_transaction_session_timeout", "SET LOCAL idle_in_transaction_session_timeout = '20ms'", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			c := faultCase{"do/all", guard.All(statusGuard(), guard.Ledger{}), true, "do"}
			f := c.setUp(t)
			pool := dbtest.PoolOn(t, f.proxy.URL())
			fin, err := finalize.New(pool, &finalize.Config{Aggregate: "batch", Guard: c.guard, Logger: discard()})
			require.NoError(t, err)
			_, err = fin.Do(ctx, guard.Text(faultKey), "caller", func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) {
				var pid int
				require.NoError(t, tx.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid))
				if tt.setting != "" {
					_, err := tx.Exec(ctx, tt.setting)
					require.NoError(t, err)
				}
				if tt.during == "" {
					require.Eventually(t, func() bool {
						var alive bool
						err := f.direct.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`, pid).Scan(&alive)
						return err == nil && !alive
					}, time.Minute, 5*time.Millisecond)
				} else if _, err := tx.Exec(ctx, tt.during); err != nil {
					return finalize.Outcome{}, err
				}
				return finalize.Outcome{State: "COMPLETE_STABLE"}, nil
			})
			require.Error(t, err)
			require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
			var status string
			require.NoError(t, f.direct.QueryRow(ctx, `SELECT status FROM batches`).Scan(&status))
			require.Equal(t, "PENDING", status)
			r, err := f.call(ctx)
			require.NoError(t, err)
			require.True(t, r.Won)
		})
	}
}

// F5: lock_timeout while another holds the row.
func TestLockTimeout(t *testing.T) {
	c := faultCase{"do/status", statusGuard(), true, "do"}
	f := c.setUp(t)
	tx, err := f.direct.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), `SELECT FROM batches FOR UPDATE`)
	require.NoError(t, err)
	pool := dbtest.PoolOn(t, f.proxy.URL(), func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams["lock_timeout"] = "50ms" })
	fin, err := finalize.New(pool, &finalize.Config{Aggregate: "batch", Guard: c.guard, Logger: discard()})
	require.NoError(t, err)
	for _, call := range []func() error{
		func() error {
			_, err := fin.Settle(t.Context(), guard.Text(faultKey), "caller", finalize.Outcome{State: "COMPLETE"})
			return err
		},
		func() error {
			_, err := fin.Do(t.Context(), guard.Text(faultKey), "caller", func(context.Context, pgx.Tx) (finalize.Outcome, error) {
				return finalize.Outcome{}, errors.New("must not run")
			})
			return err
		},
	} {
		err := call()
		require.ErrorContains(t, err, "55P03")
		require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
	}
}

// F4: a server that stops without a shutdown, under load, and starts again.
func TestServerStopsUnderLoad(t *testing.T) {
	server := dbtest.StartPostgres(t)
	url := dbtest.Database(t, server.URL())
	pool := dbtest.PoolOn(t, url)
	_, err := pool.Exec(t.Context(), `CREATE TABLE batches (id bigint PRIMARY KEY, status text); INSERT INTO batches SELECT n, 'PENDING' FROM generate_series(1, 3000) n`)
	require.NoError(t, err)
	var struck atomic.Int64 // calls that the stop met
	cfg := &finalize.Config{Aggregate: "batch", Guard: guard.All(statusGuard(), guard.Ledger{}), ResolveTimeout: 5 * time.Minute, Logger: discard(), Trace: &finalize.Trace{
		Retry:     func(context.Context, finalize.Call, error, time.Duration) { struck.Add(1) },
		Resolving: func(context.Context, finalize.Call, error) { struck.Add(1) },
		Failed:    func(context.Context, finalize.Call, error) { struck.Add(1) },
	}}
	fin, err := finalize.New(pool, cfg)
	require.NoError(t, err)
	require.NoError(t, fin.Migrate(t.Context()))
	onSQL, err := finalize.NewSQL(dbtest.SQLOn(t, url), cfg)
	require.NoError(t, err)
	out := finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "done", Payload: []byte(`1`)}}}
	call := func(n int64) (finalize.Receipt, error) {
		ctx, key := context.Background(), guard.Int(n)
		switch n % 4 {
		case 0:
			return fin.Settle(ctx, key, "caller", out)
		case 1:
			return onSQL.Do(ctx, key, "caller", func(context.Context, *sql.Tx) (finalize.Outcome, error) { return out, nil })
		}
		return fin.Do(ctx, key, "caller", func(context.Context, pgx.Tx) (finalize.Outcome, error) { return out, nil })
	}

	var next, won, unknown, halfway atomic.Int64
	reached := make(chan struct{})
	done := make(chan struct{})
	const workers = 8
	for range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				n := next.Add(1)
				if n > 3000 {
					return
				}
				for { // the triggers of this batch fire until it is final
					r, err := call(n)
					if errors.Is(err, finalize.ErrOutcomeUnknown) {
						unknown.Add(1)
					}
					if err != nil {
						continue
					}
					if r.Won {
						won.Add(1)
					}
					break
				}
				if halfway.Add(1) == 500 {
					close(reached)
				}
			}
		}()
	}
	<-reached
	server.Stop(true)
	require.NoError(t, server.Start())
	for range workers {
		<-done
	}
	var final, entries, events int64
	pool.Reset()
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM batches WHERE status = 'COMPLETE'), (SELECT count(*) FROM endstate_ledger), (SELECT count(*) FROM endstate_outbox)`).
		Scan(&final, &entries, &events))
	require.Positive(t, struck.Load(), "the fault fired: the server stopped under calls")
	require.EqualValues(t, 3000, final)
	require.EqualValues(t, 3000, entries)
	require.EqualValues(t, 3000, events)
	require.Zero(t, unknown.Load(), "the server came back within the bound")
	require.EqualValues(t, 3000, won.Load(), "each was won once, lost answers included")
}
