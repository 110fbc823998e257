package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// report follows the events of go test -json, keeps them in a file, and tells a person what matters.
type report struct {
	file    *os.File
	buffer  *bufio.Writer
	out     io.Writer
	start   time.Time
	output  map[string][]string // of a test, or of a package's build, until it ends
	parents map[string]bool     // tests with subtests, which are counted in their stead
	ended   map[string]string   // test to pass, fail or skip
	broken  []string            // packages that failed apart from their tests
}

// event is one line of go test -json.
type event struct {
	Action, Package, ImportPath, Test, Output string
	FailedBuild                               string
	Elapsed                                   float64
}

func newReport(path string, out io.Writer) (*report, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &report{file: file, buffer: bufio.NewWriter(file), out: out, start: time.Now(),
		output: map[string][]string{}, parents: map[string]bool{}, ended: map[string]string{}}, nil
}

func (r *report) line(line []byte) error {
	if _, err := r.buffer.Write(append(line, '\n')); err != nil {
		return err
	}
	var e event
	if json.Unmarshal(line, &e) != nil {
		fmt.Fprintf(r.out, "%s\n", line)
		return nil
	}
	id := e.Package + " " + e.Test
	if e.ImportPath != "" {
		id = e.ImportPath + " "
	}
	switch e.Action {
	case "output", "build-output":
		r.output[id] = append(r.output[id], e.Output)
	case "run":
		if i := strings.LastIndexByte(e.Test, '/'); i >= 0 {
			r.parents[e.Package+" "+e.Test[:i]] = true
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.packageEnded(e)
		} else {
			r.testEnded(id, e)
		}
		delete(r.output, id)
	}
	return nil
}

func (r *report) testEnded(id string, e event) {
	r.ended[id] = e.Action
	if e.Action == "pass" {
		return
	}
	word := map[string]string{"fail": "FAIL", "skip": "SKIP (counts as a failure)"}[e.Action]
	fmt.Fprintf(r.out, "--- %s %s %s (%.2fs)\n%s", word, e.Package, e.Test, e.Elapsed, strings.Join(r.output[id], ""))
}

func (r *report) packageEnded(e event) {
	switch {
	case e.Action == "skip":
		return // no test files
	case e.Action == "fail" && !r.hasFailure(e.Package):
		r.broken = append(r.broken, e.Package)
		fmt.Fprintf(r.out, "--- FAIL %s\n%s%s", e.Package, strings.Join(r.output[e.FailedBuild+" "], ""), strings.Join(r.output[e.Package+" "], ""))
	}
	fmt.Fprintf(r.out, "%-4s %7.2fs  %s\n", map[string]string{"pass": "ok", "fail": "FAIL"}[e.Action], e.Elapsed, e.Package)
}

func (r *report) hasFailure(pkg string) bool {
	for id, action := range r.ended {
		if action == "fail" && strings.HasPrefix(id, pkg+" ") {
			return true
		}
	}
	return false
}

func (r *report) close() error {
	if err := r.buffer.Flush(); err != nil {
		return err
	}
	return r.file.Close()
}

// summary prints the counts of tests without subtests and returns how many failed.
func (r *report) summary() int {
	passed, failures := 0, slices.Clone(r.broken)
	for id, action := range r.ended {
		switch {
		case action == "pass" && !r.parents[id]:
			passed++
		case action != "pass" && (!r.parents[id] || !r.childFailed(id)):
			failures = append(failures, id)
		}
	}
	fmt.Fprintf(r.out, "\n%s, the events are in %s\n", time.Since(r.start).Round(time.Second), r.file.Name())
	slices.Sort(failures)
	for _, id := range failures {
		fmt.Fprintf(r.out, "failed: %s\n", id)
	}
	fmt.Fprintf(r.out, "%d passed, %d failed\n", passed, len(failures))
	return len(failures)
}

func (r *report) childFailed(parent string) bool {
	for id, action := range r.ended {
		if action != "pass" && strings.HasPrefix(id, parent+"/") {
			return true
		}
	}
	return false
}
