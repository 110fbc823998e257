// Command fuzz runs every fuzz target of every module for a while, one after the other, and prints a line for each: what others
// send is parsed by code that no example has seen. A target without inputs of its own under testdata/fuzz is a failure, too. With
// arguments it runs the targets whose names contain one of them. It is to be run in the folder of go.work.
//
// Exit status: 0 nothing was found, 1 something was, 2 the targets could not be run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

func main() {
	var opts options
	flag.StringVar(&opts.time, "time", "2000x", "go test's -fuzztime, for each target")
	flag.BoolVar(&opts.guided, "guided", false, "follow coverage, for which everything is compiled once more")
	flag.Parse()
	opts.names = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	found, err := fuzz(ctx, opts, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(2)
	}
	if found > 0 {
		os.Exit(1)
	}
}

type options struct {
	time   string
	guided bool
	names  []string
}

// suite is a package with fuzz targets.
type suite struct {
	dir     string
	targets []string
}

// fuzz runs all targets and returns how many failed.
func fuzz(ctx context.Context, opts options, out io.Writer) (found int, err error) {
	modules, err := workspace.Modules(ctx)
	if err != nil {
		return 0, err
	}
	suites, err := suitesOf(modules)
	if err != nil {
		return 0, err
	}
	binaries, err := os.MkdirTemp("", "endstate-fuzz")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(binaries)) }()
	start, ran := time.Now(), 0
	for i, s := range suites {
		wanted := slices.DeleteFunc(s.targets, func(target string) bool {
			return len(opts.names) > 0 && !slices.ContainsFunc(opts.names, func(name string) bool { return strings.Contains(target, name) })
		})
		if len(wanted) == 0 {
			continue
		}
		binary := filepath.Join(binaries, fmt.Sprintf("%d.test", i))
		args := []string{"test", "-buildvcs=false", "-c", "-o", binary}
		if opts.guided {
			args = append(args, "-fuzz", "^"+wanted[0]+"$")
		}
		build := exec.CommandContext(ctx, "go", append(args, ".")...)
		build.Dir = s.dir
		if _, err := workspace.Output(build); err != nil {
			return found, fmt.Errorf("build the tests of %s: %w", s.dir, err)
		}
		for _, target := range wanted {
			ran++
			began := time.Now()
			said, err := s.run(ctx, binary, target, opts.time)
			if ctx.Err() != nil {
				return found, ctx.Err()
			}
			word := "ok"
			if err != nil {
				found++
				word = "FAIL"
			}
			fmt.Fprintf(out, "%-4s %7.2fs  %s %s\n", word, time.Since(began).Seconds(), s.dir, target)
			if err != nil {
				fmt.Fprintf(out, "%s%v\n", said, err)
			}
		}
	}
	if ran == 0 {
		return 0, errors.New("there is no such fuzz target")
	}
	fmt.Fprintf(out, "%d fuzz targets in %s, %d failed\n", ran, time.Since(start).Round(time.Second), found)
	return found, nil
}

// run runs one target, from what is checked in and what earlier runs kept in Go's cache.
func (s suite) run(ctx context.Context, binary, target, long string) (said []byte, err error) {
	corpus, err := os.ReadDir(filepath.Join(s.dir, "testdata", "fuzz", target))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(corpus) == 0 {
		return nil, fmt.Errorf("%s has no inputs in testdata/fuzz/%[1]s", target)
	}
	cache, err := workspace.Output(exec.CommandContext(ctx, "go", "env", "GOCACHE"))
	if err != nil {
		return nil, err
	}
	of := filepath.Join(cache, "fuzz", "endstate", s.dir)
	cmd := exec.CommandContext(ctx, binary, "-test.run=^$", "-test.fuzz=^"+target+"$", "-test.fuzztime="+long, "-test.fuzzcachedir="+of, "-test.timeout=0")
	cmd.Dir = s.dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd.CombinedOutput()
}

var declared = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// suitesOf finds the fuzz targets of modules, in the order of their folders.
func suitesOf(modules []string) (suites []suite, err error) {
	for _, module := range modules {
		err := filepath.WalkDir(module, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return err
			}
			name := entry.Name()
			if path != module && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata") {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != module {
				return fs.SkipDir // a module of its own
			}
			tests, err := filepath.Glob(filepath.Join(path, "*_test.go"))
			if err != nil {
				return err
			}
			s := suite{dir: path}
			for _, test := range tests {
				text, err := os.ReadFile(test)
				if err != nil {
					return err
				}
				for _, match := range declared.FindAllSubmatch(text, -1) {
					s.targets = append(s.targets, string(match[1]))
				}
			}
			if len(s.targets) > 0 {
				suites = append(suites, s)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return suites, nil
}
