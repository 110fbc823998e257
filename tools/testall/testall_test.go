package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/testserver"
)

// workspaceOf makes a workspace of modules, each with the files given as "module/file".
func workspaceOf(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	work := "go 1.26.0\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		if module, file := filepath.Split(name); file == "go.mod" {
			work += "use ./" + module + "\n"
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.work"), []byte(work), 0o644))
	return dir
}

// TestMain makes the test's program be testall itself, where a test starts it as that.
func TestMain(m *testing.M) {
	if os.Getenv("ENDSTATE_TEST_AS_TESTALL") == "1" {
		_ = os.Unsetenv("ENDSTATE_TEST_AS_TESTALL")
		main()
		return
	}
	m.Run()
}

// testallIn returns the command that runs testall in a folder, with further environment.
func testallIn(t *testing.T, dir string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-race=false", "-timeout=1m")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append([]string{"ENDSTATE_TEST_AS_TESTALL=1", "TMPDIR=" + scratch(t), "GOWORK="}, env...)...)
	return cmd
}

// scratch is a folder for temporary files, which must be empty at the end.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "scratch-") // t.TempDir lets nobody else in
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func variable(cmd *exec.Cmd, name string) (value string) {
	for _, v := range cmd.Env {
		if rest, ok := strings.CutPrefix(v, name+"="); ok {
			value = rest
		}
	}
	return value
}

func exitStatus(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	return exit.ExitCode()
}

// needServers skips the test where there are no servers' binaries, unless they are required.
func needServers(t *testing.T) {
	t.Helper()
	for _, find := range []func() (string, error){testserver.PostgresBin, testserver.RedisBin, testserver.PgBouncerBin, testserver.RabbitMQBin} {
		_, err := find()
		if errors.Is(err, testserver.ErrMissing) && os.Getenv("ENDSTATE_TEST_REQUIRE") != "1" {
			t.Skip(err)
		}
		require.NoError(t, err)
	}
}

func TestEveryModuleIsTested(t *testing.T) {
	t.Parallel()
	needServers(t)
	dir := workspaceOf(t, map[string]string{
		"good/go.mod": "module good\n\ngo 1.26.0\n",
		"good/good_test.go": `package good
			import ("os"; "testing")
			func TestEnvironment(t *testing.T) {
	t.Parallel()
				for _, name := range []string{"POSTGRES_URL", "REDIS_URL", "POSTGRES_BIN", "REDIS_BIN", "PGBOUNCER_BIN"} {
					t.Run(name, func(t *testing.T) {
						if os.Getenv("ENDSTATE_TEST_" + name) == "" { t.Fatal("not set") }
					})
				}
				if os.Getenv("ENDSTATE_TEST_REQUIRE") != "1" { t.Fatal("servers aren't required") }
			}`,
		"bad/go.mod": "module bad\n\ngo 1.26.0\n",
		"bad/bad_test.go": `package bad
			import "testing"
			func TestFails(t *testing.T) { t.Error("the reason") }
			func TestSkips(t *testing.T) { t.Skip("no server") }`,
		"bad/unbuilt/unbuilt_test.go": "package unbuilt\n\nvar x int = true\n",
		"lost/go.mod":                 "module lost\n\ngo 1.26.0\n\nrequire example.invalid/nowhere v1.0.0\n\nreplace example.invalid/nowhere => ./nowhere\n",
		"lost/lost_test.go":           "package lost\n\nimport _ \"example.invalid/nowhere\"\n",
	})
	cmd := testallIn(t, dir)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := stdout.String()
	require.Equal(t, 1, exitStatus(t, err), "%s\n%s", out, stderr.String())
	for _, s := range []string{
		"the reason", "failed: bad TestFails",
		"no server", "skipped, which counts as a failure: bad TestSkips",
		"unbuilt_test.go:3", "failed apart from its tests: bad/unbuilt",
		"lost/nowhere", "failed apart from its tests: lost",
	} {
		require.Contains(t, out, s)
	}
	require.True(t, strings.HasSuffix(out, "\n5 passed, 4 failed\n"), out)

	events, err := os.Open(filepath.Join(dir, ".test.json"))
	require.NoError(t, err)
	defer events.Close()
	var packages []string
	for decoder := json.NewDecoder(events); ; {
		var e event
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		if !slices.Contains(packages, e.Package) {
			packages = append(packages, e.Package)
		}
	}
	require.Subset(t, packages, []string{"good", "bad", "bad/unbuilt"})
	left, err := os.ReadDir(variable(cmd, "TMPDIR"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestNothingIsLeft ends testall while a test runs.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	needServers(t)
	for _, tt := range []struct {
		name   string
		signal syscall.Signal
	}{
		{"interrupted", syscall.SIGINT}, {"terminated", syscall.SIGTERM}, {"killed", syscall.SIGKILL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.signal == syscall.SIGKILL && runtime.GOOS != "linux" {
				return // other kernels don't end servers with their parent
			}
			address := filepath.Join(t.TempDir(), "addresses")
			dir := workspaceOf(t, map[string]string{
				"slow/go.mod": "module slow\n\ngo 1.26.0\n",
				"slow/slow_test.go": `package slow
					import ("fmt"; "net"; "net/url"; "os"; "testing")
					func Test(t *testing.T) {
						pg, _ := url.Parse(os.Getenv("ENDSTATE_TEST_POSTGRES_URL"))
						redis, _ := url.Parse(os.Getenv("ENDSTATE_TEST_REDIS_URL"))
						l, err := net.Listen("tcp", "127.0.0.1:0")
						if err != nil { t.Fatal(err) }
						fifo, err := os.OpenFile(os.Getenv("ADDRESSES"), os.O_WRONLY, 0)
						if err != nil { t.Fatal(err) }
						fmt.Fprintf(fifo, "%s\n%s\n%s\n", pg.Host, redis.Host, l.Addr())
						fifo.Close()
						for { l.Accept() }
					}`,
			})
			require.NoError(t, syscall.Mkfifo(address, 0o600))
			cmd := testallIn(t, dir, "ADDRESSES="+address, "ENDSTATE_TEST_POSTGRES_URL=", "ENDSTATE_TEST_REDIS_URL=")
			log, err := os.Create(filepath.Join(dir, "log"))
			require.NoError(t, err)
			defer log.Close()
			cmd.Stdout, cmd.Stderr = log, log
			said := func() string {
				text, err := os.ReadFile(log.Name())
				require.NoError(t, err)
				return string(text)
			}
			require.NoError(t, cmd.Start())
			ended := make(chan error, 1)
			go func() {
				ended <- cmd.Wait()
				// If it ended early, the fifo has no writer, and this lets the reader below go on.
				if f, err := os.OpenFile(address, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
					_ = f.Close()
				}
			}()
			fifo, err := os.Open(address) // waits until the test has it open too
			require.NoError(t, err)
			defer fifo.Close()
			var addresses []string
			for lines := bufio.NewScanner(fifo); lines.Scan(); {
				addresses = append(addresses, lines.Text())
			}
			require.Len(t, addresses, 3, said())
			for _, a := range addresses {
				require.True(t, answers(a), a)
			}

			require.NoError(t, cmd.Process.Signal(tt.signal))
			err = <-ended
			if tt.signal == syscall.SIGKILL {
				for _, a := range addresses {
					require.Eventually(t, func() bool { return !answers(a) }, time.Minute, 10*time.Millisecond, a)
				}
				return
			}
			require.Equal(t, 2, exitStatus(t, err), said())
			require.Contains(t, said(), "interrupted before the tests had ended")
			require.NotContains(t, said(), " passed, ", "a summary would seem to be of all tests")
			for _, a := range addresses {
				require.False(t, answers(a), a)
			}
			left, err := os.ReadDir(variable(cmd, "TMPDIR"))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func answers(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

func TestInstallingCanBeForbidden(t *testing.T) {
	t.Parallel()
	dir := workspaceOf(t, map[string]string{"m/go.mod": "module m\n\ngo 1.26.0\n"})
	path := t.TempDir()
	goTool, err := exec.LookPath("go")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(goTool, filepath.Join(path, "go")))
	cmd := testallIn(t, dir, "PATH="+path, "ENDSTATE_TEST_REDIS_BIN=", "ENDSTATE_TEST_INSTALL=0")
	out, err := cmd.CombinedOutput()
	require.Equal(t, 2, exitStatus(t, err), "%s", out)
	require.Regexp(t, `this machine lacks .*redis-server.*, and ENDSTATE_TEST_INSTALL=0 forbids installing`, string(out))
}

func TestAModuleThatCantBeReadFails(t *testing.T) {
	t.Parallel()
	needServers(t)
	dir := workspaceOf(t, map[string]string{"m/go.mod": "module m\n\ngo 1.26.0\n\nnonsense\n"})
	out, err := testallIn(t, dir).CombinedOutput()
	require.Equal(t, 1, exitStatus(t, err), "%s", out)
	require.Contains(t, string(out), "nonsense")
	require.Contains(t, string(out), "failed apart from its tests: go test in ./m/\n0 passed, 1 failed\n")
}

func TestToRunNothingIsAnError(t *testing.T) {
	t.Parallel()
	needServers(t)
	dir := workspaceOf(t, map[string]string{"m/go.mod": "module m\n\ngo 1.26.0\n", "m/m.go": "package m\n"})
	out, err := testallIn(t, dir).CombinedOutput()
	require.Equal(t, 2, exitStatus(t, err), "%s", out)
	require.Contains(t, string(out), "no test was run")
}

func TestAWrongURLIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	needServers(t)
	dir := workspaceOf(t, map[string]string{"m/go.mod": "module m\n\ngo 1.26.0\n"})
	cmd := testallIn(t, dir, "ENDSTATE_TEST_POSTGRES_URL=postgres://someone:secret@127.0.0.1:1/x?sslmode=disable")
	out, err := cmd.CombinedOutput()
	require.Equal(t, 2, exitStatus(t, err), "%s", out)
	require.Contains(t, string(out), "the PostgreSQL of ENDSTATE_TEST_POSTGRES_URL")
	require.NotContains(t, string(out), "secret")
}
