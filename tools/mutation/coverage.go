package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// test is a test of a package's, with what it covers.
type test struct {
	Name    string
	Seconds float64
	Blocks  map[string][][2]int // by file: first and last lines
}

func (t test) covers(file string, line int) bool {
	return slices.ContainsFunc(t.Blocks[file], func(b [2]int) bool { return b[0] <= line && line <= b[1] })
}

// coverage is what is known of the packages' tests. It is safe for concurrent use.
type coverage struct {
	mu    sync.Mutex
	tests map[string][]test
}

// of measures a package when it is asked for the first time.
func (c *coverage) of(ctx context.Context, o options, dir string) ([]test, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tests, known := c.tests[dir]
	if !known {
		var err error
		if tests, err = measure(ctx, o, dir); err != nil {
			return nil, err
		}
		c.tests[dir] = tests
	}
	return tests, nil
}

// measure runs each test of a package by itself, or reads what came of it before. The shortest is the first; those that are too
// long, or fail, are left out.
func measure(ctx context.Context, o options, dir string) (tests []test, err error) {
	kept := filepath.Join(o.cache, strings.ReplaceAll(dir, "/", "-")+".json")
	known := map[string]test{}
	if text, err := os.ReadFile(kept); err == nil {
		if err := json.Unmarshal(text, &known); err != nil {
			return nil, err
		}
	}
	binary, err := filepath.Abs(filepath.Join(o.cache, strings.ReplaceAll(dir, "/", "-")+".test"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(binary); err != nil {
		if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-cover", "-o", binary, "./"+dir).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w\n%s", err, out)
		}
	}
	list := exec.CommandContext(ctx, binary, "-test.list", "^(Test|Example)")
	list.Dir = dir
	names, err := list.Output()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(4) // they mostly wait
	for _, name := range strings.Fields(string(names)) {
		if len(known[name].Blocks) > 0 {
			continue
		}
		group.Go(func() error {
			t, err := alone(ctx, o, dir, binary, name)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			known[name] = t
			text, err := json.Marshal(known)
			if err != nil {
				return err
			}
			return os.WriteFile(kept, text, 0o644)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for _, t := range known {
		if len(t.Blocks) > 0 {
			tests = append(tests, t)
		}
	}
	slices.SortFunc(tests, func(a, b test) int { return int(1000 * (a.Seconds - b.Seconds)) })
	return tests, nil
}

// alone runs one test.
func alone(ctx context.Context, o options, dir, binary, name string) (test, error) {
	t := test{Name: name, Blocks: map[string][][2]int{}}
	profile := binary + "." + name
	defer os.Remove(profile)
	limited, cancel := context.WithTimeout(ctx, o.longest)
	defer cancel()
	cmd := exec.CommandContext(limited, binary, "-test.run", "^"+name+"$", "-test.coverprofile", profile)
	cmd.Dir = dir
	began := time.Now()
	err := cmd.Run()
	if t.Seconds = time.Since(began).Seconds(); err != nil {
		return t, ctx.Err()
	}
	text, err := os.ReadFile(profile)
	if err != nil {
		return t, err
	}
	for line := range strings.Lines(string(text)) {
		var first, column, last, column2, statements, count int
		file, place, found := strings.Cut(line, ":")
		if !found || file == "mode" {
			continue
		}
		if _, err := fmt.Sscanf(place, "%d.%d,%d.%d %d %d", &first, &column, &last, &column2, &statements, &count); err != nil {
			return t, fmt.Errorf("%s: %q: %w", profile, line, err)
		}
		if count > 0 {
			file = filepath.Join(dir, path.Base(file))
			t.Blocks[file] = append(t.Blocks[file], [2]int{first, last})
		}
	}
	return t, nil
}
