package main

import (
	"bytes"
	"fmt"
	"os"
)

// The page's tables stand between these, so that they say what the JSON says.
const (
	pageBegin = "<!-- Written by bench -page from bench/results/bench.json. -->\n"
	pageEnd   = "<!-- End of what bench wrote. -->\n"
)

// page replaces a Markdown file's tables.
func (r *report) page(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	before, rest, begins := bytes.Cut(text, []byte(pageBegin))
	_, after, ends := bytes.Cut(rest, []byte(pageEnd))
	if !begins || !ends {
		return fmt.Errorf("%s: it has no place for the tables, between %q and %q", name, pageBegin, pageEnd)
	}
	return os.WriteFile(name, fmt.Appendf(nil, "%s%s%s%s%s", before, pageBegin, r.markdown(), pageEnd, after), 0o644)
}

func (r *report) markdown() []byte {
	var w bytes.Buffer
	fmt.Fprint(&w, "| case | beside | ours/s | peer/s | ratio | 95 % | target | |\n| --- | --- | ---: | ---: | ---: | --- | ---: | --- |\n")
	for _, c := range r.Results {
		fmt.Fprintf(&w, "| %s | %s | %.0f | %.0f | %.2f | %s | %s | %s |\n", c.Name, c.Peer, c.Ours, c.PeerRate, c.Ratio.Median, c.Ratio, target(c.Target), c.verdict())
	}
	if len(r.Allocations) > 0 {
		fmt.Fprint(&w, "\n| allocations of a call | ours | by hand | at most | |\n| --- | ---: | ---: | ---: | --- |\n")
	}
	for _, a := range r.Allocations {
		fmt.Fprintf(&w, "| %s | %.0f | %.0f | %s | %s |\n", a.Name, a.Ours, a.Peer, a.most(), a.verdict())
	}
	if len(r.Latencies) > 0 {
		fmt.Fprint(&w, "\n| latency, µs | ours: calls/s | p50 | p99 | p99.9 | by hand: calls/s | p50 | p99 | p99.9 |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	}
	for _, l := range r.Latencies {
		fmt.Fprintf(&w, "| %s | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f |\n", l.Name,
			l.Ours.Rate, l.Ours.P50, l.Ours.P99, l.Ours.P999, l.Theirs.Rate, l.Theirs.P50, l.Theirs.P99, l.Theirs.P999)
	}
	fmt.Fprintf(&w, "\n%s\n", r.Machine)
	return w.Bytes()
}
