package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sampleReport() report {
	return report{Machine: "a <machine> & its cores", Results: []result{
		{Name: "do-vs-x", Peer: "x & y", Ours: 10, PeerRate: 20, Ratio: 0.5, must: 0.9},
		{Name: "cached-vs-x", Peer: "x", Ours: 1000, PeerRate: 10, Ratio: 100},
		{Name: "ours only", Ours: 5},
	}}
}

func TestJSONHasTheResultsAndNothingElse(t *testing.T) {
	var out strings.Builder
	require.NoError(t, sampleReport().json(&out))
	var got map[string][]map[string]any
	require.NoError(t, json.Unmarshal([]byte(out.String()), &got))
	require.Len(t, got, 1)
	require.Equal(t, map[string]any{"name": "do-vs-x", "peer": "x & y", "ours_per_s": 10.0, "peer_per_s": 20.0, "ratio": 0.5}, got["results"][0])
}

func TestTableSaysWhatIsReached(t *testing.T) {
	var out strings.Builder
	require.NoError(t, sampleReport().table(&out))
	require.Regexp(t, `do-vs-x +10 +20 +0.50 +0.90 +no `, out.String())
	require.Regexp(t, `cached-vs-x +1000 +10 +100.00 `, out.String())
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
