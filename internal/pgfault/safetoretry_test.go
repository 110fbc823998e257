package pgfault_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// These tests pin what pgx does when the answer to something that took effect gets lost, and with it why the library never
// asks pgconn.SafeToRetry once anything was sent. The documentation of SafeToRetry says that it is true of errors that are
// guaranteed to have occurred before any data was sent. But after a simple query (which Commit, and Exec without arguments,
// are) pgconn drops the error of reading the answer, closes the connection, and reports the next attempt to read: "conn
// closed", an error that is made for connections on which nothing can be sent any more. With arguments, in a batch and in a
// query with rows it reports the first error, and the answer is right.
//
// Where one of these tests fails, pgx has changed: look at what it says now. The library is right either way, as the token
// of the attempt, and never the error, tells what became of it.

func TestSafeToRetryIsWrongAboutWhatTookEffect(t *testing.T) {
	f := setUp(t)
	for _, tt := range []struct {
		name string
		at   string
		run  func(context.Context, *pgx.Conn) error
		safe bool
	}{
		{"Commit", "commit", func(ctx context.Context, conn *pgx.Conn) error {
			tx, err := conn.Begin(ctx)
			require.NoError(t, err)
			_, err = tx.Exec(ctx, increment)
			require.NoError(t, err)
			return tx.Commit(ctx)
		}, true},
		{"Exec without arguments", increment, func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, increment)
			return err
		}, true},
		{"Exec with arguments", increment, func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, increment+" WHERE $1", true)
			return err
		}, false},
		{"QueryRow", increment, func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, increment+" RETURNING n").Scan(new(int))
		}, false},
		{"SendBatch", "commit", func(ctx context.Context, conn *pgx.Conn) error {
			batch := &pgx.Batch{}
			for _, sql := range []string{"begin", increment, "commit"} {
				batch.Queue(sql)
			}
			return conn.SendBatch(ctx, batch).Close()
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := pgx.Connect(t.Context(), f.proxy.URL())
			require.NoError(t, err)
			defer func() { <-conn.PgConn().CleanupDone() }()
			before := f.value(t)
			fault := f.proxy.Arm(&pgfault.Fault{SQL: tt.at, Do: pgfault.CutAfterReply})
			err = tt.run(t.Context(), conn)
			fault.RequireFired(t)
			fault.RequireAnswered(t)
			require.Error(t, err)
			require.Equal(t, before+1, f.value(t), "it took effect")
			require.Equal(t, tt.safe, pgconn.SafeToRetry(err), "%v", err)
		})
	}
}

// database/sql runs a statement again when its driver says that the connection was bad, and pgx says so where SafeToRetry
// is true.
func TestDatabaseSQLRunsAnUpdateTwice(t *testing.T) {
	f := setUp(t)
	db := dbtest.SQLOn(t, f.proxy.URL())
	fault := f.proxy.Arm(&pgfault.Fault{SQL: increment, Do: pgfault.CutAfterReply})
	_, err := db.ExecContext(t.Context(), increment)
	require.NoError(t, err, "one call, no error")
	fault.RequireFired(t)
	require.Equal(t, 2, f.value(t), "two updates")
}

// With arguments it doesn't, and a transaction's COMMIT isn't run again, but the error says that it could be.
func TestDatabaseSQLReportsTheRest(t *testing.T) {
	f := setUp(t)
	db := dbtest.SQLOn(t, f.proxy.URL())
	fault := f.proxy.Arm(&pgfault.Fault{SQL: increment, Do: pgfault.CutAfterReply})
	_, err := db.ExecContext(t.Context(), increment+" WHERE $1", true)
	require.Error(t, err)
	require.False(t, pgconn.SafeToRetry(err), "%v", err)
	fault.RequireFired(t)
	require.Equal(t, 1, f.value(t))

	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), increment)
	require.NoError(t, err)
	fault = f.proxy.Arm(&pgfault.Fault{SQL: "commit", Do: pgfault.CutAfterReply})
	err = tx.Commit()
	require.Error(t, err)
	require.True(t, pgconn.SafeToRetry(err), "%v", err)
	fault.RequireFired(t)
	require.Equal(t, 2, f.value(t), "committed")
}
