// Command bench measures the library beside hand-written pgx, on the same tables of a PostgreSQL server that it starts
// itself, with fsync and synchronous_commit on. Machines are shared and noisy, so it alternates ours and the other in short
// slices and compares the medians: read the ratios, not the rates.
//
//	go run . [-quick] [-json] [-only REGEXP] [-profile FILE]
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime/pprof"
	"text/tabwriter"
	"time"

	"github.com/endstate-go/endstate/internal/testserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	quick := flag.Bool("quick", false, "shorter slices: under a minute, noisier")
	asJSON := flag.Bool("json", false, "print one JSON object")
	only := flag.String("only", "", "run only the cases whose names match")
	profile := flag.String("profile", "", "write a CPU profile of our half to this file")
	flag.Parse()
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	server, err := testserver.StartPostgres("shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=30min", "autovacuum=off")
	if err != nil {
		return err
	}
	defer server.Close()
	b, err := newBench(ctx, server.URL())
	if err != nil {
		return err
	}
	defer b.pool.Close()
	b.slice, b.rounds, b.drainEvents = time.Second, 9, 100_000
	if *quick {
		b.slice, b.rounds, b.drainEvents = 300*time.Millisecond, 5, 20_000
	}
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
		b.oursOnly = true
	}
	var results []result
	for _, c := range b.cases() {
		if !wanted.MatchString(c.name) {
			continue
		}
		r, err := b.measure(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		results = append(results, r)
		if !*asJSON {
			fmt.Fprintf(os.Stderr, "%-28s %.2f\n", r.Name, r.Ratio)
		}
	}
	for _, c := range b.drains() {
		if !wanted.MatchString(c.name) {
			continue
		}
		r, err := b.measureDrain(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		results = append(results, r)
		if !*asJSON {
			fmt.Fprintf(os.Stderr, "%-28s %.2f\n", r.Name, r.Ratio)
		}
	}
	if *asJSON {
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"results": results})
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "case\tpeer\tours/s\tpeer/s\tratio\tmust reach\tours µs cpu\tpeer µs cpu\t")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.0f\t%.2f\t%s\t%.0f\t%.0f\t\n", r.Name, r.Peer, r.Ours, r.PeerRate, r.Ratio, r.must, r.oursCPU, r.peerCPU)
	}
	return w.Flush()
}
