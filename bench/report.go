package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
)

// report is what a run found.
type report struct {
	Results     []result
	Machine     string
	allocations string
}

func (r report) write(o options) error {
	if o.outFile != "" {
		if err := create(o.outFile, r.json); err != nil {
			return err
		}
	}
	if o.chart != "" {
		if err := create(o.chart, r.svg); err != nil {
			return err
		}
	}
	if o.asJSON {
		return r.json(os.Stdout)
	}
	return r.table(os.Stdout)
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

func (r report) json(w io.Writer) error {
	return json.NewEncoder(w).Encode(map[string]any{"results": r.Results})
}

func (r report) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "case\tours/s\tpeer/s\tratio\tmust reach\t\tours µs cpu\tpeer µs cpu\t  peer")
	for _, c := range r.Results {
		must, verdict := "", ""
		if c.must > 0 {
			must = fmt.Sprintf("%.2f", c.must)
			if verdict = "yes"; c.Ratio < c.must {
				verdict = "no"
			}
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.2f\t%s\t%s\t%.1f\t%.1f\t  %s\n",
			c.Name, c.Ours, c.PeerRate, c.Ratio, must, verdict, float64(c.oursCPU.Nanoseconds())/1000, float64(c.peerCPU.Nanoseconds())/1000, c.Peer)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%s%s\n", r.allocations, r.Machine)
	return err
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
