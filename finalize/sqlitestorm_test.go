package finalize_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// F27: many writers on a SQLite handle whose connections don't wait for each other: nothing stays open, and Check says what to
// set.
func TestSQLiteWithoutABusyTimeout(t *testing.T) {
	t.Parallel()
	dsn := dbtest.SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), "delete") + "&_pragma=synchronous(off)" // no test here stops the machine
	db := dbtest.SQLiteOn(t, impatient(t, dsn))
	var log bytes.Buffer
	busy := make(chan struct{})
	fired := sync.OnceFunc(func() { close(busy) })
	fin, err := finalize.NewSQL(db, &finalize.Config{Aggregate: "batch", Guard: guard.All(statusGuard(), guard.Ledger{}), Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Trace: &finalize.Trace{Retry: func(context.Context, finalize.Call, error, time.Duration) { fired() }}})
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), "CREATE TABLE batches (id text PRIMARY KEY, status text)")
	require.NoError(t, err)
	require.NoError(t, fin.Migrate(t.Context()))
	require.NoError(t, fin.Check(t.Context()))
	require.Equal(t, 1, strings.Count(log.String(), "without a busy_timeout"), log.String())
	log.Reset()

	const writers, each = 32, 8
	for i := range writers * each {
		_, err := db.ExecContext(t.Context(), "INSERT INTO batches (id) VALUES ($1)", fmt.Sprint(i))
		require.NoError(t, err)
	}
	writer, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer writer.Close()
	_, err = writer.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				key := guard.Text(fmt.Sprint(w*each + i))
				r, err := fin.Do(t.Context(), key, "storm", func(context.Context, *sql.Tx) (finalize.Outcome, error) { return completed(), nil })
				if err != nil || !r.Won {
					t.Errorf("%v: %+v, %v", key, r, err)
				}
			}
		})
	}
	<-busy                                               // the fault fired
	_, err = writer.ExecContext(t.Context(), "ROLLBACK") // unlike COMMIT, it needs no lock
	require.NoError(t, err)
	all.Wait()

	patient, err := finalize.NewSQL(dbtest.SQLite(t), &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	log.Reset()
	require.NoError(t, patient.Migrate(t.Context()))
	require.NoError(t, patient.Check(t.Context()))
	require.Empty(t, log.String())
}
