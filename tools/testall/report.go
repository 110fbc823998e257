package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// report follows the events of go test -json, keeps them in a file, and tells a person what matters.
type report struct {
	file   *os.File
	buffer *bufio.Writer // of the file
	out    io.Writer
	start  time.Time
	output map[testID][]string // of what hasn't ended; under an empty test: of a package, or of a build

	tests  map[testID]string // how a test ended: pass, fail, skip, or running
	broken []string          // packages and modules that failed apart from their tests
}

type testID struct{ pkg, test string }

func (id testID) String() string { return strings.TrimSpace(id.pkg + " " + id.test) }

// event is one line of go test -json.
type event struct {
	Action, Package, ImportPath, Test, Output string
	FailedBuild                               string // the ImportPath of its build's events
	Elapsed                                   float64
}

const running = "running"

func newReport(path string, out io.Writer) (*report, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &report{file: file, buffer: bufio.NewWriter(file), out: out, start: time.Now(),
		output: map[testID][]string{}, tests: map[testID]string{}}, nil
}

// line takes in one line, and reports whether a package ended with it.
func (r *report) line(line []byte) (packageEnded bool, err error) {
	_, err1 := r.buffer.Write(line)
	if err := errors.Join(err1, r.buffer.WriteByte('\n')); err != nil {
		return false, err
	}
	var e event
	if json.Unmarshal(line, &e) != nil {
		fmt.Fprintf(r.out, "%s\n", line)
		return false, nil
	}
	id := testID{e.Package, e.Test}
	switch e.Action {
	case "output":
		r.output[id] = append(r.output[id], e.Output)
	case "build-output":
		build := testID{pkg: e.ImportPath}
		r.output[build] = append(r.output[build], e.Output)
	case "run":
		r.tests[id] = running
	case "pass", "fail", "skip":
		if packageEnded = e.Test == ""; packageEnded {
			r.packageEnded(e)
		} else {
			r.testEnded(id, e.Action, fmt.Sprintf(" (%.2fs)", e.Elapsed))
		}
	}
	return packageEnded, nil
}

func (r *report) testEnded(id testID, action, comment string) {
	r.tests[id] = action
	if action != "pass" {
		r.print(strings.ToUpper(action), id, comment, r.output[id])
	}
	delete(r.output, id)
}

func (r *report) print(word string, id testID, comment string, output []string) {
	fmt.Fprintf(r.out, "--- %s %s%s\n%s", word, id, comment, strings.Join(output, ""))
}

func (r *report) packageEnded(e event) {
	pkg := testID{pkg: e.Package}
	if e.Action == "skip" {
		return // it has no test files
	}
	count, failed := 0, false
	for id, how := range r.tests {
		if id.pkg != e.Package {
			continue
		}
		if how == running { // its process ended before it did
			r.testEnded(id, "fail", ", which never ended")
		}
		count++
		failed = failed || r.tests[id] == "fail"
	}
	if e.Action == "fail" {
		if !failed {
			r.broken = append(r.broken, e.Package)
		}
		r.print("FAIL", pkg, "", append(r.output[testID{pkg: e.FailedBuild}], r.output[pkg]...))
	}
	delete(r.output, pkg)
	fmt.Fprintf(r.out, "%-4s %7.2fs  %s (%d)\n", map[string]string{"pass": "ok", "fail": "FAIL"}[e.Action], e.Elapsed, e.Package, count)
}

// moduleBroken takes in that go test couldn't even begin in a module.
func (r *report) moduleBroken(module, why string) {
	r.broken = append(r.broken, "go test in "+module)
	fmt.Fprintf(r.out, "--- FAIL go test in %s\n%s", module, why)
}

// summary prints the counts, last of all, and returns them. A test with subtests isn't counted but for a failure
// of its own. A skip is a failure: everything that a test may need is here.
func (r *report) summary() (passed, failed int, err error) {
	if err := r.close(); err != nil {
		return 0, 0, err
	}
	if len(r.tests)+len(r.broken) == 0 {
		return 0, 0, errors.New("no test was run")
	}
	parents, failedParents := map[testID]bool{}, map[testID]bool{}
	for id, how := range r.tests {
		for i, c := range id.test {
			if c == '/' {
				parent := testID{id.pkg, id.test[:i]}
				parents[parent] = true
				failedParents[parent] = failedParents[parent] || how == "fail"
			}
		}
	}
	failures := []string{}
	for id, how := range r.tests {
		switch {
		case how == "pass" && !parents[id]:
			passed++
		case how == "skip":
			failures = append(failures, "skipped, which counts as a failure: "+id.String())
		case how == "fail" && !failedParents[id], how == running:
			failures = append(failures, "failed: "+id.String())
		}
	}
	for _, name := range r.broken {
		failures = append(failures, "failed apart from its tests: "+name)
	}
	slices.Sort(failures)
	fmt.Fprintf(r.out, "\n%s; the events are in %s\n", time.Since(r.start).Round(time.Second), r.file.Name())
	for _, f := range failures {
		fmt.Fprintln(r.out, f)
	}
	fmt.Fprintf(r.out, "%d passed, %d failed\n", passed, len(failures))
	return passed, len(failures), nil
}

// close completes the file.
func (r *report) close() error {
	if err := errors.Join(r.buffer.Flush(), r.file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", r.file.Name(), err)
	}
	return nil
}
