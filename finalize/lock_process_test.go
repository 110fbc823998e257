package finalize_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/lock/lockredis"
)

// lockEnv tells a process of its own to make calls of DoPrepared under a Redis lock.
const lockEnv = "ENDSTATE_TEST_LOCK"

type lockSpec struct {
	Database, Guard, DSN, Schema, Redis, ID string
	TTL                                     time.Duration
	Calls                                   int
	Every                                   time.Duration // between the beginnings of two calls
	Work                                    time.Duration // of a Prepare
	Hold                                    bool          // Prepare goes on until a line comes on stdin
}

// TestLockProcess is a process of the tests below; by itself it does nothing.
func TestLockProcess(t *testing.T) {
	text := os.Getenv(lockEnv)
	if text == "" {
		return
	}
	var spec lockSpec
	require.NoError(t, json.Unmarshal([]byte(text), &spec))
	l := redisLock(t, spec.Redis, spec.TTL)
	w := connect(t, spec.Database, spec.Guard, spec.DSN, spec.Schema, locked(l), func(s *setup) { s.shared = true })
	stages := preparing(spec.ID, func(ctx context.Context) (string, error) {
		w.notePrepared(spec.ID)
		if spec.Hold {
			fmt.Println("preparing")
			_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
			<-ctx.Done()
			fmt.Println("told", context.Cause(ctx))
			return "late", nil
		}
		time.Sleep(spec.Work) // the work
		return "scored", nil
	})
	var group sync.WaitGroup
	var mu sync.Mutex
	for i := range spec.Calls {
		group.Go(func() {
			time.Sleep(time.Duration(i) * spec.Every)
			c := called{Key: spec.ID}
			var err error
			if c.Receipt, err = w.prepare(t.Context(), guard.Text(spec.ID), finalize.Trigger(fmt.Sprint("process-", os.Getpid())), stages); err != nil {
				c.Err = err.Error()
			}
			line, err := json.Marshal(c)
			require.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			fmt.Printf("called %s\n", line)
		})
	}
	group.Wait()
	_, lost := w.trace.locks()
	fmt.Println("lost", len(lost))
}

// notePrepared counts a Prepare, outside of any transaction.
func (w *world) notePrepared(id string) {
	w.exec("INSERT INTO writes (batch, note) VALUES ($1, 'prepared')", id)
}

func (w *world) prepared(id string) int {
	return w.count("SELECT count(*) FROM writes WHERE batch = $1 AND note = 'prepared'", id)
}

func redisLock(t testing.TB, url string, ttl time.Duration) *lockredis.Lock {
	t.Helper()
	l, err := lockredis.New(dbtest.RedisOn(t, url), &lockredis.Config{TTL: ttl, Timeout: ttl / 4, Logger: discard()}) // machines that test are busy
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func lockProcess(t *testing.T, spec lockSpec) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(spec)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestLockProcess$", "-test.count", "1")
	cmd.Env = append(os.Environ(), lockEnv+"="+string(text))
	return cmd
}

func calledIn(t *testing.T, output string) (all []called) {
	t.Helper()
	for line := range strings.Lines(output) {
		if rest, ok := strings.CutPrefix(line, "called "); ok {
			var c called
			require.NoError(t, json.Unmarshal([]byte(rest), &c))
			all = append(all, c)
		}
	}
	return all
}

// The incident's worst batch: 83 calls, here within two seconds, from four processes, each of which would score for half a
// second.
func TestEightyThreeCallsPrepareOnce(t *testing.T) {
	redis := dbtest.RedisURL(t)
	each(t, func(t *testing.T, w *world) {
		w.open("worst")
		var outputs [4]bytes.Buffer
		var errs [4]error
		var all sync.WaitGroup
		for i, calls := range []int{21, 21, 21, 20} {
			all.Go(func() {
				cmd := lockProcess(t, lockSpec{Database: w.database, Guard: w.guard, DSN: w.dsn, Schema: w.schema, Redis: redis,
					ID: "worst", TTL: time.Minute, Calls: calls, Every: 100 * time.Millisecond, Work: 500 * time.Millisecond})
				cmd.Stdout, cmd.Stderr = &outputs[i], &outputs[i]
				errs[i] = cmd.Run()
			})
		}
		all.Wait()
		var calls []called
		for i := range outputs {
			require.NoError(t, errs[i], outputs[i].String())
			calls = append(calls, calledIn(t, outputs[i].String())...)
		}
		require.Len(t, calls, 83)
		require.Equal(t, 1, w.prepared("worst"), "Prepare ran once")
		w.exec("DELETE FROM writes WHERE note = 'prepared'")
		requireOneWinnerEach(t, w, []string{"worst"}, calls)
	}, on("pgx"), guardedBy("all"))
}

// F12: a holder that is stopped for longer than its TTL is overtaken. It goes on, is told, and loses.
func TestHolderStoppedPastItsTTL(t *testing.T) {
	redis := dbtest.RedisURL(t)
	each(t, func(t *testing.T, w *world) {
		key := w.open("b")
		cmd := lockProcess(t, lockSpec{Database: w.database, Guard: w.guard, DSN: w.dsn, Schema: w.schema, Redis: redis,
			ID: "b", TTL: 8 * time.Second, Calls: 1, Hold: true})
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		said := bufio.NewReader(stdout)
		line, err := said.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "preparing\n", line)
		require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))

		r, err := w.prepare(t.Context(), key, "successor", preparing("b", func(context.Context) (string, error) {
			w.notePrepared("b")
			return "scored", nil
		}))
		require.NoError(t, err)
		require.True(t, r.Won, "the lease ended, and another took over")

		require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
		_, err = stdin.Write([]byte("\n"))
		require.NoError(t, err)
		rest, err := io.ReadAll(said)
		require.NoError(t, err)
		require.NoError(t, cmd.Wait(), string(rest))
		require.Contains(t, string(rest), "told lock: lease lost", "Prepare's context ended")
		require.Contains(t, string(rest), "lost 1\n", "the trace was told")
		calls := calledIn(t, string(rest))
		require.Len(t, calls, 1)
		require.Empty(t, calls[0].Err)
		require.False(t, calls[0].Receipt.Won, "the loser is told")
		require.EqualValues(t, "successor", calls[0].Receipt.Trigger)
		require.Equal(t, 2, w.prepared("b"), "both did the work")
		require.Equal(t, []string{"scored"}, w.text("SELECT note FROM writes WHERE note <> 'prepared'"), "one wrote")
		w.requireFinal("b", "COMPLETE_STABLE", "batch.completed")
	}, on("pgx", "sqlite"), guardedBy("all"), locked(redisLock(t, redis, 8*time.Second)))
}
