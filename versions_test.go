package endstate_test

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/migrations"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// next is a made-up schema version of a part of the library, the one after this library's: what it adds, or where it is one that
// breaks earlier versions, which the rule forbids for what the version before still uses.
type next struct {
	part  migrations.Part
	table string
	adds  []string
}

var nexts = []next{
	{guard.Ledger{}, "endstate_ledger", []string{`ALTER TABLE "endstate_ledger" ADD COLUMN next text NOT NULL DEFAULT ''`}},
	{outbox.Writer{}, "endstate_outbox", []string{
		`ALTER TABLE "endstate_outbox" ADD COLUMN next text NOT NULL DEFAULT ''`,
		`ALTER TABLE "endstate_outbox_cursors" ADD COLUMN next bigint NOT NULL DEFAULT 0`,
		`ALTER TABLE "endstate_outbox_parked" ADD COLUMN next bigint`,
		`CREATE TABLE "endstate_outbox_next" (n bigint NOT NULL PRIMARY KEY)`}},
	{inbox.TableConfig{}, "endstate_inbox", []string{`ALTER TABLE "endstate_inbox" ADD COLUMN next text`}},
}

const nextFile = "20991231000000_endstate_next.sql"

// files are the migrations that the next version of the library has.
func (n next) files(t *testing.T, breaks bool) fs.FS {
	t.Helper()
	own, err := n.part.Migrations("postgres")
	require.NoError(t, err)
	names, err := fs.Glob(own, "*.sql")
	require.NoError(t, err)
	all, history := fstest.MapFS{}, fstest.MapFS{}
	for _, name := range names {
		text, err := fs.ReadFile(own, name)
		require.NoError(t, err)
		all[name], history[name] = &fstest.MapFile{Data: text}, &fstest.MapFile{Data: []byte("-- +goose Up\n")}
	}
	text := "-- +goose Up\n"
	if breaks {
		text = "-- endstate: breaks earlier versions\n" + text
	}
	for _, statement := range n.adds {
		text += "-- +goose StatementBegin\n" + statement + ";\n-- +goose StatementEnd\n"
	}
	history[nextFile] = &fstest.MapFile{Data: []byte(text + "-- +goose Down\n")}
	noted, err := fs.ReadFile(migrate.Rename(history, sqltx.Postgres, n.table, "", n.table), nextFile)
	require.NoError(t, err)
	all[nextFile] = &fstest.MapFile{Data: noted}
	return all
}

// migrateNext is what the next version of the library does at its start.
func migrateNext(t *testing.T, pool *pgxpool.Pool, breaks bool) {
	t.Helper()
	again(t, func() error {
		return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			for _, n := range nexts {
				if err := migrate.Run(t.Context(), tx, "", n.table, n.files(t, breaks)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// again runs a transaction again after a deadlock: a migration locks tables in another order than those who use them.
func again(t *testing.T, transaction func() error) {
	t.Helper()
	err := transaction()
	for sqltx.Conflicted(err) {
		err = transaction()
	}
	require.NoError(t, err)
}

// versioned is a service's journey on the current schema, and its pool.
func versioned(t *testing.T, kind string) (*journey, *pgxpool.Pool) {
	t.Helper()
	url := dbtest.Postgres(t) + "&search_path=app"
	pool := dbtest.PoolOn(t, url)
	for _, statement := range []string{
		"CREATE SCHEMA app", "CREATE TABLE batches (id text PRIMARY KEY, status text NOT NULL DEFAULT 'PENDING', note text)", "CREATE TABLE effects (by text)",
		"INSERT INTO batches VALUES ('do'), ('tx'), ('settle'), ('many1'), ('many2'), ('race')",
	} {
		_, err := pool.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	var j *journey
	if kind == "pgx" {
		j = newJourney(t, pool, dbtest.PoolOn(t, url), nil, "")
	} else {
		j = newJourney(t, pool, nil, dbtest.SQLOn(t, url), "")
	}
	require.NoError(t, each(t.Context(), j.way.migrate))
	return j, pool
}

// A library of the next schema version says what this one's schema lacks, and what to do.
func TestANewerLibraryOnTheOlderSchema(t *testing.T) {
	t.Parallel()
	_, pool := versioned(t, "pgx")
	for _, n := range nexts {
		err := migrate.Check(t.Context(), pool, "", n.table, n.files(t, false), migrate.Need{Table: n.table, Select: migrate.All})
		require.ErrorContains(t, err, `has no column "next"`)
		require.ErrorContains(t, err, fmt.Sprintf(`the schema of %q is at version`, n.table))
		require.ErrorContains(t, err, "apply the migrations up to 20991231000000_endstate_next (Migrate does, and endstate migrate)")
	}
}

// A library whose version the next schema has left behind says so, at its start and in its checks, and makes nothing anew.
func TestAnOlderLibraryThatTheNewerSchemaBreaks(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"pgx", "sql"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			j, pool := versioned(t, kind)
			migrateNext(t, pool, true)
			const says = "is at version 20991231000000, which works with libraries from 20991231000000 on, and this one has"
			for _, call := range append(j.way.migrate, j.way.check...) {
				require.ErrorContains(t, call(t.Context()), says)
			}
			rel, err := j.way.relay(outbox.PublisherFunc(func(context.Context, outbox.Event) error { return nil }), nil)
			require.NoError(t, err)
			err = rel.Run(t.Context())
			require.ErrorIs(t, err, outbox.ErrSchema)
			require.ErrorContains(t, err, says)
			require.ErrorContains(t, migrations.Apply(t.Context(), pool), says)
		})
	}
}

// While programs are replaced, those of the older version go on: a relay and a producer whose statements are prepared already, while
// the migrations run, and beside a relay and a producer of the newer version. Then the whole journey works on the newer schema.
func TestProgramsOfTwoSchemaVersionsSideBySide(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"pgx", "sql"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			j, pool := versioned(t, kind)
			var mu sync.Mutex
			published := map[uuid.UUID]int{}
			publisher := outbox.PublisherFunc(func(_ context.Context, e outbox.Event) error {
				mu.Lock()
				defer mu.Unlock()
				published[e.ID]++
				return nil
			})
			failures := make(chan error, 1000)
			run := func() (stop func()) {
				rel, err := j.way.relay(publisher, &relay.Config{PollInterval: 10 * time.Millisecond, Logger: slog.New(failing{slog.DiscardHandler, failures})})
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				ran := make(chan error, 1)
				go func() { ran <- rel.Run(ctx) }()
				return func() {
					cancel()
					require.NoError(t, <-ran)
				}
			}
			put := func(n int) {
				for range n {
					id := uuid.NewString()
					_, err := pool.Exec(t.Context(), "INSERT INTO batches VALUES ($1)", id)
					require.NoError(t, err)
					event := outbox.Event{AggregateType: "batch", AggregateID: id, Type: "batch.noted", Payload: []byte(`{}`), DedupKey: id}
					again(t, func() error {
						_, err := j.way.inTx(t.Context(), id, event)
						return err
					})
				}
			}
			all := func() {
				t.Helper()
				total, err := j.count(t.Context(), "endstate_outbox")
				require.NoError(t, err)
				require.Eventually(t, func() bool {
					mu.Lock()
					defer mu.Unlock()
					return len(published) == total
				}, time.Minute, 5*time.Millisecond)
			}
			older := run()
			put(5)
			all()
			migrating := make(chan struct{})
			go func() {
				defer close(migrating)
				put(20)
			}()
			migrateNext(t, pool, false)
			<-migrating
			newer := run() // which looks at the schema first
			put(5)
			_, err := pool.Exec(t.Context(), `INSERT INTO endstate_outbox (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, schema_version, partition, next)
SELECT gen_random_uuid(), 'batch', 'new', 'batch.noted', '{}', 'application/json', '{}', now(), 1, endstate_outbox_partition('batch', 'new'), 'of a newer producer'`)
			require.NoError(t, err)
			all()
			older()
			put(5)
			all()
			newer()
			close(failures)
			for err := range failures { // others are a busy machine's, the end of a context, or a deadlock with the migration, after which a relay tries again
				require.True(t, sqltx.State(err) == "" || sqltx.Conflicted(err), "the server refused something: %v", err)
			}
			open, err := j.count(t.Context(), "batches WHERE note IS NULL AND status <> 'DONE'")
			require.NoError(t, err)
			require.Equal(t, 6, open, "all but those of the journey are done")
			_, err = pool.Exec(t.Context(), "DELETE FROM batches WHERE note IS NOT NULL; DELETE FROM endstate_ledger; DELETE FROM endstate_outbox")
			require.NoError(t, err)
			for _, step := range j.steps() {
				require.NoError(t, step.run(t.Context()), step.name)
			}
			j.requireDone()
		})
	}
}
