package pgfault_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
)

func TestRefuseAndCutAll(t *testing.T) {
	f := setUp(t)
	pool := dbtest.PoolOn(t, f.proxy.URL())
	require.NoError(t, pool.Ping(t.Context()))
	f.proxy.Refuse(true)
	require.NoError(t, pool.Ping(t.Context()), "connections that are there stay")
	f.proxy.CutAll()
	f.requireSessions(t, 0, "")
	require.Error(t, pool.Ping(t.Context()))
	require.Error(t, pool.Ping(t.Context()))
	f.proxy.Refuse(false)
	require.NoError(t, pool.Ping(t.Context()))
}

func TestBlackHole(t *testing.T) {
	f := setUp(t)
	f.proxy.BlackHole(true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := pgx.Connect(ctx, f.proxy.URL())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	f.requireSessions(t, 0, "")
	f.proxy.BlackHole(false)
	conn, err := pgx.Connect(t.Context(), f.proxy.URL())
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

func TestServerAway(t *testing.T) {
	server := dbtest.StartPostgres(t)
	f := newFixture(t, dbtest.Database(t, server.URL()))
	pool := dbtest.PoolOn(t, f.proxy.URL())
	require.NoError(t, pool.Ping(t.Context()))
	server.Stop(true)
	require.Error(t, pool.Ping(t.Context()))
	require.NoError(t, server.Start())
	require.Eventually(t, func() bool { return pool.Ping(t.Context()) == nil }, time.Minute, 5*time.Millisecond)
}

// A client that gives up cancels what it started, also through the proxy.
func TestCancelRequestsAreForwarded(t *testing.T) {
	f := setUp(t)
	conn, err := pgx.Connect(t.Context(), f.proxy.URL())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	result := start(ctx, way{run: func(ctx context.Context) error {
		_, err := conn.Exec(ctx, "SELECT pg_sleep(600)")
		return err
	}})
	f.requireSessions(t, 1, "active")
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	<-conn.PgConn().CleanupDone()
	f.requireSessions(t, 0, "")
}

// A client that is gone is one for the server too, with what it left open rolled back.
func TestClientsCloseReachesTheServer(t *testing.T) {
	f := setUp(t)
	conn, err := pgx.Connect(t.Context(), f.proxy.URL())
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "BEGIN; "+increment)
	require.NoError(t, err)
	f.requireSessions(t, 1, "idle in transaction")
	require.NoError(t, conn.PgConn().Conn().Close())
	f.requireSessions(t, 0, "")
	require.Equal(t, 0, f.value(t))
}

func TestCopyPasses(t *testing.T) {
	ctx := t.Context()
	f := setUp(t)
	conn, err := pgx.Connect(ctx, f.proxy.URL())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	const rows = 100_000
	n := 0
	copied, err := conn.CopyFrom(ctx, pgx.Identifier{"n"}, []string{"n"}, pgx.CopyFromFunc(func() ([]any, error) {
		if n++; n > rows {
			return nil, nil
		}
		return []any{n}, nil
	}))
	require.NoError(t, err)
	require.EqualValues(t, rows, copied)
	count := 0
	tag, err := conn.PgConn().CopyTo(ctx, writer(func(b []byte) { count += len(b) }), "COPY n TO STDOUT")
	require.NoError(t, err)
	require.EqualValues(t, rows+1, tag.RowsAffected())
	require.Greater(t, count, 2*rows)

	broken := errors.New("no more")
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"n"}, []string{"n"}, pgx.CopyFromFunc(func() ([]any, error) { return nil, broken }))
	require.ErrorContains(t, err, broken.Error())
	require.NoError(t, conn.Ping(ctx))
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

func TestBigMessagesPass(t *testing.T) {
	f := setUp(t)
	pool := dbtest.PoolOn(t, f.proxy.URL())
	sent := make([]byte, 32<<20)
	for i := range sent {
		sent[i] = byte(i * 31)
	}
	var got []byte
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT $1::bytea", sent).Scan(&got))
	require.Equal(t, sent, got)
}
