// Command pipeline runs the incident end to end, with telemetry: batches whose completion four triggers race for, the outbox, a
// relay for each of two brokers, and two consumers; and prints the trace of one of them as a tree, from the trigger that won to the
// effects.
//
//	trigger ─> finalize ─> SQLite ─┬> relay ─> NATS JetStream ─> inbox ─> lifecycle: the batch's copy is closed
//	                               └> relay ─> Kafka ──────────> inbox ─> entitlements: a credit is charged
//
//	go run ./examples/pipeline [-batches 25] [-duplicates 4]
//
// It needs no server: the database is a file in a temporary folder, and the brokers run in the process: an
// embedded NATS server, and kfake, which is franz-go's Kafka for tests. Each event is published
// several times, as by relays that crash, and consumers fail at their first try now and then.
//
// Exit status: 0 if each batch was finalized, closed and charged exactly once and its trace is whole, 1 if not, 2 if it could not
// run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
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
	batches    int
	duplicates int // publications of each event
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("pipeline", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.batches, "batches", 25, "how many batches are completed")
	flags.IntVar(&o.duplicates, "duplicates", 4, "how often each event is published")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.batches < 1 || o.duplicates < 1 || flags.NArg() > 0 {
		return o, errors.New("-batches and -duplicates are at least 1, and there are no arguments")
	}
	return o, nil
}

// run is main without the process around it. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	opts, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	var report *report
	if err == nil {
		report, err = complete(ctx, opts)
	}
	if err == nil {
		err = report.print(stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "pipeline:", err)
		return 2
	}
	wrong := report.wrong(opts)
	for _, w := range wrong {
		fmt.Fprintln(stderr, "pipeline:", w)
	}
	if len(wrong) > 0 {
		return 1
	}
	return 0
}

// complete is the whole story.
func complete(ctx context.Context, opts options) (_ *report, err error) {
	w, err := newWorld(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	ctx, stop := context.WithCancel(ctx)
	ended := w.start(ctx)
	if err := w.pull(ctx); err != nil {
		stop()
		return nil, errors.Join(err, <-ended)
	}
	arrived := w.await(ctx)
	stop()
	if err := errors.Join(arrived, <-ended); err != nil {
		return nil, err
	}
	return w.report(context.WithoutCancel(ctx))
}
