package finalize_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// Where a call on SQLite may be held, besides inCallback.
const (
	inCallbackSpilled = "in the callback, when what it wrote is in the file already"
	afterSettle       = "after the settle"
	afterInsert       = "after the outbox insert"
	inCommit          = "in COMMIT"
	afterCommit       = "when COMMIT took effect"
)

// holdSQLite makes the one connection of a process's finalizer hold where the caller says.
func (c caller) holdSQLite(t *testing.T, w *world, released <-chan struct{}) {
	ctx := t.Context()
	exec := func(statement string) {
		_, err := w.sqlDB.ExecContext(ctx, statement)
		require.NoError(t, err)
	}
	switch c.Hold {
	case afterSettle, afterInsert:
		// A temporary trigger is the connection's own.
		when := map[string]string{afterSettle: "BEFORE", afterInsert: "AFTER"}[c.Hold]
		exec("CREATE TEMP TRIGGER hold " + when + " INSERT ON main.endstate_outbox BEGIN SELECT hold(); END")
	case inCallbackSpilled:
		exec("PRAGMA cache_size = 10")
	case inCommit:
		conn, err := w.sqlDB.Conn(ctx)
		require.NoError(t, err)
		require.NoError(t, conn.Raw(func(c any) error {
			dbtest.SQLiteCommitting(c, func() { hold(released) })
			return nil
		}))
		require.NoError(t, conn.Close())
	}
}

// registerHold gives SQLite's connections of this process, from now on, the function that the triggers call.
func registerHold(released <-chan struct{}) error {
	return dbtest.SQLiteFunction("hold", func() { hold(released) })
}

// spilling is a callback that writes more than the connection's cache holds, so that SQLite has to write to the file, or to
// the WAL, before the COMMIT.
func spilling(id string, released <-chan struct{}) work {
	return func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
		out, err := complete(id)(ctx, tx)
		for n := 0; n < 100 && err == nil; n++ {
			_, err = tx.Exec(ctx, "INSERT INTO writes VALUES ($1, $2)", id, strings.Repeat("x", 10_000))
		}
		hold(released)
		return out, err
	}
}

// F27: kill -9 of a process that holds SQLite's lock, or is about to commit.
func TestSQLiteProcessKilledAtEachStep(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"wal", "delete"} {
		for _, at := range []string{inCallback, inCallbackSpilled, afterSettle, afterInsert, inCommit, afterCommit} {
			t.Run(journal+"/"+at, func(t *testing.T) {
				t.Parallel()
				var worlds []*world
				var files []string
				var callers []caller
				for _, g := range guards {
					file := filepath.Join(t.TempDir(), "test.db")
					w := newWorld(t, "sqlite", g, dbtest.SQLiteDSN(file, journal))
					w.open(victimID)
					worlds, files = append(worlds, w), append(files, file)
					callers = append(callers, caller{Database: "sqlite", Guard: g, DSN: w.dsn, ID: victimID, Call: "do", Hold: at})
				}
				process := startProcess(t, callers...)
				process.await(len(callers), "holding")
				rivals := make([]chan called, len(worlds))
				for i, w := range worlds {
					rivals[i] = make(chan called, 1)
					go func() { rivals[i] <- compete(w) }() // it waits for the lock, or finds that it lost
				}
				if at == inCallbackSpilled {
					requireSpilled(t, files, journal)
				}
				require.NotContains(t, strings.Join(process.kill(), "\n"), "returned", "too late to kill the process")
				for i, w := range worlds {
					requireBuried(t, w, <-rivals[i], at == afterCommit)
					require.Equal(t, []string{"ok"}, w.text("PRAGMA integrity_check"))
				}
			})
		}
	}
}

// requireSpilled checks that there is something to recover from: an open transaction's journal, or its pages in the WAL.
func requireSpilled(t *testing.T, files []string, journal string) {
	t.Helper()
	for _, file := range files {
		size := func(file string) int64 {
			info, err := os.Stat(file)
			require.NoError(t, err)
			return info.Size()
		}
		if journal == "wal" {
			require.Greater(t, size(file+"-wal"), int64(500_000))
			continue
		}
		require.NotZero(t, size(file+"-journal"))
		require.Greater(t, size(file), int64(500_000))
	}
}
