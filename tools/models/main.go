// Command models has Spin exhaust the models in docs/models, and find each bug that is seeded in them.
//
//	models [-run REGEXP] [-table FILE]
//
// It needs spin and a C compiler (Debian: spin, gcc, libc6-dev), and up to 8 GB of memory. Its exit status is 1 if a model without
// a bug breaks an invariant, or a seeded bug isn't found.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// result is what the checker found.
type result struct {
	run
	states int64
	depth  int64
	broken string // the assertion, or what else Spin complains of; empty: none
	took   time.Duration
}

func (r result) expected() bool { return r.broken == "" == (r.bug == "") }

func main() {
	which := flag.String("run", "", "only models and settings that match this `expression`")
	table := flag.String("table", "", "write a table in Markdown to this `file`")
	dir := flag.String("dir", "docs/models", "the `folder` of the models")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := check(ctx, *dir, *which, *table); err != nil {
		fmt.Fprintln(os.Stderr, "models:", err)
		os.Exit(1)
	}
}

func check(ctx context.Context, dir, which, table string) error {
	match, err := regexp.Compile(which)
	if err != nil {
		return err
	}
	for _, tool := range []string{"spin", "cc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s isn't here (Debian: apt-get install spin gcc libc6-dev)", tool)
		}
	}
	var results []result
	wrong := 0
	for _, r := range runs {
		if !match.MatchString(r.String()) {
			continue
		}
		found, err := verify(ctx, dir, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r, err)
		}
		results = append(results, found)
		verdict := "holds"
		if found.broken != "" {
			verdict = "broken: " + found.broken
		}
		if !found.expected() {
			wrong++
			verdict = "NOT EXPECTED: " + verdict
		}
		fmt.Printf("%-78s %11d states %6.1fs  %s\n", r, found.states, found.took.Seconds(), verdict)
	}
	if table != "" {
		if err := os.WriteFile(table, markdown(results), 0o644); err != nil {
			return err
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d aren't as expected", wrong, len(results))
	}
	return nil
}

var (
	statesLine = regexp.MustCompile(`(?m)^\s*(\S+) states, stored`)
	depthLine  = regexp.MustCompile(`depth reached (\d+), errors: (\d+)`)
	errorLine  = regexp.MustCompile(`(?m)^pan:\d+: (.*) \(at depth \d+\)`)
	stopLine   = regexp.MustCompile(`(?m)^pan: (reached -DMEMLIM bound|out of memory)|(max search depth too small)`)
)

// verify makes a checker of a model, and runs it.
func verify(ctx context.Context, dir string, r run) (result, error) {
	model, err := filepath.Abs(filepath.Join(dir, r.model+".pml"))
	if err != nil {
		return result{}, err
	}
	tmp, err := os.MkdirTemp("", "models")
	if err != nil {
		return result{}, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	start := time.Now()
	tool := func(name string, args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = tmp
		return cmd.CombinedOutput()
	}
	if out, err := tool("spin", append(append([]string{"-a"}, r.defines()...), model)...); err != nil || !exists(filepath.Join(tmp, "pan.c")) {
		return result{}, fmt.Errorf("spin: %s", bytes.TrimSpace(out))
	}
	if out, err := tool("cc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=4096", "-DMEMLIM=8000", "-o", "pan", "pan.c"); err != nil {
		return result{}, fmt.Errorf("cc: %s", bytes.TrimSpace(out))
	}
	out, err := tool("./pan", "-m1000000", "-w24")
	if err != nil && ctx.Err() != nil {
		return result{}, ctx.Err()
	}
	found := result{run: r, took: time.Since(start)}
	if m := stopLine.Find(out); m != nil {
		return result{}, fmt.Errorf("not exhausted: %s", m)
	}
	depth, states := depthLine.FindSubmatch(out), statesLine.FindSubmatch(out)
	if depth == nil || states == nil {
		return result{}, fmt.Errorf("pan said: %s", out)
	}
	found.depth, _ = strconv.ParseInt(string(depth[1]), 10, 64)
	count, err := strconv.ParseFloat(string(states[1]), 64) // large ones have an exponent
	if err != nil {
		return result{}, err
	}
	found.states = int64(count)
	if m := errorLine.FindSubmatch(out); m != nil {
		found.broken = strings.TrimPrefix(string(m[1]), "assertion violated ")
	} else if string(depth[2]) != "0" {
		return result{}, fmt.Errorf("pan said: %s", out)
	}
	return found, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func markdown(results []result) []byte {
	var b bytes.Buffer
	b.WriteString("| model | settings | seeded bug | states | depth | the checker |\n| --- | --- | --- | ---: | ---: | --- |\n")
	for _, r := range results {
		verdict := "no error"
		if r.broken != "" {
			verdict = "`" + strings.ReplaceAll(invariant(r.broken), "|", "\\|") + "`"
		}
		bug := ""
		if r.bug != "" {
			bug = "`" + r.bug + "`: " + r.why
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %d | %s |\n", r.model, strings.Join(r.settings, ", "), bug, r.states, r.depth, verdict)
	}
	return b.Bytes()
}

// invariant shortens what Spin prints of an assertion, whose macros it expands.
func invariant(assertion string) string {
	const most = 60
	if len(assertion) <= most {
		return strings.TrimSpace(assertion)
	}
	for expanded, short := range map[string]string{
		"db.committed": "a committed row is published, or skipped",
		"aggregate[n]": "first publications of an aggregate are in order",
		"skipped[s]":   "what retention deletes is published, or skipped",
		"events[0]":    "events iff transition",
	} {
		if strings.Contains(assertion, expanded) {
			return short
		}
	}
	return assertion[:most] + "…"
}
