package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sampleReport() *report {
	return &report{Machine: "a <machine> & its cores", Results: []result{
		{Name: "do-vs-x", Peer: "x & y", Ours: 10, PeerRate: 20, Ratio: interval{0.5, 0.4, 0.6}, Rounds: 15, Target: 0.9, OursCPU: 3, PeerCPU: 2},
		{Name: "cached-vs-x", Peer: "x", Ours: 1000, PeerRate: 10, Ratio: interval{100, 90, 110}, Rounds: 15},
		{Name: "ours only", Ours: 5},
	}, Allocations: []allocation{{Name: "allocs/do", Ours: 60, Peer: 50, Target: 60}},
		Latencies: []latencies{{Name: "latency1/settle", Peer: "x", Ours: latency{2000, 300, 900, 2500}, Theirs: latency{2100, 310, 910, 2600}}}}
}

func TestATargetIsReachedByTheIntervalsLowerEnd(t *testing.T) {
	for want, r := range map[string]result{
		"":         {Rounds: 15, Ratio: interval{2, 1.9, 2.1}},
		"reached":  {Rounds: 15, Ratio: interval{0.99, 0.971, 1.2}, Target: 1},
		"no":       {Rounds: 15, Ratio: interval{1.1, 0.969, 1.2}, Target: 1},
		"9 rounds": {Rounds: 9, Ratio: interval{2, 1.9, 2.1}, Target: 1},
	} {
		require.Equal(t, want, r.verdict())
	}
}

func TestTableSaysWhatIsReached(t *testing.T) {
	var out strings.Builder
	require.NoError(t, sampleReport().table(&out))
	require.Regexp(t, `do-vs-x +10 +20 +0.50 +0.40–0.60 +0.90 +no +3.0 +2.0 `, out.String())
	require.Regexp(t, `cached-vs-x +1000 +10 +100.00 `, out.String())
	require.Regexp(t, `allocs/do +60 +50 +60 +reached`, out.String())
	require.Regexp(t, `latency1/settle +2000 +300 +900 +2500 +2100 `, out.String())
}

func TestResultsTakeThePlacesOfEarlierOnes(t *testing.T) {
	name := filepath.Join(t.TempDir(), "bench.json")
	require.NoError(t, sampleReport().write(options{outFile: name, asJSON: true}))
	again := &report{Machine: "another", Results: []result{{Name: "new", Ours: 7}, {Name: "do-vs-x", Ours: 30}}}
	require.NoError(t, again.write(options{outFile: name, asJSON: true}))
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	var got report
	require.NoError(t, json.Unmarshal(text, &got))
	want := sampleReport()
	want.Machine, want.Results[0] = "another", result{Name: "do-vs-x", Ours: 30}
	want.Results = append(want.Results, result{Name: "new", Ours: 7})
	require.Equal(t, *want, got)
}

// Who measures anew writes the page anew: bench -only '^$' -out results/bench.json -page ../docs/performance.md does it.
func TestPageSaysWhatTheResultsSay(t *testing.T) {
	text, err := os.ReadFile("results/bench.json")
	require.NoError(t, err)
	var r report
	require.NoError(t, json.Unmarshal(text, &r))
	page, err := os.ReadFile("../docs/performance.md")
	require.NoError(t, err)
	require.Contains(t, string(page), pageBegin+string(r.markdown())+pageEnd)
}

func TestChartIsWellFormedAndHasABarForEachRatio(t *testing.T) {
	var out strings.Builder
	require.NoError(t, sampleReport().svg(&out))
	bars := 0
	for d := xml.NewDecoder(strings.NewReader(out.String())); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "g" {
			bars++
		}
	}
	require.Equal(t, 2, bars)
	require.Contains(t, out.String(), ">100.00<")
}

func TestMedian(t *testing.T) {
	count := func(s sample) float64 { return s.count }
	require.Equal(t, 2.0, median([]sample{{count: 3}, {count: 1}, {count: 2}}, count))
}
