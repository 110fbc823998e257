package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// report is what a run found, and earlier runs before it.
type report struct {
	Machine     string       `json:"machine"`
	Results     []result     `json:"results"`
	Allocations []allocation `json:"allocations,omitempty"`
	Latencies   []latencies  `json:"latencies,omitempty"`
}

func (r *report) write(o options) error {
	if o.outFile != "" {
		if err := r.follow(o.outFile); err != nil {
			return err
		}
		if err := create(o.outFile, r.json); err != nil {
			return err
		}
	}
	if o.chart != "" {
		if err := create(o.chart, r.svg); err != nil {
			return err
		}
	}
	if o.page != "" {
		if err := r.page(o.page); err != nil {
			return err
		}
	}
	if o.asJSON {
		return r.json(os.Stdout)
	}
	return r.table(os.Stdout)
}

// follow puts what was measured now into the places that it had in a file of earlier results, if there is one.
func (r *report) follow(name string) error {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var before report
	if err := json.Unmarshal(text, &before); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.Results = merge(before.Results, r.Results, func(c result) string { return c.Name })
	r.Allocations = merge(before.Allocations, r.Allocations, func(c allocation) string { return c.Name })
	r.Latencies = merge(before.Latencies, r.Latencies, func(c latencies) string { return c.Name })
	return nil
}

// merge replaces values by later ones of the same name, and appends new ones.
func merge[T any](before, now []T, name func(T) string) []T {
	merged := slices.Clone(before)
	for _, value := range now {
		i := slices.IndexFunc(merged, func(old T) bool { return name(old) == name(value) })
		if i < 0 {
			merged = append(merged, value)
		} else {
			merged[i] = value
		}
	}
	return merged
}

func create(name string, write func(io.Writer) error) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := write(file); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

func (r *report) json(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	return e.Encode(r)
}

func (r *report) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "case\tours/s\tpeer/s\tratio\tinterval\ttarget\t\tours µs cpu\tpeer µs cpu\t  peer")
	for _, c := range r.Results {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.2f\t%s\t%s\t%s\t%.1f\t%.1f\t  %s\n",
			c.Name, c.Ours, c.PeerRate, c.Ratio.Median, c.Ratio, target(c.Target), c.verdict(), c.OursCPU, c.PeerCPU, c.Peer)
	}
	if len(r.Allocations) > 0 {
		fmt.Fprintln(w, "\nallocations of a call\tours\tpeer's\tat most\t\t")
		for _, a := range r.Allocations {
			fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%s\t%s\t\n", a.Name, a.Ours, a.Peer, a.most(), a.verdict())
		}
	}
	if len(r.Latencies) > 0 {
		fmt.Fprintln(w, "\nµs at 70 % of what saturates\tours/s\tp50\tp99\tp99.9\tpeer/s\tp50\tp99\tp99.9\t  peer")
		for _, l := range r.Latencies {
			fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t  %s\n", l.Name,
				l.Ours.Rate, l.Ours.P50, l.Ours.P99, l.Ours.P999, l.Theirs.Rate, l.Theirs.P50, l.Theirs.P99, l.Theirs.P999, l.Peer)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%s\n", r.Machine)
	return err
}

func (i interval) String() string { return fmt.Sprintf("%.2f–%.2f", i.Low, i.High) }

func target(t float64) string {
	if t == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", t)
}

// machine describes where this ran.
func (b *bencher) machine(ctx context.Context) (string, error) {
	var server string
	if err := b.pool.QueryRow(ctx, "SHOW server_version").Scan(&server); err != nil {
		return "", err
	}
	m := fmt.Sprintf("%s/%s, %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if model := field("/proc/cpuinfo", "model name"); model != "" {
		m += " (" + model + ")"
	}
	if memory := field("/proc/meminfo", "MemTotal"); memory != "" {
		m += ", memory " + memory
	}
	m += fmt.Sprintf("; %s, PostgreSQL %s on the same machine", runtime.Version(), server)
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m += "; load average before the run " + strings.Fields(string(load))[0]
	}
	return m, nil
}

// field returns the first value of a name in a file of /proc, if there is one.
func field(file, name string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
