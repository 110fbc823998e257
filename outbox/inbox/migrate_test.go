package inbox_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// told is a slog.Handler that reports each line.
type told chan struct{}

func (told) Enabled(context.Context, slog.Level) bool    { return true }
func (t told) Handle(context.Context, slog.Record) error { t <- struct{}{}; return nil }
func (t told) WithAttrs([]slog.Attr) slog.Handler        { return t }
func (t told) WithGroup(string) slog.Handler             { return t }

// A consumer that starts while others write to SQLite waits for its turn longer than a delivery would.
func TestMigrateWaitsForSQLitesWriters(t *testing.T) {
	t.Parallel()
	dsn := "file:" + t.TempDir() + "/inbox.db?_pragma=busy_timeout(0)&_pragma=journal_mode(wal)"
	writer := dbtest.SQLiteOn(t, dsn)
	_, err := writer.Exec("CREATE TABLE effects (n int)")
	require.NoError(t, err)
	tx, err := writer.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	_, err = tx.Exec("INSERT INTO effects VALUES (1)")
	require.NoError(t, err)

	tries := make(told, 1000)
	table, err := inbox.NewTableSQL(dbtest.SQLiteOn(t, dsn), &inbox.TableConfig{Consumer: "results", Logger: slog.New(tries)})
	require.NoError(t, err)
	migrated := make(chan error, 1)
	go func() { migrated <- table.Migrate(t.Context()) }()
	for range 12 { // more often than a delivery is tried
		select {
		case err := <-migrated:
			require.Fail(t, "it ended beside another writer", "%v", err)
		case <-tries:
		}
	}
	require.NoError(t, tx.Rollback())
	require.NoError(t, <-migrated)
	require.NoError(t, table.Check(t.Context()))
}
