// Command mutation changes the source, one place at a time, and runs the tests that cover the place: one of them has to fail. The
// changes are a sample that a seed draws. It is to be run in the folder of go.work, by make mutation.
//
// Which test covers what, and how long each takes, is measured once and kept in the folder -cache, as are the verdicts: a run that
// was interrupted goes on. Tests run without the race detector, the shortest first, until one fails.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/endstate-go/endstate/internal/testserver"
)

type options struct {
	seed      uint64
	n, atOnce int
	longest   time.Duration
	cache     string
	only      string
	packages  []string
}

func main() {
	var o options
	flag.Uint64Var(&o.seed, "seed", 1, "draws the sample")
	flag.IntVar(&o.n, "n", 100, "how many mutants that compile")
	flag.IntVar(&o.atOnce, "at-once", 1, "how many mutants are tested at a time")
	flag.DurationVar(&o.longest, "longest", 15*time.Second, "a test that takes longer isn't used")
	flag.StringVar(&o.cache, "cache", ".mutation", "the folder for what is kept")
	flag.StringVar(&o.only, "only", "", "only mutants whose description contains this, again if no test failed before")
	flag.Parse()
	if o.packages = flag.Args(); len(o.packages) == 0 {
		o.packages = []string{"guard", "finalize", "outbox", "outbox/relay", "outbox/inbox"}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	end, err := startServers()
	survived := 0
	if err == nil {
		survived, err = run(ctx, o)
	}
	end()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutation:", err)
		os.Exit(2)
	}
	if survived > 0 {
		os.Exit(1)
	}
}

// startServers starts what tests share, and names it in the environment.
func startServers() (end func(), err error) {
	postgres, err := testserver.StartPostgres("fsync=off")
	if err != nil {
		return func() {}, err
	}
	redis, err := testserver.StartRedis("--databases", "64")
	if err != nil {
		return postgres.Close, err
	}
	end = func() { redis.Close(); postgres.Close() }
	return end, errors.Join(os.Setenv("ENDSTATE_TEST_POSTGRES_URL", postgres.URL()), os.Setenv("ENDSTATE_TEST_REDIS_URL", redis.URL()), os.Setenv("ENDSTATE_TEST_REQUIRE", "1"))
}

// verdict is what became of a mutant.
type verdict struct {
	Mutant  string
	Outcome string // killed, survived, uncovered or invalid
	By      string // what the first failing test printed first
	Tests   int    // how many cover it
}

func run(ctx context.Context, o options) (survived int, err error) {
	var all []mutant
	for _, dir := range o.packages {
		found, err := mutants(dir)
		if err != nil {
			return 0, err
		}
		all = append(all, found...)
	}
	dice := rand.New(rand.NewPCG(o.seed, 0))
	dice.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if err := os.MkdirAll(o.cache, 0o755); err != nil {
		return 0, err
	}
	known := map[string]verdict{}
	path := filepath.Join(o.cache, fmt.Sprintf("verdicts-%d.json", o.seed))
	if text, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(text, &known); err != nil {
			return 0, err
		}
	}
	counts, valid, covered := map[string]int{}, 0, &coverage{tests: map[string][]test{}}
	var mu sync.Mutex
	var group sync.WaitGroup
	next := 0
	for range o.atOnce {
		group.Go(func() {
			for {
				mu.Lock()
				if next == len(all) || valid >= o.n || ctx.Err() != nil {
					mu.Unlock()
					return
				}
				m := all[next]
				next++
				v, done := known[m.String()]
				if valid++; o.only != "" && !strings.Contains(m.String(), o.only) {
					mu.Unlock()
					continue
				}
				mu.Unlock()
				if !done || o.only != "" && v.Outcome != "killed" && v.Outcome != "invalid" {
					if tests, failed := covered.of(ctx, o, m.Package); failed != nil {
						v = verdict{Outcome: "invalid", By: failed.Error()}
					} else {
						v = try(ctx, o, m, tests)
					}
				}
				mu.Lock()
				if v.Outcome == "invalid" {
					valid--
				} else if ctx.Err() == nil {
					counts[v.Outcome]++
					fmt.Printf("%-9s %s\n          %s\n", v.Outcome, m, v.By)
				}
				if ctx.Err() == nil {
					known[m.String()] = v
					text, _ := json.MarshalIndent(known, "", "\t") // strings and numbers
					err = errors.Join(err, os.WriteFile(path, text, 0o644))
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	fmt.Printf("%d mutants of %d: %d killed, %d survived, %d uncovered (seed %d)\n",
		valid, len(all), counts["killed"], counts["survived"], counts["uncovered"], o.seed)
	return counts["survived"] + counts["uncovered"], errors.Join(err, ctx.Err())
}

// try builds the package's tests with the change, and runs those that cover it.
func try(ctx context.Context, o options, m mutant, tests []test) verdict {
	v := verdict{Mutant: m.String()}
	var covering []test // the shortest first
	for _, t := range tests {
		if m.Covered == 0 || t.covers(m.File, m.Covered) {
			covering = append(covering, t)
		}
	}
	if v.Tests = len(covering); v.Tests == 0 {
		v.Outcome = "uncovered"
		return v
	}
	dir, err := os.MkdirTemp("", "mutation-")
	if err != nil {
		return verdict{Outcome: "invalid", By: err.Error()}
	}
	defer os.RemoveAll(dir)
	source, err := os.ReadFile(m.File)
	if err != nil {
		return verdict{Outcome: "invalid", By: err.Error()}
	}
	changed, overlay, binary := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "tests")
	absolute, _ := filepath.Abs(m.File)
	replace, _ := json.Marshal(map[string]any{"Replace": map[string]string{absolute: changed}})
	err = errors.Join(os.WriteFile(changed, slices.Concat(source[:m.From], []byte(m.Text), source[m.To:]), 0o644), os.WriteFile(overlay, replace, 0o644))
	if err != nil {
		return verdict{Outcome: "invalid", By: err.Error()}
	}
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, "./"+m.Package).CombinedOutput(); err != nil {
		return verdict{Outcome: "invalid", By: short(string(out))}
	}
	// A change that makes a test wait forever is found out by the time that they take.
	const few = 25
	for part := range slices.Chunk(covering, few) {
		var names []string
		limit := time.Minute
		for _, t := range part {
			names, limit = append(names, t.Name), limit+time.Duration(4*t.Seconds*float64(time.Second))
		}
		cmd := exec.CommandContext(ctx, binary, "-test.failfast", "-test.run", "^("+strings.Join(names, "|")+")$", "-test.timeout", limit.String())
		cmd.Dir = m.Package
		if out, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil {
			v.Outcome, v.By = "killed", failure(string(out))
			return v
		}
	}
	v.Outcome = "survived"
	return v
}

// failure is the line that says which test failed, or hung.
func failure(out string) string {
	if _, hung, timedOut := strings.Cut(out, "running tests:"); timedOut {
		return short("hung: " + hung)
	}
	for _, sign := range []string{"--- FAIL: ", "panic: ", "FAIL"} {
		for line := range strings.Lines(out) {
			if strings.Contains(line, sign) {
				return short(line)
			}
		}
	}
	return short(out)
}
