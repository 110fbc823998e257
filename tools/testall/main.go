// Command testall runs every module's tests against real servers: it finds PostgreSQL, Redis and PgBouncer or installs
// them, starts private instances, runs the tests with the race detector, prints a line for each package and a summary, and
// stops what it started. The stream of go test -json goes to .test.json. With patterns as arguments, such as ./guard/..., it
// runs the tests of those packages only. It is to be run in the folder of go.work.
//
// Exit status: 0 all passed, 1 something failed, 2 the tests could not be run to their end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

func main() {
	var opts options
	flag.StringVar(&opts.timeout, "timeout", "30m", "go test's -timeout, for each package")
	flag.StringVar(&opts.run, "run", "", "go test's -run")
	flag.BoolVar(&opts.race, "race", true, "use the race detector, which needs a C compiler")
	flag.BoolVar(&opts.browser, "browser", false, "have Chromium, for the tests of the console")
	flag.StringVar(&opts.driver, "driver", "", "have tests go through this driver of database/sql, and leave out the databases that it isn't for: "+strings.Join(slices.Sorted(maps.Keys(drivers)), ", "))
	flag.StringVar(&opts.events, "events", ".test.json", "where the stream of go test -json goes")
	flag.StringVar(&opts.record, "record", "", "record the result in "+page+", as that of this: server, driver, or the path of a module, or name@version")
	flag.StringVar(&opts.by, "by", "", "the command to name there")
	flag.Parse()
	opts.patterns = flag.Args()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	failed, err := testAll(ctx, opts)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testall:", err)
		os.Exit(2)
	}
	if failed > 0 {
		os.Exit(1)
	}
}

type options struct {
	timeout, run string
	race         bool
	browser      bool
	driver       string
	through      driver
	events       string
	record, by   string
	patterns     []string
}

var errInterrupted = errors.New("interrupted before the tests had ended")

// testAll runs the tests and returns how many failed. When it returns, nothing that it started is left.
func testAll(ctx context.Context, opts options) (failed int, err error) {
	modules, err := workspace.Modules(ctx)
	if err != nil {
		return 0, err
	}
	if opts.through, err = driverNamed(opts.driver); err != nil {
		return 0, err
	}
	report, err := newReport(opts.events, os.Stdout)
	if err != nil {
		return 0, err
	}
	defer report.close() // if it ends early: the summary is what closes it in earnest
	if err := ensure(ctx, opts.race, opts.browser); err != nil {
		return 0, err
	}
	surroundings, err := prepare(ctx, opts)
	defer surroundings.end()
	if opts.browser {
		surroundings.set("ENDSTATE_TEST_CHROMIUM", chromium())
	}
	if err != nil {
		return 0, err
	}
	if len(opts.patterns) > 0 {
		modules = []string{"."} // whose patterns may name other modules' packages
	}
	for _, module := range modules {
		if err := runTests(ctx, module, opts, surroundings, report); err != nil {
			return 0, err
		}
	}
	passed, failed, err := report.summary()
	if err != nil || opts.record == "" {
		return failed, err
	}
	r := result{table: opts.record, passed: passed, failed: failed, on: time.Now(), by: opts.by}
	switch opts.record {
	case "server":
		major, _, _ := strings.Cut(surroundings.postgres, ".")
		r.name, r.version = "PostgreSQL "+major, surroundings.postgres
	case "driver":
		r.name = opts.through.module
	default:
		r.table = "library"
		r.name, r.version, _ = strings.Cut(opts.record, "@")
	}
	if r.version == "" {
		if r.version, err = versionOf(ctx, r.name); err != nil {
			return failed, err
		}
	}
	return failed, record(page, r)
}
