package finalize_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// worldsOn makes a world for each kind of finalizer and guard, all in one PostgreSQL database.
func worldsOn(t *testing.T, url string, options ...option) []*world {
	t.Helper()
	var worlds []*world
	for _, kind := range []string{"pgx", "sql"} {
		for _, g := range guards {
			worlds = append(worlds, newWorld(t, kind, g, url, options...))
		}
	}
	return worlds
}

// name tells a world from others of its test.
func (w *world) name() string { return w.database + "/" + w.guard }

// reconnect gives up all connections, so that new ones see the server as it is now.
func (w *world) reconnect() {
	if w.pool != nil {
		w.pool.Reset()
	}
	if w.sqlDB != nil {
		w.sqlDB.SetMaxIdleConns(0)
		w.sqlDB.SetMaxIdleConns(2)
	}
	w.db.SetMaxIdleConns(0)
	w.db.SetMaxIdleConns(2)
}

// requireReadOnly checks that neither way to finalize writes anything, and that the error says what is wrong.
func requireReadOnly(t *testing.T, where string, d door, id string) {
	t.Helper()
	_, err := d.do(t.Context(), guard.Text(id), "threshold", complete(id))
	requireReadOnlyError(t, where, err)
	_, err = d.settle(t.Context(), guard.Text(id), "threshold", completed())
	requireReadOnlyError(t, where, err)
}

func requireReadOnlyError(t *testing.T, where string, err error) {
	t.Helper()
	requireReadOnlyState(t, where, err)
	require.ErrorContains(t, err, "needs the primary", where)
	require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown, where)
}

// requireReadOnlyState checks how the server refused: lib/pq asks for a transaction that writes, which a replica doesn't support.
func requireReadOnlyState(t *testing.T, where string, err error) {
	t.Helper()
	require.Contains(t, []string{"25006", "0A000"}, sqlState(err), "%s: %v", where, err)
}

// F20: the database takes no writes.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	worlds := worldsOn(t, dbtest.Postgres(t))
	for _, w := range worlds {
		w.open("b1", "b2")
		_, err := w.do(t.Context(), guard.Text("b2"), "threshold", complete("b2"))
		require.NoError(t, err)
	}
	set := func(value string) {
		var name string
		require.NoError(t, worlds[0].db.QueryRowContext(t.Context(), "SELECT current_database()").Scan(&name))
		worlds[0].exec("BEGIN READ WRITE; ALTER DATABASE " + pgx.Identifier{name}.Sanitize() + " SET default_transaction_read_only = " + value + "; COMMIT")
		for _, w := range worlds {
			w.reconnect()
		}
	}
	set("on")
	for _, w := range worlds {
		if w.database == "sql" && !dbtest.HeedsReadOnly() {
			continue
		}
		requireReadOnly(t, w.name(), w.door, "b1")
		if r, err := w.another().do(t.Context(), guard.Text("b2"), "sweep", never(t)); err == nil { // a loser needn't write
			require.False(t, r.Won)
			require.Equal(t, "COMPLETE_STABLE", r.State)
		} else {
			requireReadOnlyError(t, w.name(), err)
		}
	}
	set("off")
	for _, w := range worlds {
		w.requireOpen("b1")
		r, err := w.do(t.Context(), guard.Text("b1"), "sweep", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
	}
}

// F20: the transaction itself is made read-only by its callback, so that only the last step finds out.
func TestReadOnlyFromTheCallbackOn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		_, err := w.do(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			require.NoError(t, write(ctx, tx, "b1"))
			_, err := tx.Exec(ctx, "SET TRANSACTION READ ONLY")
			return completed(), err
		})
		requireReadOnlyError(t, w.name(), err)
		w.requireOpen("b1")
		r, err := w.do(t.Context(), key, "sweep", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
	}, on("pgx", "sql"))
}

// F20: SQLite's way to be read-only.
func TestReadOnlySQLite(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.open("b1")
		reader := connect(t, w.database, w.guard, w.dsn+"&_pragma=query_only(1)", w.schema, func(s *setup) { s.shared = true })
		_, err := reader.do(t.Context(), guard.Text("b1"), "threshold", complete("b1"))
		require.ErrorContains(t, err, "readonly")
		_, err = reader.settle(t.Context(), guard.Text("b1"), "threshold", completed())
		require.ErrorContains(t, err, "readonly")
		w.requireOpen("b1")
	}, on("sqlite"))
}

func hostOf(t *testing.T, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	return u.Host
}

// F20: a replica in place of the primary. It can't finalize, and it can't tell what became of a COMMIT.
func TestReplica(t *testing.T) {
	t.Parallel()
	primary := dbtest.StartPostgres(t)
	database := dbtest.Database(t, primary.URL())
	worlds := worldsOn(t, database)
	for _, w := range worlds {
		w.open("b1", "b2", "b3")
		_, err := w.do(t.Context(), guard.Text("b2"), "threshold", complete("b2"))
		require.NoError(t, err)
	}
	replica := dbtest.StartStandby(t, primary)
	replicaURL := strings.Replace(database, hostOf(t, primary.URL()), hostOf(t, replica.URL()), 1)

	for _, w := range worlds {
		onReplica := connect(t, w.database, w.guard, replicaURL, w.schema, func(s *setup) { s.shared = true })
		requireReadOnly(t, w.name(), onReplica.door, "b1")
		r, err := onReplica.do(t.Context(), guard.Text("b2"), "sweep", never(t))
		if err == nil { // a terminal state is as true there
			require.False(t, r.Won)
			require.Equal(t, "COMPLETE_STABLE", r.State)
		} else {
			requireReadOnlyError(t, w.name(), err)
		}
		w.requireOpen("b1")
	}

	// It is behind from now on: what is committed on the primary is open here, and its transactions are from the future.
	_, err := dbtest.SQLOn(t, replica.URL()).ExecContext(t.Context(), "SELECT pg_wal_replay_pause()")
	require.NoError(t, err)
	for _, w := range worlds {
		if w.database == "sql" && !dbtest.SeveralHosts() {
			continue
		}
		t.Run("a lost COMMIT/"+w.name(), func(t *testing.T) {
			t.Parallel()
			proxy := pgfault.New(t, database)
			both := strings.Replace(proxy.URL(), hostOf(t, proxy.URL()), hostOf(t, proxy.URL())+","+hostOf(t, replica.URL()), 1)
			failingOver := connect(t, w.database, w.guard, both, w.schema, configured(func(c *finalize.Config) {
				c.ResolveTimeout = 10 * time.Second
				c.Trace.Resolving = func(context.Context, finalize.Call, error) {
					proxy.Refuse(true)
					proxy.CutAll()
				}
			}), func(s *setup) { s.shared = true })
			fault := proxy.Arm(&pgfault.Fault{SQL: "commit", Do: pgfault.CutAfterReply})
			_, err := failingOver.do(t.Context(), guard.Text("b3"), "threshold", complete("b3"))
			fault.RequireFired(t)
			require.ErrorIs(t, err, finalize.ErrOutcomeUnknown)
			if w.guard == "own" { // which doesn't tell the transaction's id, so that it is asked by claiming
				requireReadOnlyState(t, w.name(), err)
			} else {
				require.ErrorContains(t, err, "the database is a replica, which can't tell")
			}
			w.requireFinal("b3", "COMPLETE_STABLE", "batch.completed")
			r, err := w.do(t.Context(), guard.Text("b3"), "sweep", never(t))
			require.NoError(t, err, "calling again is safe")
			require.False(t, r.Won)
			require.Equal(t, "COMPLETE_STABLE", r.State)
		})
	}
}

// F20: sessions that began while the database took no writes are dropped, and the call goes on with another one. When the database
// itself takes none, a call doesn't ask forever.
func TestReadOnlySessions(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		if !dbtest.HeedsReadOnly() {
			return
		}
		key := w.open("b1")
		w.open("b2", "b3")
		var name string
		require.NoError(t, w.db.QueryRowContext(t.Context(), "SELECT current_database()").Scan(&name))
		set := func(value string) {
			w.exec("ALTER ROLE " + pgx.Identifier{"role_" + w.schema}.Sanitize() + " IN DATABASE " + pgx.Identifier{name}.Sanitize() + " SET default_transaction_read_only = " + value)
		}
		role := "role_" + w.schema
		w.exec("CREATE ROLE " + role + " LOGIN SUPERUSER")
		t.Cleanup(func() { w.exec("DROP OWNED BY " + role + "; DROP ROLE " + role) })
		dsn := strings.Replace(w.dsn, "://"+userOf(t, w.dsn)+"@", "://"+role+"@", 1)
		set("on")
		reader := connect(t, w.database, w.guard, dsn, w.schema, conns(3), func(s *setup) { s.shared = true })
		requireReadOnly(t, w.name(), reader.door, "b1")
		require.Less(t, reader.trace.retries(), 10, "the database's word is taken, once a connection is as new as the call")
		var held []*callersTx
		for range 3 {
			tx, err := reader.begin(t.Context(), "")
			require.NoError(t, err)
			held = append(held, tx)
		}
		for _, tx := range held {
			require.NoError(t, tx.Rollback(t.Context()))
		}
		set("off")
		before := reader.trace.retries()
		r, err := reader.do(t.Context(), key, "threshold", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
		require.Greater(t, reader.trace.retries(), before)
		r, err = reader.settle(t.Context(), guard.Text("b2"), "threshold", completed())
		require.NoError(t, err)
		require.True(t, r.Won)
		results, err := reader.many(t.Context(), "sweep", []finalize.Item{{Key: guard.Text("b3"), Outcome: completed()}})
		require.NoError(t, err)
		require.True(t, results[0].Receipt.Won)
	}, on("pgx", "sql"), guardedBy("status", "ledger"))
}

func userOf(t *testing.T, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	return u.User.Username()
}
