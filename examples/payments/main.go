// Command payments is a second service with the problem that endstate solves: one payment, and three that settle it. The
// provider's webhook tells what became of it, sometimes twice; a poller asks the provider, in case the webhook got lost; and
// a timeout gives up what took too long. They race for every payment, and money may move once.
//
//	go run ./examples/payments [-db URL] [-payments 12] [-seed 1] [-json]
//
// settlements.go is what a service writes around a Finalizer: a type of its own, with the service's words for methods. The
// webhook settles with an outcome that it knows (Settle), the timeout looks whether it is time (Do), and the poller asks the
// provider before it opens a transaction (DoPrepared, under a lock).
//
// Exit status: 0 if every payment was settled and booked once, 1 if not, 2 if the program could not run.
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
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// options are the command line's.
type options struct {
	db       string // empty: SQLite in a temporary folder
	payments int
	seed     int64
	json     bool
}

// run is main without the process around it. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	var r report
	if err == nil {
		r, err = settleAll(ctx, o)
	}
	if err == nil && o.json {
		err = json.NewEncoder(stdout).Encode(r)
	} else if err == nil {
		err = r.print(stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "payments:", err)
		return 2
	}
	if wrong := r.wrong(); len(wrong) > 0 {
		fmt.Fprintln(stderr, "payments:", strings.Join(wrong, "; "))
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("payments", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller prints the error
	flags.StringVar(&o.db, "db", "", "PostgreSQL `URL` (postgres://…); default: SQLite in a temporary folder")
	flags.IntVar(&o.payments, "payments", 12, "how many payments")
	flags.Int64Var(&o.seed, "seed", 1, "of the order in which the triggers fire")
	flags.BoolVar(&o.json, "json", false, "print one JSON object")
	flags.Usage = func() {} // not with every error
	err = flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stderr)
		fmt.Fprintln(stderr, "Usage of payments:")
		flags.PrintDefaults()
		return o, err
	case err != nil:
		return o, fmt.Errorf("%w (-help lists the flags)", err)
	case flags.NArg() > 0:
		// It may be a URL with a password, so it isn't repeated.
		return o, errors.New("there is an argument that belongs to no flag (-help lists the flags)")
	case o.payments < 1 || o.payments > 10_000:
		return o, fmt.Errorf("-payments is %d; it must be from 1 to 10000", o.payments)
	case o.db != "" && !strings.HasPrefix(o.db, "postgres://") && !strings.HasPrefix(o.db, "postgresql://"):
		return o, errors.New("-db is not a postgres:// URL; leave it out for SQLite")
	}
	return o, nil
}

// settleAll makes the tables, lets the triggers fire, and reads what became of the payments.
func settleAll(ctx context.Context, o options) (r report, err error) {
	s, err := openStore(ctx, o)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	provider := &provider{}
	settlements, err := newSettlements(ctx, s, provider)
	if err != nil {
		return r, err
	}
	calls, err := fire(ctx, s, settlements, provider, o)
	if err != nil {
		return r, err
	}
	return s.report(ctx, calls)
}
