// Command consumers shows the receiving side: a producer finalizes batches, a relay publishes their events, and three
// consumers apply each of them once, each in another way.
//
//	consumer      way            what it does
//	lifecycle     inbox.Status   moves its own copy of the batch to COMPLETE; the state machine refuses a second time
//	results       NewConsumer    stores the result in the events' own database, in the transaction in which the cursor moves:
//	                             it needs neither a broker nor an inbox
//	entitlements  inbox.Claims   charges a credit; Redis saves work, and the credit's row is keyed by the batch, so that a
//	                             crash can't charge twice
//
// The other two have a broker. Deliveries are repeated, reordered, run in parallel by two processes of each consumer, and cut off: processes are killed
// before they claim, after, after the effect, and before they acknowledge. Every third batch is announced a second time, by
// events with ids of their own, as the incident's triggers did; only a business key tells that these mean the same.
//
//	go run ./examples/consumers [-db URL] [-redis URL] [-duplicates 4] [-json]
//
// It runs on SQLite, and with a stand-in for Redis in its own process, unless it is given servers.
//
// Exit status: 0 if every batch was charged one credit, 1 if one was charged twice or not at all or another consumer's effect
// was doubled or lost, 2 if it could not run.
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
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is main without the process around it. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if name := os.Getenv(consumerEnv); name != "" {
		act := func() error { return consume(ctx, name, os.Stdin, stdout) }
		if name == results {
			act = func() error { return apply(ctx, os.Stdin) }
		}
		if err := act(); err != nil {
			fmt.Fprintf(stderr, "consumers: %s: %v\n", name, err)
			return 2
		}
		return 0
	}
	opts, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	var report report
	if err == nil {
		report, err = deliverAll(ctx, opts)
	}
	if err == nil {
		if opts.json {
			err = json.NewEncoder(stdout).Encode(report)
		} else {
			err = report.print(stdout)
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "consumers:", err)
		return 2
	}
	wrong := report.wrong()
	for _, w := range wrong {
		fmt.Fprintln(stderr, "consumers:", w)
	}
	if len(wrong) > 0 {
		return 1
	}
	return 0
}

// deliverAll is the whole story: produce, publish, deliver, and look at what the consumers did.
func deliverAll(ctx context.Context, opts options) (_ report, err error) {
	w, err := newWorld(ctx, opts)
	if err != nil {
		return report{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.produce(ctx); err != nil {
		return report{}, fmt.Errorf("produce: %w", err)
	}
	b := newBroker(opts)
	if err := b.run(ctx, w); err != nil {
		return report{}, err
	}
	return w.report(ctx, b)
}
