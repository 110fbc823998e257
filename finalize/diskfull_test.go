package finalize_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox"
)

// fill puts the device that is always full in a file's place, so that the kernel refuses the server's writes to it as it does
// on a full disk, and returns what makes room again. It needs no right to mount anything.
func fill(t *testing.T, path string) (free func()) {
	t.Helper()
	const full, aside = "/dev/full", ".aside"
	_, err := os.Stat(full)
	require.NoError(t, err, "a device that is always full")
	existed := true
	if err := os.Rename(path, path+aside); err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
		existed = false
	}
	require.NoError(t, os.Symlink(full, path))
	return func() {
		require.NoError(t, os.Remove(path))
		if existed {
			require.NoError(t, os.Rename(path+aside, path))
		}
	}
}

// F20: the disk is full when the callback writes, when the ledger's entry is written, and when the events are.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	server := dbtest.StartPostgres(t)
	url := dbtest.Database(t, server.URL())
	steps := map[string][]*world{} // by the table that finds no room
	for _, table := range []string{"writes", "endstate_ledger", "endstate_outbox"} {
		for _, w := range worldsOn(t, url) {
			if table != "endstate_ledger" || w.hasLedger() {
				w.open("b1")
				steps[table] = append(steps[table], w)
			}
		}
	}
	var frees []func()
	for table, worlds := range steps {
		for _, w := range worlds {
			require.Zero(t, w.count("SELECT pg_relation_size($1::regclass)", table), "an empty table, whose first row needs room")
			file := w.text("SELECT pg_relation_filepath($1::regclass)", table)[0]
			w.reconnect() // sessions keep files open
			frees = append(frees, fill(t, filepath.Join(server.Data(), file)))
		}
	}
	for table, worlds := range steps {
		for _, w := range worlds {
			for range 2 {
				_, err := w.do(t.Context(), guard.Text("b1"), "threshold", complete("b1"))
				require.Equal(t, "53100", sqlState(err), "%s, %s: %v", w.name(), table, err)
				require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
				w.requireNothingHeld()
			}
			if table != "writes" { // which is the callback's
				_, err := w.settle(t.Context(), guard.Text("b1"), "threshold", completed())
				require.Equal(t, "53100", sqlState(err), "%s, %s: %v", w.name(), table, err)
				require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
			}
			w.reconnect()
		}
	}
	for _, free := range frees {
		free()
	}
	for _, worlds := range steps {
		for _, w := range worlds {
			w.requireOpen("b1")
			r, err := w.do(t.Context(), guard.Text("b1"), "sweep", complete("b1"))
			require.NoError(t, err)
			require.True(t, r.Won)
			w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		}
	}
}

// F20: the disk is full when a COMMIT has to be logged. PostgreSQL panics and can't recover until there is room.
func TestDiskFullAtCommit(t *testing.T) {
	t.Parallel()
	server := dbtest.StartPostgres(t)
	url := dbtest.Database(t, server.URL())
	worlds := worldsOn(t, url)
	type result struct {
		finalize.Receipt
		error
	}
	results := make([]result, len(worlds))
	var calls sync.WaitGroup
	var faults []*pgfault.Fault
	unanswered := make(chan error, len(worlds))
	for i, w := range worlds {
		w.open("b1")
		proxy := pgfault.New(t, url)
		caller := connect(t, w.database, w.guard, proxy.URL(), w.schema, param("synchronous_commit", "on"),
			configured(func(c *finalize.Config) {
				c.ResolveTimeout = time.Minute
				c.Trace.Resolving = func(_ context.Context, _ finalize.Call, err error) { unanswered <- err }
			}), func(s *setup) { s.shared = true })
		fault := proxy.Arm(&pgfault.Fault{SQL: "commit", Do: pgfault.Hold})
		faults = append(faults, fault)
		calls.Go(func() {
			results[i].Receipt, results[i].error = caller.do(t.Context(), guard.Text("b1"), "threshold", complete("b1"))
		})
	}
	for _, fault := range faults {
		fault.RequireFired(t)
	}
	w := worlds[0]
	w.eventually("SELECT count(*) = $1 FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND wait_event = 'ClientRead'", len(worlds))
	// What comes next is logged in the next file.
	next := w.text("SELECT pg_walfile_name(pg_current_wal_insert_lsn() + pg_size_bytes(current_setting('wal_segment_size')))")[0]
	free := fill(t, filepath.Join(server.Data(), "pg_wal", next))
	w.exec("SELECT pg_switch_wal()")
	for _, fault := range faults {
		fault.Release()
	}
	for range worlds {
		<-unanswered
	}
	log, err := os.ReadFile(server.LogFile())
	require.NoError(t, err)
	require.Regexp(t, "PANIC: .*"+next+".*No space left on device", string(log))
	server.Stop(true) // it tries to recover, or has given up
	free()
	require.NoError(t, server.Start())
	calls.Wait()
	for i, w := range worlds {
		w.reconnect()
		r := results[i]
		require.NoError(t, r.error, "%s: it was asked what became of the COMMIT, and the work done again", w.name())
		require.True(t, r.Won)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
		require.Equal(t, 1, w.writes("b1"))
	}
}

// F20: SQLite's disk is full.
func TestDiskFullOnSQLite(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		key := w.open("b1")
		var pages int
		require.NoError(t, w.sqlDB.QueryRowContext(t.Context(), "PRAGMA page_count").Scan(&pages))
		limit := func(pages int) {
			_, err := w.sqlDB.ExecContext(t.Context(), "PRAGMA max_page_count = "+strconv.Itoa(pages))
			require.NoError(t, err)
		}
		big := completed()
		big.Events = []outbox.Event{{Type: "batch.completed", ContentType: "text/plain", Payload: make([]byte, 100_000)}}
		limit(pages)
		_, err := w.do(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			return big, write(ctx, tx, "b1")
		})
		require.ErrorContains(t, err, "full")
		require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
		w.requireOpen("b1")
		w.requireNothingHeld()
		_, err = w.settle(t.Context(), key, "threshold", big)
		require.ErrorContains(t, err, "full")
		w.requireOpen("b1")
		_, err = w.do(t.Context(), key, "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
			require.NoError(t, write(ctx, tx, "b1"))
			_, err := tx.Exec(ctx, "INSERT INTO writes VALUES ('b1', $1)", string(make([]byte, 100_000)))
			return completed(), err
		})
		require.ErrorContains(t, err, "full")
		w.requireOpen("b1")
		limit(1 << 20)
		r, err := w.do(t.Context(), key, "sweep", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
	}, on("sqlite"), conns(1)) // whose limit is the connection's
}
