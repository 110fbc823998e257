package relay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/internal/testserver"
	"github.com/endstate-go/endstate/outbox"
)

// spend uses up n transaction ids of the cluster, and returns the next one.
func spend(t *testing.T, pool *pgxpool.Pool, n int) (next int64) {
	t.Helper()
	ctx := context.Background()
	conn, err := pool.Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	for _, statement := range []string{"SET synchronous_commit = off", fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$`, n), "RESET synchronous_commit"} {
		_, err := conn.Exec(ctx, statement)
		require.NoError(t, err)
	}
	require.NoError(t, conn.QueryRow(ctx, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").Scan(&next))
	return next
}

// copyDump dumps a database and restores it into another one, by pg_dump where there is one of the server's version.
func copyDump(t *testing.T, from, to string) {
	t.Helper()
	bin, err := testserver.PostgresBin()
	require.NoError(t, err)
	if _, err := os.Stat(filepath.Join(bin, "pg_dump")); errors.Is(err, fs.ErrNotExist) {
		copyRows(t, from, to)
		return
	}
	file := filepath.Join(t.TempDir(), "dump")
	for _, args := range [][]string{
		{"pg_dump", "--format=custom", "--file=" + file, "--dbname=" + from},
		{"pg_restore", "--exit-on-error", "--dbname=" + to, file},
	} {
		cmd := exec.Command(filepath.Join(bin, args[0]), args[1:]...)
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Run(), args[0])
	}
}

// copyRows does what pg_dump and pg_restore do: each table's rows by COPY, in place of what a migration wrote, and what the
// sequences have counted to.
func copyRows(t *testing.T, from, to string) {
	t.Helper()
	ctx := context.Background()
	source, target := dbtest.PoolOn(t, from), dbtest.PoolOn(t, to)
	require.NoError(t, pgx.BeginFunc(ctx, target, func(tx pgx.Tx) error { return writer.Migrate(ctx, tx) }))
	names := func(kind string) []string {
		rows, err := source.Query(ctx, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = $1", kind)
		require.NoError(t, err)
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return list
	}
	reader, err := source.Acquire(ctx)
	require.NoError(t, err)
	defer reader.Release()
	loader, err := target.Acquire(ctx)
	require.NoError(t, err)
	defer loader.Release()
	tables := names("r")
	require.NotEmpty(t, tables)
	for _, table := range tables {
		var rows bytes.Buffer
		_, err := reader.Conn().PgConn().CopyTo(ctx, &rows, "COPY "+table+" TO STDOUT")
		require.NoError(t, err)
		_, err = loader.Exec(ctx, "DELETE FROM "+table)
		require.NoError(t, err)
		_, err = loader.Conn().PgConn().CopyFrom(ctx, &rows, "COPY "+table+" FROM STDIN")
		require.NoError(t, err)
	}
	for _, sequence := range names("S") {
		var last int64
		var called bool
		require.NoError(t, source.QueryRow(ctx, "SELECT last_value, is_called FROM "+sequence).Scan(&last, &called))
		_, err := loader.Exec(ctx, "SELECT setval($1::text::regclass, $2, $3)", sequence, last, called)
		require.NoError(t, err)
	}
}

// F35: a dump goes into another cluster, whose transaction ids are below or above those that stand in the rows. The dump has
// events that are published, events that aren't, one that was written late and that the cursor has passed, and one that failed.
func TestRestoreIntoAnotherCluster(t *testing.T) {
	t.Parallel()
	const many = 3000
	for name, spent := range map[string][2]int{"lower ids": {many, 0}, "higher ids": {0, many}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := dbtest.StartPostgres(t, "fsync=off"), dbtest.StartPostgres(t, "fsync=off")
			source, target := onServer(t, from), onServer(t, to)
			was, is := spend(t, source.Pool, spent[0]+1), spend(t, target.Pool, spent[1]+1)
			source.Migrate(t, *writer)
			r := &recorder{fail: func(e outbox.Event) error {
				if e.Type == "bad" {
					return outbox.Permanent(context.DeadlineExceeded)
				}
				return nil
			}}
			stop := run(t, source.relay(t, r, quick()))
			late, err := source.Begin(context.Background())
			require.NoError(t, err)
			defer func() { _ = late.Rollback(context.Background()) }()
			lateOne := event("late0", "")
			lateOne.AggregateID = "b3"
			_, err = outbox.Put(context.Background(), late, lateOne)
			require.NoError(t, err)
			source.kinds(t, "b1", "published", 20)
			source.kinds(t, "b2", "published", 20)
			source.kinds(t, "b4", "published", 5) // and others of each partition
			source.Put(t, event("bad", ""))
			eventually(t, "one is dead", func() bool { return source.parked(t, "dead_at IS NOT NULL") == 1 })
			source.still(t)
			stop()
			require.NoError(t, late.Commit(context.Background()))
			source.kinds(t, "b1", "pending", 20)
			source.kinds(t, "b2", "pending", 20)
			require.Equal(t, 41, source.pending(t))
			before := len(r.published())
			copyDump(t, from.URL(), to.URL())
			if foreign := outboxdbtest.One[int64](t, target, "SELECT max(txid::text::bigint) FROM endstate_outbox"); spent[0] > 0 {
				require.Less(t, is, foreign, "the rows' transactions are to come")
			} else {
				require.Greater(t, is, foreign, "the rows' transactions are past")
				require.Less(t, was, is)
			}

			// New events come on the way, and one late.
			again, err := target.Begin(context.Background())
			require.NoError(t, err)
			defer func() { _ = again.Rollback(context.Background()) }()
			lateOne.ID, lateOne.Type = [16]byte{1}, "late1"
			_, err = outbox.Put(context.Background(), again, lateOne)
			require.NoError(t, err)
			run(t, target.relay(t, r, quick()))
			target.kinds(t, "b1", "new", 20)
			eventually(t, "the new ones are out", func() bool { return len(r.ofKind("b1", "new")) == 20 })
			target.still(t)
			require.NoError(t, again.Commit(context.Background()))
			target.settled(t)
			_, err = target.admin(t).Purge(t.Context(), 0)
			require.NoError(t, err)
			require.Zero(t, outboxdbtest.One[int](t, target, `SELECT count(*) FROM endstate_outbox e JOIN endstate_outbox_cursors c USING (partition)
				WHERE e.seq <= c.restored_through AND e.seq NOT IN (SELECT seq FROM endstate_outbox_parked)`), "what was restored goes, though its transactions may be to come")
			// Now come the ids that the restored rows have.
			require.Greater(t, spend(t, target.Pool, spent[0]+1), was)
			target.kinds(t, "b2", "new", 20)
			target.settled(t)

			for _, aggregate := range []string{"b1", "b2"} {
				require.Equal(t, prefixed("published", 20), r.ofKind(aggregate, "published"))
				require.Equal(t, prefixed("pending", 20), r.ofKind(aggregate, "pending"))
				require.Equal(t, prefixed("new", 20), r.ofKind(aggregate, "new"))
			}
			require.Equal(t, []string{"late0", "late1"}, r.first("b3"))
			r.requireOnce(t, "")
			require.Len(t, r.published(), before+41+40+1)
			require.Equal(t, 1, target.parked(t, "dead_at IS NOT NULL"), "what is dead stays so")
		})
	}
}

// onServer is the database of a server of the test's own.
func onServer(t *testing.T, server *testserver.Postgres) *database {
	t.Helper()
	return on(t, server.URL())
}
