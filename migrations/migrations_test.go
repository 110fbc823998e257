package migrations_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/migrations"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// service is a database and the way to set it up.
type service struct {
	db    *sql.DB
	apply func(parts ...migrations.Part) error
}

func each(t *testing.T, run func(t *testing.T, s *service)) {
	t.Run("pgx", func(t *testing.T) {
		t.Parallel()
		url := dbtest.Postgres(t)
		pool := dbtest.PoolOn(t, url)
		run(t, &service{dbtest.SQLOn(t, url), func(parts ...migrations.Part) error { return migrations.Apply(t.Context(), pool, parts...) }})
	})
	t.Run("sql", func(t *testing.T) {
		t.Parallel()
		db := dbtest.SQL(t)
		run(t, &service{db, func(parts ...migrations.Part) error { return migrations.ApplySQL(t.Context(), db, "", parts...) }})
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		db := dbtest.SQLiteOn(t, dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), "wal"))
		run(t, &service{db, func(parts ...migrations.Part) error { return migrations.ApplySQL(t.Context(), db, "", parts...) }})
	})
}

// check is what every service asks at its start.
func (s *service) check(t *testing.T) error {
	fin, err := finalize.NewSQL(s.db, &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}})
	require.NoError(t, err)
	table, err := inbox.NewTableSQL(s.db, &inbox.TableConfig{Consumer: "c"})
	require.NoError(t, err)
	return errors.Join(fin.Check(t.Context()), table.Check(t.Context()))
}

func (s *service) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	_, err := s.db.ExecContext(t.Context(), statement, args...)
	require.NoError(t, err)
}

func TestApplyByEightAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		errs := make([]error, 8)
		var group sync.WaitGroup
		for i := range errs {
			group.Go(func() { errs[i] = s.apply() })
		}
		group.Wait()
		require.NoError(t, errors.Join(errs...))
		require.NoError(t, s.check(t))
	})
}

// What was dropped is made again, and what is left is left as it is.
func TestApplyMakesWhatIsMissing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		require.NoError(t, s.apply())
		s.exec(t, `INSERT INTO endstate_inbox (consumer, "key", digest, state, attempts, at) VALUES ('c', 'k', '\x00', 'handled', 1, '2026-01-02T03:04:05Z')`)
		s.exec(t, "DROP INDEX endstate_inbox_at")
		s.exec(t, "DROP TABLE endstate_ledger")
		err := s.check(t)
		require.ErrorContains(t, err, "endstate_ledger\" does not exist")
		require.ErrorContains(t, err, "no index on (consumer, at)")
		require.NoError(t, s.apply())
		require.NoError(t, s.check(t))
		var n int
		require.NoError(t, s.db.QueryRowContext(t.Context(), "SELECT count(*) FROM endstate_inbox").Scan(&n))
		require.Equal(t, 1, n)
		// What isn't ours can't be repaired, and is said.
		s.exec(t, "DROP TABLE endstate_ledger")
		s.exec(t, "CREATE TABLE endstate_ledger (aggregate text, at text, n int)")
		require.ErrorContains(t, s.apply(), `table "endstate_ledger" has no column "key"`)
	})
}

// Where all is there, a role that may look, and nothing else, starts a service that migrates at its start.
func TestUpToDateNeedsNoRights(t *testing.T) {
	t.Parallel()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := dbtest.Postgres(t)
		owner := dbtest.PoolOn(t, url)
		require.NoError(t, migrations.Apply(t.Context(), owner))
		role := newRole(t, owner)
		pool := as(t, url, role, "SET default_transaction_read_only = on")
		require.NoError(t, migrations.Apply(t.Context(), pool))
		fin, err := finalize.New(pool, &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}})
		require.NoError(t, err)
		require.NoError(t, fin.Migrate(t.Context()))
		_, err = owner.Exec(t.Context(), "DROP TABLE endstate_ledger")
		require.NoError(t, err)
		require.Error(t, migrations.Apply(t.Context(), pool), "there is something to do")
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		dsn := dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), "wal")
		owner := dbtest.SQLiteOn(t, dsn)
		require.NoError(t, migrations.ApplySQL(t.Context(), owner, ""))
		reader := dbtest.SQLiteOn(t, dsn+"&_pragma=query_only(1)")
		require.NoError(t, migrations.ApplySQL(t.Context(), reader, ""))
		_, err := owner.Exec("DROP TABLE endstate_ledger")
		require.NoError(t, err)
		require.Error(t, migrations.ApplySQL(t.Context(), reader, ""))
	})
}

// Tables of other names, in other schemas, and several of a kind.
func TestPartsOfOtherNames(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		schema := `Own "S"`
		if s.dialect() == "sqlite" {
			schema = "main"
		}
		parts := []migrations.Part{guard.Ledger{Schema: schema, Table: "who"}, outbox.Writer{Schema: schema, Table: "one"},
			outbox.Writer{Schema: schema, Table: "two"}, inbox.TableConfig{Schema: schema, Table: "in"}}
		require.NoError(t, s.apply(parts...))
		require.NoError(t, s.apply(parts...))
		fin, err := finalize.NewSQL(s.db, &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{Schema: schema, Table: "who"}, Outbox: outbox.Writer{Schema: schema, Table: "two"}})
		require.NoError(t, err)
		require.NoError(t, fin.Check(t.Context()))

		for _, format := range []migrations.Format{migrations.Goose, migrations.GolangMigrate} {
			fsys, err := migrations.FS(format, s.dialect(), parts...)
			require.NoError(t, err)
			names, err := fs.Glob(fsys, "*")
			require.NoError(t, err)
			require.NoError(t, fstest.TestFS(fsys, names...))
			versions := map[string]int{}
			for _, name := range names {
				version, _, _ := strings.Cut(name, "_")
				versions[version]++
			}
			perVersion := map[migrations.Format]int{migrations.Goose: 1, migrations.GolangMigrate: 2}[format]
			for version, n := range versions {
				require.Equal(t, perVersion, n, "%s: %s", format, version)
			}
		}
	})
	_, err := migrations.FS(migrations.Goose, "postgres", guard.Ledger{}, guard.Ledger{})
	require.ErrorIs(t, err, migrations.ErrConfig)
	_, err = migrations.FS("flyway", "postgres")
	require.ErrorIs(t, err, migrations.ErrConfig)
}

func (s *service) dialect() string {
	if strings.Contains(fmt.Sprintf("%T", s.db.Driver()), "sqlite") {
		return "sqlite"
	}
	return "postgres"
}

// newRole makes a role that may look at the schema public, and drops it at the end.
func newRole(t *testing.T, owner *pgxpool.Pool) string {
	t.Helper()
	role := "role_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	exec := func(ctx context.Context, statement string) {
		_, err := owner.Exec(ctx, statement)
		require.NoError(t, err, statement)
	}
	exec(t.Context(), "CREATE ROLE "+role)
	exec(t.Context(), "GRANT USAGE ON SCHEMA public TO "+role)
	t.Cleanup(func() {
		exec(context.WithoutCancel(t.Context()), "DROP OWNED BY "+role)
		exec(context.WithoutCancel(t.Context()), "DROP ROLE "+role)
	})
	return role
}

// as is a pool whose connections have a role's rights.
func as(t *testing.T, url, role string, more ...string) *pgxpool.Pool {
	t.Helper()
	return dbtest.PoolOn(t, url, func(c *pgxpool.Config) {
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			for _, statement := range append([]string{"SET ROLE " + role}, more...) {
				if _, err := conn.Exec(ctx, statement); err != nil {
					return err
				}
			}
			return nil
		}
	})
}
