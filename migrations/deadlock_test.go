package migrations_test

import (
	"context"
	"io/fs"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/migrations"
)

// step is a part of the test's own.
type step func(ctx context.Context, tx endstate.Tx) error

func (s step) Migrate(ctx context.Context, tx endstate.Tx) error { return s(ctx, tx) }
func (step) Migrations(string) (fs.FS, error)                    { return nil, nil }

func TestADeadlockWithAProgramIsNoFailure(t *testing.T) {
	t.Parallel()
	for name, apply := range map[string]func(*testing.T, string, ...migrations.Part) error{
		"pgx": func(t *testing.T, url string, parts ...migrations.Part) error {
			return migrations.Apply(t.Context(), dbtest.PoolOn(t, url), parts...)
		},
		"sql": func(t *testing.T, url string, parts ...migrations.Part) error {
			return migrations.ApplySQL(t.Context(), dbtest.SQLOn(t, url), "", parts...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			// The program doesn't look for deadlocks, so that the migration is the one that is broken off.
			pool := dbtest.PoolOn(t, url, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["deadlock_timeout"] = "1h" })
			_, err := pool.Exec(t.Context(), "CREATE TABLE one (); CREATE TABLE two ()")
			require.NoError(t, err)
			program, err := pool.Begin(t.Context())
			require.NoError(t, err)
			_, err = program.Exec(t.Context(), "LOCK TABLE two")
			require.NoError(t, err)

			runs, ended := 0, make(chan error, 1)
			require.NoError(t, apply(t, url,
				step(func(ctx context.Context, tx endstate.Tx) error {
					runs++
					_, err := tx.Exec(ctx, "LOCK TABLE one")
					return err
				}),
				step(func(ctx context.Context, tx endstate.Tx) error {
					if runs == 1 {
						go func() {
							_, err := program.Exec(t.Context(), "LOCK TABLE one")
							if err == nil {
								err = program.Commit(t.Context())
							}
							ended <- err
						}()
						for waits := false; !waits; {
							if err := pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'one'::regclass AND NOT granted)").Scan(&waits); err != nil {
								return err
							}
						}
					}
					_, err := tx.Exec(ctx, "LOCK TABLE two")
					return err
				})))
			require.NoError(t, <-ended)
			require.Equal(t, 2, runs, "the first one was broken off")
		})
	}
}
