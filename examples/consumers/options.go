package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// options are the command line's.
type options struct {
	db, redis  string // empty: SQLite, the stand-in
	duplicates int
	json       bool
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("consumers", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller prints the error
	flags.StringVar(&o.db, "db", "", "PostgreSQL `URL` (postgres://…); default: SQLite in a temporary folder")
	flags.StringVar(&o.redis, "redis", "", "Redis `URL` (redis://…); default: a stand-in in this process")
	flags.IntVar(&o.duplicates, "duplicates", 4, "how many times more each event is delivered to its consumer")
	flags.BoolVar(&o.json, "json", false, "print one JSON object")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(stderr, "usage: consumers [-db URL] [-redis URL] [-duplicates 4] [-json]")
		flags.SetOutput(stderr)
		flags.PrintDefaults()
		return o, err
	case err != nil:
		return o, fmt.Errorf("%w (-help lists the flags)", err)
	case flags.NArg() > 0:
		// It may be a URL with a password, so it isn't repeated.
		return o, errors.New("there is an argument that belongs to no flag (-help lists the flags)")
	case o.duplicates < 0 || o.duplicates > 100:
		return o, fmt.Errorf("-duplicates is %d; it must be from 0 to 100", o.duplicates)
	case o.db != "" && !strings.HasPrefix(o.db, "postgres://") && !strings.HasPrefix(o.db, "postgresql://"):
		return o, errors.New("-db is not a postgres:// URL; leave it out for SQLite")
	case o.redis != "" && !strings.HasPrefix(o.redis, "redis://") && !strings.HasPrefix(o.redis, "rediss://"):
		return o, errors.New("-redis is not a redis:// URL; leave it out for the stand-in")
	}
	return o, nil
}
