// Command bench measures the library beside what a user would write or take instead of it, on the same tables of a
// PostgreSQL server that it starts itself, with fsync and synchronous_commit on. Machines are shared and noisy, so it
// alternates ours and the other in short slices and compares the medians: read the ratios, not the rates.
//
//	go run . [-quick] [-json] [-only REGEXP] [-rounds N] [-out FILE] [-chart FILE] [-page FILE] [-full N [-server URL]] [-profile FILE]
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
	quick, asJSON                         bool
	full, rounds                          int
	only                                  *regexp.Regexp
	outFile, chart, page, profile, server string
}

func main() {
	var o options
	only := ""
	flag.BoolVar(&o.quick, "quick", false, "shorter slices and fewer cases: under a minute, noisier")
	flag.BoolVar(&o.asJSON, "json", false, "print one JSON object instead of a table")
	flag.IntVar(&o.full, "full", 0, "only: so many finalized keys against an empty database; 10000000 takes minutes and gigabytes")
	flag.IntVar(&o.rounds, "rounds", 21, "how often the pairs alternate; fewer than 15 don't say whether a target is reached")
	flag.StringVar(&only, "only", "", "run only the cases whose names match")
	flag.StringVar(&o.outFile, "out", "", "put the results into this JSON file, in the place of earlier ones of the same cases")
	flag.StringVar(&o.chart, "chart", "", "draw the ratios, those of -out that weren't measured now included, into this SVG file")
	flag.StringVar(&o.page, "page", "", "write the same results as tables into this Markdown file, between its markers")
	flag.StringVar(&o.server, "server", "", "use this PostgreSQL server, where -full leaves its database behind and finds it again, rather than start one")
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
	url := o.server
	if url == "" {
		server, err := testserver.StartPostgres(settings...)
		if err != nil {
			return err
		}
		defer server.Close()
		url = server.URL()
	}
	w, err := newWorld(ctx, url)
	if err != nil {
		return err
	}
	defer w.close()
	b := &bencher{world: w, slice: 300 * time.Millisecond, rounds: o.rounds, quick: o.quick}
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
	r := &report{}
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
		fmt.Fprintf(os.Stderr, "%-40s %.2f\n", got.Name, got.Ratio.Median)
	}
	if o.full == 0 && o.profile == "" {
		if err := b.further(ctx, o, r); err != nil {
			return err
		}
	}
	return r.write(o)
}

// settings are the server's. Durability stays as it is.
var settings = []string{"shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=30min", "autovacuum=off"}

// further measures what isn't a rate.
func (b *bencher) further(ctx context.Context, o options, r *report) error {
	for _, c := range b.allocations() {
		if !o.only.MatchString(c.name) {
			continue
		}
		got, err := b.count(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		r.Allocations = append(r.Allocations, got)
	}
	if o.quick {
		return nil
	}
	for _, c := range b.latencies() {
		if !o.only.MatchString(c.name) {
			continue
		}
		got, err := b.latency(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		r.Latencies = append(r.Latencies, got)
		fmt.Fprintf(os.Stderr, "%-40s %.0f µs, %.0f µs\n", got.Name, got.Ours.P99, got.Theirs.P99)
	}
	return nil
}

// cases are all there are, and what ends the servers that they need besides.
func (b *bencher) cases(ctx context.Context, o options) ([]bcase, func(), error) {
	if o.full > 0 {
		cases, err := b.scale(ctx, o)
		return cases, func() {}, err
	}
	river, err := newRiver(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	pair, err := newInboxPair(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	locks, endLocks, err := b.locks()
	if err != nil {
		return nil, nil, err
	}
	durable, endDurable := b.durable()
	cases := slices.Concat(b.settles(), b.groups(), b.losers())
	cases = append(cases, bcase{name: "do-vs-river", peer: "update and River's InsertTx, unique", must: 1.70,
		ours: b.each(b.eight(), b.do(b.status, true)), theirs: b.each(b.eight(), river.finalize)})
	// DBOS comes last: once it was started, its queue's polls disturb the others.
	return slices.Concat(cases, b.relays(river), pair.cases(), locks, durable), func() {
		endDurable()
		endLocks()
	}, nil
}

// durable is the case of DBOS, which is started when its turn comes.
func (b *bencher) durable() (cases []bcase, end func()) {
	var peer *dbosPeer
	finalize := func(ctx context.Context, n int64) error { return peer.finalize(ctx, n) }
	theirs := b.each(b.eight(), finalize)
	return []bcase{{name: "do-vs-dbos", peer: "a DBOS workflow with one transaction",
			ours: b.each(b.eight(), b.do(b.status, true)),
			theirs: func(ctx context.Context) (s sample, err error) {
				if peer == nil {
					if peer, err = newDBOS(context.WithoutCancel(ctx), b); err != nil {
						return s, err
					}
				}
				return theirs(ctx)
			}}}, func() {
			if peer != nil {
				_ = peer.close()
			}
		}
}
