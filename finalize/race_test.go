package finalize_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// called is one caller's result.
type called struct {
	Key     string
	Receipt finalize.Receipt
	Err     string
	State   string // the error's SQLSTATE
}

// race lets n goroutines call for every key, each in its own order, half of them by Do and half by Settle. Each has a
// finalizer of its own: the calls of one don't race in the database.
func race(w *world, n int, ids []string) []called {
	var mu sync.Mutex
	var all []called
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			d := w.another()
			for _, k := range rand.Perm(len(ids)) {
				id := ids[k]
				trigger := finalize.Trigger(fmt.Sprintf("trigger-%d", i))
				var r finalize.Receipt
				var err error
				if i%2 == 0 {
					r, err = d.do(w.t.Context(), guard.Text(id), trigger, complete(id))
				} else {
					r, err = d.settle(w.t.Context(), guard.Text(id), trigger, completed())
				}
				c := called{Key: id, Receipt: r}
				if err != nil {
					c.Err = err.Error()
				}
				mu.Lock()
				all = append(all, c)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return all
}

// requireOneWinnerEach checks I3 and I4: exactly one won receipt for a key, and every loser's equals it.
func requireOneWinnerEach(t *testing.T, w *world, ids []string, all []called) {
	t.Helper()
	winners := map[string]finalize.Receipt{}
	for _, c := range all {
		require.Empty(t, c.Err)
		if c.Receipt.Won {
			require.NotContains(t, winners, c.Key, "I3: two winners")
			winners[c.Key] = c.Receipt
		}
	}
	require.Len(t, winners, len(ids), "I3: one winner for each key")
	for _, c := range all {
		want := winners[c.Key]
		want.Won = c.Receipt.Won
		require.Equal(t, want, c.Receipt, "I4")
	}
	for _, id := range ids[:min(len(ids), 10)] {
		w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
	}
	w.requireInvariants()
	require.Empty(t, w.text("SELECT batch FROM writes GROUP BY batch HAVING count(*) > 1"), "the callback's write is there once, or not at all if a Settle won")
}

func ids(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("batch-%04d", i)
	}
	return list
}

func TestRaceOfGoroutinesOnOneKey(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		keys := ids(1)
		w.open(keys...)
		requireOneWinnerEach(t, w, keys, race(w, 100, keys))
	})
}

// A hundred goroutines on a thousand keys, four callers for each, whose ways cross in every order.
func TestRaceOfGoroutinesOnManyKeys(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const goroutines, callers = 100, 4
		keys := ids(1000)
		if w.sqlite() {
			keys = ids(100) // it writes one at a time
		}
		w.open(keys...)
		lanes := make([][]string, goroutines/callers)
		for i, id := range keys {
			lanes[i%len(lanes)] = append(lanes[i%len(lanes)], id)
		}
		var mu sync.Mutex
		var all []called
		var group sync.WaitGroup
		for _, lane := range lanes {
			group.Go(func() {
				calls := race(w, callers, lane)
				mu.Lock()
				defer mu.Unlock()
				all = append(all, calls...)
			})
		}
		group.Wait()
		require.Len(t, all, callers*len(keys))
		requireOneWinnerEach(t, w, keys, all)
	}, on("pgx", "sqlite"), guardedBy("all"), conns(20))
}

// raceEnv tells a child process where to race.
const raceEnv = "ENDSTATE_TEST_RACE"

type raceSpec struct {
	Database, Guard, DSN, Schema, Journal string
	Goroutines                            int
	IDs                                   []string
}

// TestRaceChild is a process of TestRaceOfProcesses; by itself it does nothing.
func TestRaceChild(t *testing.T) {
	text := os.Getenv(raceEnv)
	if text == "" {
		return
	}
	var spec raceSpec
	require.NoError(t, json.Unmarshal([]byte(text), &spec))
	w := connect(t, spec.Database, spec.Guard, spec.DSN, spec.Schema, func(s *setup) { s.shared = true })
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin) // until all are
	require.NoError(t, err)
	fmt.Println("calling")
	out := bufio.NewWriter(os.Stdout)
	for _, c := range race(w, spec.Goroutines, spec.IDs) {
		line, err := json.Marshal(c)
		require.NoError(t, err)
		fmt.Fprintf(out, "called %s\n", line)
	}
	require.NoError(t, out.Flush())
}

// F9: four processes, on one key and on many.
func TestRaceOfProcesses(t *testing.T) {
	for _, journal := range []string{"wal", "delete"} {
		t.Run(journal, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				if journal == "delete" && !w.sqlite() {
					return // the journal is SQLite's
				}
				many := 1000
				if w.sqlite() {
					many = 100
				}
				keys := ids(many)
				w.open(keys...)
				spec := raceSpec{Database: w.database, Guard: w.guard, DSN: w.dsn, Schema: w.schema, Goroutines: 25, IDs: keys[:1]}
				requireOneWinnerEach(t, w, spec.IDs, raceInProcesses(t, w, spec))
				spec.Goroutines, spec.IDs = 2, keys
				all := raceInProcesses(t, w, spec)
				for _, c := range all {
					require.False(t, c.Receipt.Won && c.Key == keys[0], "won before")
				}
				rest := all[:0]
				for _, c := range all {
					if c.Key != keys[0] {
						rest = append(rest, c)
					}
				}
				requireOneWinnerEach(t, w, keys[1:], rest)
			}, on("pgx", "sqlite"), guardedBy("all", "own"), func(s *setup) { s.journal = journal })
		})
	}
}

// raceInProcesses races in four processes at once: none begins before all are there, and what the last key needs is locked, so that
// none ends before all have begun.
func raceInProcesses(t *testing.T, w *world, spec raceSpec) []called {
	t.Helper()
	text, err := json.Marshal(spec)
	require.NoError(t, err)
	const processes = 4
	type said struct {
		process int
		line    string // empty: it ended
		err     error
	}
	says := make(chan said, 100)
	begin := make(chan struct{})
	for i := range processes {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestRaceChild$", "-test.count", "1")
		cmd.Env = append(os.Environ(), raceEnv+"="+string(text))
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		cmd.Stderr = cmd.Stdout
		require.NoError(t, cmd.Start())
		go func() {
			<-begin
			_ = in.Close()
		}()
		go func() {
			var err error
			for lines := bufio.NewReader(out); err == nil; {
				var line string
				if line, err = lines.ReadString('\n'); line != "" {
					says <- said{process: i, line: line}
				}
			}
			says <- said{process: i, err: cmd.Wait()}
		}()
	}
	conn, err := w.db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	var outputs [processes]strings.Builder
	var all []called
	ready, calling := 0, 0
	for ended := 0; ended < processes; {
		s := <-says
		outputs[s.process].WriteString(s.line)
		if rest, ok := strings.CutPrefix(s.line, "called "); ok {
			var c called
			require.NoError(t, json.Unmarshal([]byte(rest), &c))
			all = append(all, c)
		}
		switch s.line {
		case "":
			ended++
			require.NoError(t, s.err, outputs[s.process].String())
			require.Equal(t, processes, calling, "one ended before all had begun")
		case "ready\n":
			if ready++; ready == processes {
				if w.sqlite() {
					_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
				} else {
					_, err = conn.ExecContext(t.Context(), fmt.Sprintf("BEGIN; SELECT FROM batches WHERE id = '%s' FOR UPDATE", spec.IDs[len(spec.IDs)-1]))
				}
				require.NoError(t, err)
				close(begin)
			}
		case "calling\n":
			if calling++; calling == processes {
				_, err = conn.ExecContext(t.Context(), "ROLLBACK")
				require.NoError(t, err)
			}
		}
	}
	require.Len(t, all, processes*spec.Goroutines*len(spec.IDs))
	return all
}
