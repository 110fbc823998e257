package soak

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/testserver"
)

// servers are a PostgreSQL and its synchronous standby, which takes over once a round at most; then the next round has a new one.
type servers struct {
	t    *testing.T
	disk string // where both are: a small file system of their own, or "" where nobody may mount one

	// mu is held by who stops a server, and shared by who needs one that is up.
	mu      sync.RWMutex
	primary *testserver.Postgres
	standby *testserver.Postgres // nil: it has become the primary
	former  *testserver.Postgres // whose port is kept until the round's end: somebody may still look for it there

	direct *pgxpool.Pool // past all proxies, to whichever is the primary
}

// diskSize is enough for a round's data on both servers.
const diskSize = "1500m"

func startServers(t *testing.T) *servers {
	t.Helper()
	s := &servers{t: t}
	dir, err := os.MkdirTemp("", "endstate-soak-") // where the servers' user may go, unlike in t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.Remove(dir) })
	if unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=1777,size="+diskSize) == nil {
		t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
		require.NoError(t, os.Chmod(dir, 0o1777))
		s.disk = dir
	}
	s.on(func() {
		// What the kernel has survives the server's processes: with fsync off, only a crash of the machine would lose commits.
		s.primary = dbtest.StartPostgres(t, "fsync=off", "full_page_writes=off", "max_wal_size=128MB", "wal_retrieve_retry_interval=100ms", "log_min_error_statement=panic",
			fmt.Sprintf("idle_in_transaction_session_timeout=%d", idleTimeout.Milliseconds()))
	})
	return s
}

// on has servers started on the small disk.
func (s *servers) on(start func()) {
	t := s.t
	t.Helper()
	if s.disk == "" {
		start()
		return
	}
	before, set := os.LookupEnv("TMPDIR")
	require.NoError(t, os.Setenv("TMPDIR", s.disk))
	start()
	if set {
		require.NoError(t, os.Setenv("TMPDIR", before))
	} else {
		require.NoError(t, os.Unsetenv("TMPDIR"))
	}
}

// addStandby has the primary wait for a standby at each commit: the one that it has, unless that took over.
func (s *servers) addStandby() {
	t := s.t
	t.Helper()
	if s.former != nil {
		s.former.Close()
		s.former = nil
	}
	if s.standby == nil {
		s.on(func() { s.standby = dbtest.StartStandby(t, s.primary) })
	}
	if s.direct != nil {
		s.direct.Close()
	}
	s.direct = dbtest.PoolOn(t, with(t, s.url(), "statement_timeout", "0"))
	for _, statement := range []string{"ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"} {
		_, err := s.direct.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		var n int
		err := s.direct.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").Scan(&n)
		return err == nil && n == 1
	}, time.Minute, 20*time.Millisecond, "the standby is synchronous")
}

// urls are those of the two servers.
func (s *servers) urls() []string { return []string{s.primary.URL(), s.standby.URL()} }

func (s *servers) url() string { return either(s.urls()) }

// either is the URL of whichever server is the primary.
func either(urls []string) string {
	first, _ := url.Parse(urls[0]) // of our own making
	second, _ := url.Parse(urls[1])
	first.Host += "," + second.Host
	q := first.Query()
	q.Set("target_session_attrs", "primary")
	first.RawQuery = q.Encode()
	return first.String()
}

func with(t *testing.T, database, parameter, value string) string {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	q := u.Query()
	q.Set(parameter, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// restart stops the servers that are there without a shutdown, and starts them again.
func (s *servers) restart() {
	for _, p := range []*testserver.Postgres{s.primary, s.standby} {
		if p == nil {
			continue
		}
		p.Stop(true)
		if err := p.Start(); err != nil {
			s.t.Error(err)
		}
	}
}

// failOver kills the primary when its standby has what it has acknowledged, and promotes that.
func (s *servers) failOver() bool {
	t := s.t
	if s.standby == nil {
		return false
	}
	// A commit whose wait for the standby was broken off is seen by others before the standby has it. Nobody promises that it
	// survives, so it is given the moment that it takes to get there.
	var lsn string
	if err := s.direct.QueryRow(t.Context(), "SELECT pg_current_wal_lsn()::text").Scan(&lsn); err != nil {
		return false
	}
	for there := false; !there; {
		if err := s.direct.QueryRow(t.Context(), "SELECT coalesce(bool_or(flush_lsn >= $1::text::pg_lsn), false) FROM pg_stat_replication", lsn).Scan(&there); err != nil {
			return false
		}
	}
	s.primary.Kill()
	s.former, s.primary, s.standby = s.primary, s.standby, nil
	pool, err := pgxpool.New(t.Context(), s.primary.URL())
	if err != nil {
		t.Error(err)
		return false
	}
	defer pool.Close()
	var promoted bool
	if err := pool.QueryRow(t.Context(), "SELECT pg_promote()").Scan(&promoted); err != nil || !promoted {
		t.Errorf("promote the standby: %v", err)
	}
	return true
}

// fillDisk leaves no room for a while. A server that gives up meanwhile is started again.
func (s *servers) fillDisk(during time.Duration) bool {
	t := s.t
	for {
		var now unix.Statfs_t
		if err := unix.Statfs(s.disk, &now); err != nil {
			t.Error(err)
			return false
		}
		used := (now.Blocks - now.Bfree) * uint64(now.Bsize)
		if unix.Mount("tmpfs", s.disk, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", used)) == nil {
			break // unless more is used by now
		}
	}
	_, err := s.direct.Exec(t.Context(), "INSERT INTO ballast SELECT repeat(md5(n::text), 50) FROM generate_series(1, 20000) AS n") // more than files have left
	time.Sleep(during)
	if err := unix.Mount("tmpfs", s.disk, "tmpfs", unix.MS_REMOUNT, "size="+diskSize); err != nil {
		t.Error(err)
	}
	s.restart()
	return err != nil
}

// logged counts how often the primary has logged a text.
func (s *servers) logged(text string) int {
	log, _ := os.ReadFile(s.primary.LogFile())
	return strings.Count(string(log), text)
}
