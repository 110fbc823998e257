// Command assessment is the incident, run for real: a service whose batches are completed by four triggers (every fifth
// callback, a completion threshold, a monitor sweep, recovery of stuck batches) and by one loop that runs away. It runs
// first as the service was, with nothing to keep the triggers apart, then through endstate, and shows both side by side,
// read back from the database.
//
//	go run ./examples/assessment [-db URL] [-lock redis|postgres|local|none] [-redis URL] [-scoring 5ms] [-batches 25]
//		[-comparisons 10] [-workers 8] [-processes 1] [-seed 1] [-keep] [-json]
//
// A completion scores its batch first, which is expensive. The guard alone lets one scoring count; a lock keeps the triggers
// from doing the others.
//
// Exit status: 0 if the guarded run is right, 1 if it has a duplicate, a missing event or a batch completed too early, 2 if
// it could not run.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/endstate-go/endstate/guard"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr, nil)
	stop()
	os.Exit(status)
}

// tamper lets a test put another guard in place of the real one.
type tamper func(guard.Guard) guard.Guard

// run is main without the process around it. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, tampered tamper) int {
	opts, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "assessment:", err)
		return 2
	}
	if opts.child() {
		if err := runChild(ctx, opts, tampered); err != nil {
			fmt.Fprintln(stderr, "assessment:", err)
			return 2
		}
		return 0
	}
	report, err := compare(ctx, opts, stderr, tampered)
	if err != nil {
		fmt.Fprintln(stderr, "assessment:", err)
		return 2
	}
	if opts.json {
		err = json.NewEncoder(stdout).Encode(report)
	} else {
		err = report.print(stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "assessment:", err)
		return 2
	}
	if wrong := report.wrong(); len(wrong) > 0 {
		for _, w := range wrong {
			fmt.Fprintln(stderr, "assessment: the guarded run has", w)
		}
		return 1
	}
	return 0
}

// The two runs, by the guard that keeps the triggers apart.
const (
	withNone     = "none"
	withEndstate = "endstate"
)

// compare does both runs.
func compare(ctx context.Context, opts options, stderr io.Writer, tampered tamper) (report report, err error) {
	report.Database = "sqlite"
	if opts.db != "" {
		report.Database = "postgres"
	}
	if opts.db == "" {
		dir, err := os.MkdirTemp("", "assessment")
		if err != nil {
			return report, err
		}
		if opts.keep {
			defer fmt.Fprintln(stderr, "The databases are left in", dir)
		} else {
			defer os.RemoveAll(dir)
		}
		opts.dir = dir
	}
	for _, guarded := range []string{withNone, withEndstate} {
		opts.guard = guarded
		if watched(stderr) {
			fmt.Fprintf(stderr, "%d batches, %d processes, guard %s …\n", opts.batches, opts.processes, guarded)
		}
		figures, err := oneRun(ctx, opts, tampered)
		if err != nil {
			return report, fmt.Errorf("run with guard %s: %w", guarded, err)
		}
		report.Runs = append(report.Runs, figures)
	}
	return report, nil
}

// oneRun makes the tables, lets the processes work, and reads the figures.
func oneRun(ctx context.Context, opts options, tampered tamper) (figures figures, err error) {
	store, err := openStore(opts)
	if err != nil {
		return figures, err
	}
	defer store.Close()
	if err := store.PingContext(ctx); err != nil {
		return figures, err
	}
	if !opts.keep {
		defer func() { err = errors.Join(err, store.drop(context.WithoutCancel(ctx))) }()
	}
	if err := store.create(ctx, opts); err != nil {
		return figures, err
	}
	if opts.processes == 1 {
		err = work(ctx, store, opts, tampered)
	} else {
		err = spawn(ctx, opts)
	}
	if err != nil {
		return figures, err
	}
	return store.figures(ctx, opts)
}

// watched reports whether a person looks at w.
func watched(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (o options) file() string { return filepath.Join(o.dir, "assessment_"+o.guard+".db") }
