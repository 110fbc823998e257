package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// options are the command line's, and for a child process its parent's.
type options struct {
	db                               string // empty: SQLite
	batches, comparisons             int
	workers, processes               int
	seed                             int64
	keep, json                       bool
	guard, dir                       string // of the run at hand
	process                          int    // this child's number, from 1; 0 in the parent
	thresholdPercent, periodic, loop int
}

func (o options) child() bool { return o.process > 0 }

// dbEnv hands the database's URL, which may hold a password, to child processes: the environment is not for everyone's eyes
// as the command line is.
const dbEnv = "ASSESSMENT_DB"

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{thresholdPercent: 80, periodic: 5, loop: 83}
	flags := flag.NewFlagSet("assessment", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.db, "db", "", "PostgreSQL `URL` (postgres://…); default: SQLite in a temporary folder")
	flags.IntVar(&o.batches, "batches", 25, "how many batches")
	flags.IntVar(&o.comparisons, "comparisons", 10, "callbacks per batch")
	flags.IntVar(&o.workers, "workers", 8, "concurrent callbacks in each process")
	flags.IntVar(&o.processes, "processes", 1, "how many processes share the work")
	flags.Int64Var(&o.seed, "seed", 1, "of the order in which callbacks arrive")
	flags.BoolVar(&o.keep, "keep", false, "leave the tables in place")
	flags.BoolVar(&o.json, "json", false, "print one JSON object")
	flags.StringVar(&o.guard, "child-guard", "", "used between its own processes")
	flags.StringVar(&o.dir, "child-dir", "", "used between its own processes")
	flags.IntVar(&o.process, "child", 0, "used between its own processes")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	for _, f := range []struct {
		name     string
		n, limit int
	}{{"batches", o.batches, 100_000}, {"comparisons", o.comparisons, 10_000}, {"workers", o.workers, 1_000}, {"processes", o.processes, 64}} {
		if f.n < 1 || f.n > f.limit {
			return o, fmt.Errorf("-%s is %d; it must be from 1 to %d", f.name, f.n, f.limit)
		}
	}
	if o.child() {
		o.db = os.Getenv(dbEnv)
		return o, nil
	}
	if o.db != "" && !strings.HasPrefix(o.db, "postgres://") && !strings.HasPrefix(o.db, "postgresql://") {
		return o, errors.New("-db is not a postgres:// URL; leave it out for SQLite")
	}
	return o, nil
}
