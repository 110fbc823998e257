package guard_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/guard/guardtest"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
)

func (db *database) protect(t testing.TB, s guard.Status) {
	t.Helper()
	db.in(t, func(ctx context.Context, tx endstate.Tx) { require.NoError(t, s.Protect(ctx, tx)) })
}

// attempt runs a statement in a transaction of its own.
func (db *database) attempt(t testing.TB, query string, args ...any) error {
	t.Helper()
	ctx := context.Background()
	tx, err := db.begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, query, args...); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// requireProtected checks that err is the trigger's.
func (db *database) requireProtected(t testing.TB, err error) {
	t.Helper()
	require.Error(t, err)
	if !db.sqlite {
		require.Equal(t, guard.TerminalStateSQLState, sqltx.State(err), "%v", err)
		return
	}
	require.Equal(t, 1811, dbtest.SQLiteCode(err), "SQLITE_CONSTRAINT_TRIGGER: %v", err)
	require.Contains(t, err.Error(), guard.TerminalStateSQLState)
}

// protectable are states that a trigger can know, a state that they say is terminal, and some open ones that look alike.
var protectable = []struct {
	name     string
	states   guard.States
	terminal []string
	open     []string
}{
	{"names", guard.Names("DONE", `it's \done`, "o%k_"), []string{"DONE", `it's \done`, "o%k_"}, []string{"done", "DONE ", "DONE_2", "", "oXk_", "o%kX", `it's \\done`}},
	{"prefixes", guard.Prefixes("COMPLETE_", `é'\`, "%"), []string{"COMPLETE_STABLE", "COMPLETE_", `é'\ x`, "%", "%x"}, []string{"complete_x", "COMPLETE", "COMPLETEX", "XCOMPLETE_", "e'\\", "x%", ""}},
}

func TestProtectRefusesToLeaveATerminalState(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, func(t *testing.T, db *database) {
		for _, tt := range protectable {
			t.Run(tt.name, func(t *testing.T) {
				s := db.status(t, "jobs_"+tt.name)
				s.Terminal = tt.states
				update := fmt.Sprintf("UPDATE jobs_%s SET status = $1 WHERE id = $2", tt.name)
				for i, state := range append(tt.terminal, tt.open...) {
					db.exec(t, fmt.Sprintf("INSERT INTO jobs_%s (id, status) VALUES ($1, $2)", tt.name), fmt.Sprint(i), state)
				}
				db.exec(t, fmt.Sprintf("INSERT INTO jobs_%s (id, status) VALUES ('null', NULL)", tt.name))
				db.protect(t, s)

				for i, state := range tt.terminal {
					require.True(t, s.Terminal.Terminal(state), "%q", state)
					for _, other := range []any{"RUNNING", nil, tt.terminal[(i+1)%len(tt.terminal)], strings.ToLower(state) + " "} {
						db.requireProtected(t, db.attempt(t, update, other, fmt.Sprint(i)))
					}
					require.NoError(t, db.attempt(t, update, state, fmt.Sprint(i)), "the same state again")
					require.NoError(t, db.attempt(t, fmt.Sprintf("UPDATE jobs_%s SET note = 'seen' WHERE id = $1", tt.name), fmt.Sprint(i)), "another column")
					require.Equal(t, state, one[string](t, db, fmt.Sprintf("SELECT status FROM jobs_%s WHERE id = $1", tt.name), fmt.Sprint(i)))
				}
				for i, state := range tt.open {
					require.False(t, s.Terminal.Terminal(state), "%q", state)
					id := fmt.Sprint(len(tt.terminal) + i)
					require.NoError(t, db.attempt(t, update, "RUNNING", id), "%q is open", state)
					require.NoError(t, db.attempt(t, update, tt.terminal[0], id), "from open to terminal")
					db.requireProtected(t, db.attempt(t, update, state, id))
				}
				require.NoError(t, db.attempt(t, update, nil, "null"))
				require.NoError(t, db.attempt(t, update, tt.terminal[0], "null"))
				db.requireProtected(t, db.attempt(t, update, nil, "null"))
			})
		}
	})
}

func TestProtectStopsCodeThatBypassesTheGuard(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql", "sqlite-wal", "sqlite-delete"}, func(t *testing.T, db *database) {
		s := db.status(t, "batches", "b1", "b2")
		db.protect(t, s)
		_, err := db.settle(t, s, batch(guard.Text("b1")), "COMPLETE_STABLE")
		require.NoError(t, err, "a finalization goes through")

		// The rescuer that turns everything unfinished-looking into a running job again: one row stops it, for all rows.
		err = db.attempt(t, "UPDATE batches SET status = 'FETCHING_CONTENT'")
		db.requireProtected(t, err)
		require.Contains(t, err.Error(), "batches", "the message names the table")
		require.Contains(t, err.Error(), "status", "and the column")
		require.NotContains(t, err.Error(), "COMPLETE_STABLE", "but no row's content")
		require.Equal(t, "PENDING", one[string](t, db, "SELECT status FROM batches WHERE id = 'b2'"))
		db.requireProtected(t, db.attempt(t, "INSERT INTO batches (id, status) VALUES ('b1', 'PENDING') ON CONFLICT (id) DO UPDATE SET status = excluded.status"))
		if db.pool != nil && dbtest.Serves("pgx") { // other drivers' errors have the same in types of their own
			var pg *pgconn.PgError
			require.ErrorAs(t, err, &pg)
			require.Equal(t, "batches", pg.TableName)
			require.Equal(t, "status", pg.ColumnName)
			require.Contains(t, pg.Hint, "disable trigger")
		}
	})
}

// A guarded table keeps the whole contract when it is protected.
func TestProtectedTableKeepsTheContract(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, func(t *testing.T, db *database) {
		db.migrate(t, guard.Ledger{})
		h := db.harness(t, textKey, "text", names, func(s guard.Status) guard.Guard {
			db.protect(t, s)
			return guard.All(s, guard.Ledger{})
		})
		h.Provenance = true
		guardtest.Run(t, h)
	})
}

func TestProtectSeesWhatOtherTriggersDid(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	s := db.status(t, "batches", "b1")
	db.exec(t, `CREATE FUNCTION reopen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.status = 'PENDING'; RETURN NEW; END $$`)
	db.setStatus(t, "b1", "COMPLETE_STABLE")
	db.protect(t, s)
	db.exec(t, `CREATE TRIGGER zealous BEFORE UPDATE OF note ON batches FOR EACH ROW EXECUTE FUNCTION reopen()`)
	db.requireProtected(t, db.attempt(t, "UPDATE batches SET note = 'x'"))
}

func TestProtectOnAnEnumAndAPartitionedTable(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.exec(t, `CREATE TYPE state AS ENUM ('PENDING', 'RUNNING', 'COMPLETE_STABLE')`)
	db.exec(t, `CREATE TABLE batches (id text, status state, PRIMARY KEY (id)) PARTITION BY HASH (id)`)
	db.exec(t, `CREATE TABLE batches_0 PARTITION OF batches FOR VALUES WITH (MODULUS 1, REMAINDER 0)`)
	db.exec(t, `INSERT INTO batches VALUES ('b1', 'PENDING')`)
	s := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: terminal}
	db.protect(t, s)
	require.NoError(t, db.attempt(t, "UPDATE batches SET status = 'RUNNING'"))
	_, err := db.settle(t, s, batch(guard.Text("b1")), "COMPLETE_STABLE")
	require.NoError(t, err)
	db.requireProtected(t, db.attempt(t, "UPDATE batches SET status = 'RUNNING'"))
	db.requireProtected(t, db.attempt(t, "UPDATE batches_0 SET status = NULL"))
}

// triggers lists what Protect made: with what changes when it is made again.
func (db *database) triggers(t testing.TB) string {
	t.Helper()
	if db.sqlite {
		return one[string](t, db, "SELECT coalesce(group_concat(name || sql || (SELECT schema_version FROM pragma_schema_version)), '') FROM sqlite_schema WHERE type = 'trigger'")
	}
	return one[string](t, db, `SELECT coalesce(string_agg(concat_ws(' ', oid, xmin, tgname, tgenabled, pg_get_triggerdef(oid)), ','), '') FROM pg_trigger WHERE NOT tgisinternal`)
}

func TestProtectAgainChangesNothing(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, func(t *testing.T, db *database) {
		s := db.status(t, "batches", "b1")
		db.protect(t, s)
		before := db.triggers(t)
		require.NotEmpty(t, before)
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			require.NoError(t, s.Protect(ctx, tx))
			if !db.sqlite {
				var id, lock string
				require.NoError(t, tx.QueryRow(ctx, "SELECT coalesce(pg_current_xact_id_if_assigned()::text, '')").Scan(&id))
				require.Empty(t, id, "a protected table is only looked at")
				require.NoError(t, tx.QueryRow(ctx, "SELECT coalesce(string_agg(mode, ','), '') FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'batches'::regclass").Scan(&lock))
				require.Empty(t, strings.ReplaceAll(lock, "AccessShareLock", ""), "and not locked")
			}
		})
		require.Equal(t, before, db.triggers(t))

		// Another set of terminal states replaces the trigger.
		s.Terminal = guard.Names("CANCELLED")
		db.protect(t, s)
		require.NotEqual(t, before, db.triggers(t))
		db.setStatus(t, "b1", "COMPLETE_STABLE")
		db.setStatus(t, "b1", "CANCELLED")
		db.requireProtected(t, db.attempt(t, "UPDATE batches SET status = 'PENDING'"))
		if db.sqlite {
			require.Equal(t, 1, one[int](t, db, "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"))
		} else {
			require.Equal(t, 1, one[int](t, db, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"))
			db.exec(t, "ALTER TABLE batches DISABLE TRIGGER USER")
			db.protect(t, s)
			db.requireProtected(t, db.attempt(t, "UPDATE batches SET status = 'PENDING'"))
		}
	})
}

func TestProtectByTenAtOnce(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql", "sqlite-wal", "sqlite-delete"}, func(t *testing.T, db *database) {
		s := db.status(t, "batches", "b1")
		db.setStatus(t, "b1", "COMPLETE_STABLE")
		errs := db.atOnce(10, func(ctx context.Context, tx endstate.Tx) error { return s.Protect(ctx, tx) })
		require.NoError(t, errors.Join(errs...))
		db.requireProtected(t, db.attempt(t, "UPDATE batches SET status = 'PENDING'"))
	})
}

// atOnce runs f in n transactions at once, again when SQLite was busy.
func (db *database) atOnce(n int, f func(ctx context.Context, tx endstate.Tx) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	attempt := func() error {
		ctx := context.Background()
		tx, err := db.begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		if err := f(ctx, tx); err != nil {
			return err
		}
		return tx.Commit(ctx)
	}
	for i := range errs {
		wg.Go(func() {
			<-start
			for {
				errs[i] = attempt()
				if !db.sqlite || !sqltx.Conflicted(errs[i]) {
					return
				}
			}
		})
	}
	close(start)
	wg.Wait()
	return errs
}

func TestProtectWithAnyNames(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, func(t *testing.T, db *database) {
		for _, name := range hostileNames {
			t.Run(name, func(t *testing.T) {
				s := guard.Status{Schema: name, Table: name, Key: "id", Column: name, Terminal: terminal}
				if db.sqlite {
					s.Schema = "main"
				} else {
					db.exec(t, "CREATE SCHEMA "+pgx.Identifier{name}.Sanitize())
				}
				table := pgx.Identifier{s.Schema, name}.Sanitize()
				column := pgx.Identifier{name}.Sanitize()
				db.exec(t, fmt.Sprintf("CREATE TABLE %s (id bigint PRIMARY KEY, %s text)", table, column))
				db.exec(t, fmt.Sprintf("INSERT INTO %s VALUES (1, 'COMPLETE_X')", table))
				db.protect(t, s)
				db.protect(t, s)
				db.requireProtected(t, db.attempt(t, fmt.Sprintf("UPDATE %s SET %s = 'PENDING'", table, column)))
			})
		}
		// Tables and columns whose names are alike for their first bytes have a trigger each.
		long := strings.Repeat("x", 62)
		for _, last := range []string{"a", "b"} {
			table := long + last
			db.exec(t, fmt.Sprintf("CREATE TABLE %s (id bigint PRIMARY KEY, status text)", table))
			db.exec(t, fmt.Sprintf("INSERT INTO %s VALUES (1, 'COMPLETE_X')", table))
			db.protect(t, guard.Status{Table: table, Key: "id", Column: "status", Terminal: terminal})
		}
		for _, last := range []string{"a", "b"} {
			db.requireProtected(t, db.attempt(t, fmt.Sprintf("UPDATE %s SET status = 'PENDING'", long+last)))
		}
	})
}

func TestProtectSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, func(t *testing.T, db *database) {
		s := db.status(t, "batches")
		protect := func(s guard.Status) error {
			return errors.Join(db.atOnce(1, func(ctx context.Context, tx endstate.Tx) error { return s.Protect(ctx, tx) })...)
		}
		byFunc, noTable, noColumn, invalid := s, s, s, s
		byFunc.Terminal = fn
		noTable.Table = "nowhere"
		noColumn.Column = "state"
		invalid.Column = ""

		err := protect(byFunc)
		require.ErrorIs(t, err, guard.ErrConfig)
		require.ErrorContains(t, err, "Status.Terminal is a guard.Func")
		err = protect(noTable)
		require.ErrorIs(t, err, guard.ErrSchema)
		require.ErrorContains(t, err, `table "nowhere" does not exist`)
		err = protect(noColumn)
		require.ErrorIs(t, err, guard.ErrSchema)
		require.ErrorContains(t, err, `no column "state"`)
		err = protect(invalid)
		require.ErrorIs(t, err, guard.ErrConfig)
		require.ErrorContains(t, err, "Status.Column")
		require.Empty(t, db.triggers(t))
	})
	_, err := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: terminal}.ProtectionMigrations("mysql")
	require.ErrorIs(t, err, guard.ErrConfig)
}

func TestProtectionMigrationsUpAndDown(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, func(t *testing.T, db *database) {
		dialect := "postgres"
		if db.sqlite {
			dialect = "sqlite"
		}
		s := db.status(t, "batches", "b1")
		db.setStatus(t, "b1", "COMPLETE_STABLE")
		files, err := s.ProtectionMigrations(dialect)
		require.NoError(t, err)
		names, err := fs.Glob(files, "*")
		require.NoError(t, err)
		require.Equal(t, []string{"00011_protect.sql"}, names)
		text, err := fs.ReadFile(files, names[0])
		require.NoError(t, err)
		up, down := gooseStatements(t, string(text))
		for range 2 {
			for _, statement := range up {
				db.exec(t, statement)
			}
			db.requireProtected(t, db.attempt(t, "UPDATE batches SET status = 'PENDING'"))
			// What goose applied, Protect finds in place.
			before := db.triggers(t)
			db.protect(t, s)
			require.Equal(t, before, db.triggers(t))
			for _, statement := range down {
				db.exec(t, statement)
			}
			require.Empty(t, db.triggers(t))
		}
		if !db.sqlite {
			require.Zero(t, one[int](t, db, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"), "functions left behind")
		}
	})
}
