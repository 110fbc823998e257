package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
)

// F38: what is at --html's path and isn't a regular file is written through, and is there afterwards.
func TestAuditPageGoesThroughWhatIsThere(t *testing.T) {
	t.Parallel()
	db := dbtest.SQLite(t)
	incident(t, db)
	url := sqlitePath(t, db)
	audit := func(t *testing.T, path string) result {
		t.Helper()
		r := cli(t, url, "audit", "db", "--table", "event_outbox", "--html", path)
		require.Equal(t, 1, r.status, "%+v", r)
		return r
	}
	page := func(t *testing.T, path string) {
		t.Helper()
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Contains(t, string(content), "94 duplicates in event_outbox")
		require.True(t, strings.HasSuffix(string(content), "</html>\n"))
	}
	mode := func(t *testing.T, path string) os.FileMode {
		t.Helper()
		info, err := os.Lstat(path)
		require.NoError(t, err)
		return info.Mode()
	}
	t.Run("device", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "null")
		if syscall.Mknod(path, syscall.S_IFCHR|0o666, 1<<8|3) != nil {
			path = os.DevNull // nobody but root makes devices, and nobody but root could replace this one
		}
		audit(t, path)
		require.Equal(t, os.ModeDevice|os.ModeCharDevice, mode(t, path).Type())
	})
	t.Run("pipe", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "pipe")
		require.NoError(t, syscall.Mkfifo(path, 0o600))
		got := make(chan string)
		go func() {
			f, err := os.Open(path)
			if err != nil {
				close(got)
				return
			}
			defer f.Close()
			content, _ := io.ReadAll(f)
			got <- string(content)
		}()
		run := start(t, url, "audit", "db", "--table", "event_outbox", "--html", path)
		require.Contains(t, <-got, "94 duplicates in event_outbox")
		require.Equal(t, 1, run.wait(t).status)
		require.Equal(t, os.ModeNamedPipe, mode(t, path).Type())
	})
	t.Run("standard output", func(t *testing.T) {
		t.Parallel()
		r := audit(t, "/dev/stdout")
		require.Contains(t, r.stdout, "</html>\nunique aggregates")
		file, err := os.Create(filepath.Join(t.TempDir(), "out"))
		require.NoError(t, err)
		defer file.Close()
		_, err = file.WriteString("before\n")
		require.NoError(t, err)
		run := command(t, url, "audit", "db", "--table", "event_outbox", "--html", "/dev/stdout")
		run.Stdout = file
		require.Error(t, run.Run())
		content, err := os.ReadFile(file.Name())
		require.NoError(t, err)
		require.Regexp(t, `(?s)^before\n<!DOCTYPE html>.*</html>\nunique aggregates.*adopt plan`, string(content))
	})
	t.Run("links", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		file, link, hard, dangling, made := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "hard"), filepath.Join(dir, "dangling"), filepath.Join(dir, "made")
		require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("old", 100_000)), 0o640))
		require.NoError(t, os.Symlink(file, link))
		require.NoError(t, os.Link(file, hard))
		require.NoError(t, os.Symlink(made, dangling))
		for _, path := range []string{link, hard, dangling} {
			audit(t, path)
		}
		page(t, file)
		page(t, hard)
		page(t, made)
		require.Equal(t, os.ModeSymlink, mode(t, link).Type())
		require.Equal(t, os.ModeSymlink, mode(t, dangling).Type())
		require.Equal(t, os.FileMode(0o640), mode(t, file))
	})
	t.Run("regular files", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "page.html")
		run := command(t, url, "audit", "db", "--table", "event_outbox", "--html", path)
		run.Path, run.Args = "/bin/sh", append([]string{"sh", "-c", `umask 027; exec "$@"`, "sh"}, run.Args...)
		require.Error(t, run.Run())
		page(t, path)
		require.Equal(t, os.FileMode(0o640), mode(t, path), "the umask's")
		require.NoError(t, os.Chmod(path, 0o604))
		if os.Geteuid() == 0 {
			require.NoError(t, os.Chown(path, 12345, 23456))
		}
		before, err := os.Stat(path)
		require.NoError(t, err)
		open, err := os.Open(path)
		require.NoError(t, err)
		defer open.Close()
		audit(t, path)
		page(t, path)
		after, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o604), after.Mode())
		require.Equal(t, before.Sys().(*syscall.Stat_t).Uid, after.Sys().(*syscall.Stat_t).Uid)
		require.Equal(t, before.Sys().(*syscall.Stat_t).Gid, after.Sys().(*syscall.Stat_t).Gid)
		content, err := io.ReadAll(open)
		require.NoError(t, err)
		require.Contains(t, string(content), "</html>", "who has the old one open reads it to its end")
		require.NotEqual(t, before.Sys().(*syscall.Stat_t).Ino, after.Sys().(*syscall.Stat_t).Ino)
		files, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		require.Len(t, files, 1, "nothing is left beside it")
	})
	t.Run("what can't be written", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		for path, why := range map[string]string{dir: "is a directory", filepath.Join(dir, "no", "page"): "no such file or directory", "/proc/page": "", "/dev/full": "no space left"} {
			r := cli(t, url, "audit", "db", "--table", "event_outbox", "--html", path)
			require.Equal(t, 2, r.status, "%+v", r)
			require.Empty(t, r.stdout)
			require.Contains(t, r.stderr, "write "+path+": "+why)
		}
	})
}
