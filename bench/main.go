// Command bench measures the library beside what a user would write or take instead of it, on the same tables of a
// PostgreSQL server that it starts itself, with fsync and synchronous_commit on. Machines are shared and noisy, so it
// alternates ours and the other in short slices and compares the medians: read the ratios, not the rates.
//
//	go run . [-quick] [-json] [-only REGEXP] [-out FILE] [-chart FILE] [-full N] [-profile FILE]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime/pprof"
	"slices"
	"time"

	"github.com/endstate-go/endstate/internal/testserver"
)

type options struct {
	quick, asJSON           bool
	full                    int
	only                    *regexp.Regexp
	outFile, chart, profile string
}

func main() {
	var o options
	only := ""
	flag.BoolVar(&o.quick, "quick", false, "shorter slices and fewer cases: under a minute, noisier")
	flag.BoolVar(&o.asJSON, "json", false, "print one JSON object instead of a table")
	flag.IntVar(&o.full, "full", 0, "only: so many finalized keys against an empty database; 10000000 takes minutes and gigabytes")
	flag.StringVar(&only, "only", "", "run only the cases whose names match")
	flag.StringVar(&o.outFile, "out", "", "write the JSON to this file too")
	flag.StringVar(&o.chart, "chart", "", "draw the ratios into this SVG file")
	flag.StringVar(&o.profile, "profile", "", "run only our half, and write its CPU profile to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if o.only, err = regexp.Compile(only); err == nil {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	server, err := testserver.StartPostgres("shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=30min", "autovacuum=off")
	if err != nil {
		return err
	}
	defer server.Close()
	w, err := newWorld(ctx, server.URL())
	if err != nil {
		return err
	}
	defer w.close()
	b := &bencher{world: w, slice: 300 * time.Millisecond, rounds: 21, quick: o.quick}
	if o.quick {
		b.slice, b.rounds = 150*time.Millisecond, 3
	}
	cases, end, err := b.cases(ctx, o)
	if err != nil {
		return err
	}
	defer end()
	if o.profile != "" {
		file, err := os.Create(o.profile)
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
	r := report{}
	if r.Machine, err = b.machine(ctx); err != nil {
		return err
	}
	for _, c := range cases {
		if !o.only.MatchString(c.name) {
			continue
		}
		got, err := b.measure(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		r.Results = append(r.Results, got)
		fmt.Fprintf(os.Stderr, "%-40s %.2f\n", got.Name, got.Ratio)
	}
	if !o.asJSON && o.full == 0 && o.profile == "" {
		if r.allocations, err = b.allocations(ctx); err != nil {
			return err
		}
	}
	return r.write(o)
}

// cases are all there are, and what ends the servers that they need besides.
func (b *bencher) cases(ctx context.Context, o options) ([]bcase, func(), error) {
	if o.full > 0 {
		cases, err := b.scale(ctx, o.full)
		return cases, func() {}, err
	}
	river, err := newRiver(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	durable, err := newDBOS(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	pair, err := newInboxPair(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	locks, end, err := b.locks()
	if err != nil {
		return nil, nil, err
	}
	cases := slices.Concat(b.settles(), b.groups(), b.losers())
	cases = append(cases,
		bcase{name: "do-vs-river", peer: "update and River's InsertTx, unique", must: 1.70,
			ours: b.each(b.eight(), b.do(b.status, true)), theirs: b.each(b.eight(), river.finalize)},
		bcase{name: "do-vs-dbos", peer: "a DBOS workflow with one transaction",
			ours: b.each(b.eight(), b.do(b.status, true)), theirs: b.each(b.eight(), durable.finalize)})
	return slices.Concat(cases, b.relays(river), pair.cases(), locks), func() {
		_ = durable.close()
		end()
	}, nil
}
