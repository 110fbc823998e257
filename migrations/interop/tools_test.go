// Package interop_test runs the library's migrations with the tools that services use: goose, golang-migrate and tern.
package interop_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	gomigrate "github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	migratesqlite "github.com/golang-migrate/migrate/v4/database/sqlite"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	tern "github.com/jackc/tern/v2/migrate"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/migrations"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// service is a database, and a tool's way to run a folder on it.
type service struct {
	t       *testing.T
	dialect string
	format  migrations.Format
	url     string
	db      *sql.DB
}

// each runs a test with each tool on each database that it is for.
func each(t *testing.T, run func(t *testing.T, s *service)) {
	for _, dialect := range []string{"postgres", "sqlite"} {
		for _, format := range []migrations.Format{migrations.Goose, migrations.GolangMigrate, migrations.Tern} {
			if format == migrations.Tern && dialect == "sqlite" {
				continue
			}
			t.Run(dialect+"/"+string(format), func(t *testing.T) {
				t.Parallel()
				s := &service{t: t, dialect: dialect, format: format}
				if dialect == "postgres" {
					s.url = dbtest.Postgres(t)
					s.db = dbtest.SQLOn(t, s.url)
				} else {
					s.db = dbtest.SQLiteOn(t, dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), "wal"))
				}
				run(t, s)
			})
		}
	}
}

// up runs what is new in a folder.
func (s *service) up(fsys fs.FS) {
	s.t.Helper()
	ctx := s.t.Context()
	switch s.format {
	case migrations.Goose:
		_, err := s.goose(fsys).Up(ctx)
		require.NoError(s.t, err)
	case migrations.GolangMigrate:
		m := s.golangMigrate(fsys)
		if err := m.Up(); !errors.Is(err, gomigrate.ErrNoChange) {
			require.NoError(s.t, err)
		}
	case migrations.Tern:
		s.tern(fsys, func(m *tern.Migrator) error { return m.Migrate(ctx) })
	}
}

// down takes everything back.
func (s *service) down(fsys fs.FS) {
	s.t.Helper()
	ctx := s.t.Context()
	switch s.format {
	case migrations.Goose:
		_, err := s.goose(fsys).DownTo(ctx, 0)
		require.NoError(s.t, err)
	case migrations.GolangMigrate:
		require.NoError(s.t, s.golangMigrate(fsys).Down())
	case migrations.Tern:
		s.tern(fsys, func(m *tern.Migrator) error { return m.MigrateTo(ctx, 0) })
	}
}

func (s *service) goose(fsys fs.FS) *goose.Provider {
	s.t.Helper()
	dialect := map[string]goose.Dialect{"postgres": goose.DialectPostgres, "sqlite": goose.DialectSQLite3}[s.dialect]
	p, err := goose.NewProvider(dialect, s.db, fsys)
	require.NoError(s.t, err)
	return p
}

func (s *service) golangMigrate(fsys fs.FS) *gomigrate.Migrate {
	s.t.Helper()
	source, err := iofs.New(fsys, ".")
	require.NoError(s.t, err)
	var driver database.Driver
	if s.dialect == "postgres" {
		driver, err = migratepgx.WithInstance(dbtest.SQLOn(s.t, s.url), &migratepgx.Config{})
		s.t.Cleanup(func() { _ = driver.Close() })
	} else {
		driver, err = migratesqlite.WithInstance(s.db, &migratesqlite.Config{})
	}
	require.NoError(s.t, err)
	m, err := gomigrate.NewWithInstance("iofs", source, s.dialect, driver)
	require.NoError(s.t, err)
	return m
}

func (s *service) tern(fsys fs.FS, run func(*tern.Migrator) error) {
	s.t.Helper()
	ctx := s.t.Context()
	conn, err := pgx.Connect(ctx, s.url)
	require.NoError(s.t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	m, err := tern.NewMigrator(ctx, conn, "schema_version")
	require.NoError(s.t, err)
	require.NoError(s.t, m.LoadMigrations(fsys))
	require.NoError(s.t, run(m))
}

func (s *service) apply(parts ...migrations.Part) {
	s.t.Helper()
	require.NoError(s.t, migrations.ApplySQL(s.t.Context(), s.db, s.dialect, parts...))
}

// requireUsable checks that everything is there, and finalizes something.
func (s *service) requireUsable() {
	s.t.Helper()
	ctx := s.t.Context()
	fin, err := finalize.NewSQL(s.db, &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}})
	require.NoError(s.t, err)
	require.NoError(s.t, fin.Check(ctx))
	table, err := inbox.NewTableSQL(s.db, &inbox.TableConfig{Consumer: "c"})
	require.NoError(s.t, err)
	require.NoError(s.t, table.Check(ctx))
	r, err := fin.Settle(ctx, guard.Text(s.t.Name()), "t", finalize.Outcome{State: "DONE", Events: []outbox.Event{{Type: "done", Payload: []byte("{}")}}})
	require.NoError(s.t, err)
	require.Equal(s.t, "DONE", r.State)
}

// objects lists the tables, indexes and functions that are not a tool's.
func (s *service) objects() (names []string) {
	s.t.Helper()
	query := `SELECT n FROM (SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace) o (n)
WHERE n LIKE 'endstate%' AND n NOT LIKE 'endstate_migrations%' ORDER BY n`
	if s.dialect == "sqlite" {
		query = `SELECT name FROM sqlite_schema WHERE name LIKE 'endstate%' AND name NOT LIKE 'endstate_migrations%' ORDER BY name`
	}
	rows, err := s.db.QueryContext(s.t.Context(), query)
	require.NoError(s.t, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		require.NoError(s.t, rows.Scan(&name))
		names = append(names, name)
	}
	require.NoError(s.t, rows.Err())
	return names
}

// What a tool has run is accepted by Apply, which then has nothing to do, and by each part's own Migrate.
func TestApplyAcceptsWhatAToolHasRun(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		fsys, err := migrations.FS(s.format, s.dialect)
		require.NoError(t, err)
		s.up(fsys)
		made := s.objects()
		require.NotEmpty(t, made)
		s.requireUsable()
		s.apply()
		fin, err := finalize.NewSQL(s.db, &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}})
		require.NoError(t, err)
		require.NoError(t, fin.Migrate(t.Context()))
		require.Equal(t, made, s.objects())
		s.up(fsys)
		require.Equal(t, made, s.objects())
		s.down(fsys)
		require.Empty(t, s.objects())
		s.up(fsys)
		require.Equal(t, made, s.objects())
		s.requireUsable()
	})
}

// What Apply has done is accepted by a tool, which records it and goes on from there.
func TestAToolAcceptsWhatApplyHasDone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		s.apply()
		made := s.objects()
		s.requireUsable()
		fsys, err := migrations.FS(s.format, s.dialect)
		require.NoError(t, err)
		s.up(fsys)
		require.Equal(t, made, s.objects())
		s.requireUsable()
		s.down(fsys)
		require.Empty(t, s.objects(), "the tool knows what to take back")
		s.apply()
		require.Equal(t, made, s.objects())
	})
}

// A service's own folder gets ours among its own, whichever way it numbers them, and gets each once.
func TestToolsRunAFolderOfAServices(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		dir := t.TempDir()
		own := func(version, table string) {
			up, down := "CREATE TABLE "+table+" (n int);\n", "DROP TABLE "+table+";\n"
			switch s.format {
			case migrations.Goose:
				write(t, dir, version+"_own.sql", "-- +goose Up\n"+up+"-- +goose Down\n"+down)
			case migrations.GolangMigrate:
				write(t, dir, version+"_own.up.sql", up)
				write(t, dir, version+"_own.down.sql", down)
			case migrations.Tern:
				write(t, dir, version+"_own.sql", up+"---- create above / drop below ----\n"+down)
			}
		}
		own("001", "first")
		written, err := migrations.Export(dir, s.format, s.dialect, guard.Ledger{})
		require.NoError(t, err)
		require.NotEmpty(t, written)
		s.up(os.DirFS(dir))
		own("003", "third")
		s.up(os.DirFS(dir))

		// The service begins to use more of the library.
		written, err = migrations.Export(dir, s.format, s.dialect)
		require.NoError(t, err)
		require.NotEmpty(t, written)
		for _, name := range written {
			require.Greater(t, name, "003")
			require.NotContains(t, name, "ledger")
		}
		s.up(os.DirFS(dir))
		s.requireUsable()
		written, err = migrations.Export(dir, s.format, s.dialect)
		require.NoError(t, err)
		require.Empty(t, written)
		s.down(os.DirFS(dir))
		require.Empty(t, s.objects())
	})
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
}
