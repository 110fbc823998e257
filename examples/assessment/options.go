package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// options are the command line's, and for a child process its parent's.
type options struct {
	db                               string // empty: SQLite
	batches, comparisons             int
	workers, processes               int
	seed                             int64
	scoring                          time.Duration
	redis, lock                      string
	keep, json                       bool
	guard, dir                       string // of the run at hand
	process                          int    // this child's number, from 1; 0 in the parent
	thresholdPercent, periodic, loop int
}

func (o options) child() bool { return o.process > 0 }

// Child processes get URLs, which may hold a password, in these: the environment is not for everyone's eyes as the command
// line is.
const (
	dbEnv    = "ASSESSMENT_DB"
	redisEnv = "ASSESSMENT_REDIS"
)

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{thresholdPercent: 80, periodic: 5, loop: 83}
	flags := flag.NewFlagSet("assessment", flag.ContinueOnError)
	flags.Usage = func() {}
	flags.SetOutput(io.Discard) // the caller prints the error
	flags.StringVar(&o.db, "db", "", "PostgreSQL `URL` (postgres://…); default: SQLite in a temporary folder")
	flags.IntVar(&o.batches, "batches", 25, "how many batches")
	flags.IntVar(&o.comparisons, "comparisons", 10, "callbacks per batch")
	flags.IntVar(&o.workers, "workers", 8, "concurrent callbacks in each process")
	flags.IntVar(&o.processes, "processes", 1, "how many processes share the work")
	flags.Int64Var(&o.seed, "seed", 1, "of the order in which callbacks arrive")
	flags.DurationVar(&o.scoring, "scoring", 5*time.Millisecond, "how long the scoring of a batch takes")
	flags.StringVar(&o.lock, "lock", "", "what keeps triggers from scoring a batch at the same time: redis, postgres, local (in each process) or none; default redis with -redis, else none")
	flags.StringVar(&o.redis, "redis", "", "Redis `URL` (redis://…), for the lock")
	flags.BoolVar(&o.keep, "keep", false, "leave the tables in place")
	flags.BoolVar(&o.json, "json", false, "print one JSON object")
	usage := usage(flags) // which leaves out what parents hand their children:
	flags.StringVar(&o.guard, "child-guard", "", "")
	flags.StringVar(&o.dir, "child-dir", "", "")
	flags.IntVar(&o.process, "child", 0, "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stderr, usage)
		return o, err
	case err != nil:
		return o, fmt.Errorf("%w (-help lists the flags)", err)
	case flags.NArg() > 0:
		// It may be a URL with a password, so it isn't repeated.
		return o, errors.New("there is an argument that belongs to no flag (-help lists the flags)")
	}
	for _, f := range []struct {
		name     string
		n, limit int
	}{{"batches", o.batches, 100_000}, {"comparisons", o.comparisons, 10_000}, {"workers", o.workers, 1_000}, {"processes", o.processes, 32}} {
		if f.n < 1 || f.n > f.limit {
			return o, fmt.Errorf("-%s is %d; it must be from 1 to %d", f.name, f.n, f.limit)
		}
	}
	if o.child() {
		o.db, o.redis = os.Getenv(dbEnv), os.Getenv(redisEnv)
		return o, nil
	}
	if o.scoring < 0 || o.scoring > time.Minute {
		return o, fmt.Errorf("-scoring is %v; it must be from 0 to 1m", o.scoring)
	}
	if o.db != "" && !strings.HasPrefix(o.db, "postgres://") && !strings.HasPrefix(o.db, "postgresql://") {
		return o, errors.New("-db is not a postgres:// URL; leave it out for SQLite")
	}
	return o, o.chooseLock()
}

// chooseLock fills in the lock, and says why it can't be had.
func (o *options) chooseLock() error {
	if o.lock == "" {
		o.lock = "none"
		if o.redis != "" {
			o.lock = "redis"
		}
	}
	switch {
	case o.lock != "redis" && o.lock != "postgres" && o.lock != "local" && o.lock != "none":
		return fmt.Errorf("-lock is %q; it must be redis, postgres, local or none", o.lock)
	case o.lock == "redis" && o.redis == "":
		return errors.New("-lock redis needs -redis")
	case o.redis != "" && o.lock != "redis":
		return fmt.Errorf("-redis is set, but -lock is %s", o.lock)
	case o.lock == "postgres" && o.db == "":
		return errors.New("-lock postgres needs -db")
	case o.lock == "postgres" && o.processes > 16:
		return fmt.Errorf("-processes is %d; with -lock postgres it must be from 1 to 16, for the connections that leases keep", o.processes)
	}
	return nil
}

// usage lists the flags that are defined so far.
func usage(flags *flag.FlagSet) string {
	var text strings.Builder
	text.WriteString("Usage of assessment:\n")
	out := flags.Output()
	flags.SetOutput(&text)
	flags.PrintDefaults()
	flags.SetOutput(out)
	return text.String()
}

// connections is how many a process may open: all of them together must leave room under PostgreSQL's usual 100.
func (o options) connections() int { return min(16, max(2, 64/o.processes)) }
