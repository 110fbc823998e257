package main

import (
	"fmt"
	"io"
	"math"
	"text/template"
)

// A chart has a bar for each case, whose length is the logarithm of the ratio: a bar to the right of the line is ours being
// faster.

const (
	chartLabels = 270 // the width of the names
	chartWidth  = 420 // and of the bars
	chartRow    = 22
	chartTop    = 40
)

type chart struct {
	Width, Height, Foot int
	Line                float64 // where both are equally fast
	LineTop, LineBottom int
	Bars                []bar
	Machine             string
}

type bar struct {
	Name, Peer, Ratio, Color string
	X, Width, RatioX         float64
	Y, TextY                 int
}

func newChart(r *report) chart {
	low, high := 0.5, 2.0
	for _, c := range r.Results {
		if c.Ratio.Median > 0 {
			low, high = min(low, c.Ratio.Median), max(high, c.Ratio.Median)
		}
	}
	at := func(ratio float64) float64 {
		return chartLabels + chartWidth*math.Log(ratio/low)/math.Log(high/low)
	}
	bottom := chartTop + chartRow*len(r.Results)
	c := chart{
		Width: chartLabels + chartWidth + 70, Height: bottom + 34, Foot: bottom + 22,
		Line: at(1), LineTop: chartTop - 6, LineBottom: bottom, Machine: r.Machine,
	}
	for i, got := range r.Results {
		if got.Ratio.Median <= 0 {
			continue
		}
		x, one := at(got.Ratio.Median), at(1)
		b := bar{
			Name: got.Name, Peer: got.Peer, Ratio: fmt.Sprintf("%.2f", got.Ratio.Median), Color: "#2a7f62",
			X: min(x, one), Width: max(math.Abs(x-one), 1), RatioX: max(x, one) + 6,
			Y: chartTop + chartRow*i, TextY: chartTop + chartRow*i + 13,
		}
		if got.Ratio.Median < 1 {
			b.Color = "#b0713a"
		}
		c.Bars = append(c.Bars, b)
	}
	return c
}

var chartSVG = template.Must(template.New("chart").Parse(`<svg xmlns="http://www.w3.org/2000/svg" width="{{.Width}}" height="{{.Height}}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
<text x="12" y="20" font-size="14">Operations a second, as a multiple of the peer's (logarithmic)</text>
{{range .Bars}}<g><title>{{html .Peer}}</title>
<text x="12" y="{{.TextY}}">{{html .Name}}</text>
<rect x="{{printf "%.1f" .X}}" y="{{.Y}}" width="{{printf "%.1f" .Width}}" height="16" fill="{{.Color}}"/>
<text x="{{printf "%.1f" .RatioX}}" y="{{.TextY}}">{{.Ratio}}</text></g>
{{end}}<line x1="{{printf "%.1f" .Line}}" y1="{{.LineTop}}" x2="{{printf "%.1f" .Line}}" y2="{{.LineBottom}}" stroke="#333"/>
<text x="12" y="{{.Foot}}" font-size="10" fill="#555">{{html .Machine}}</text>
</svg>
`))

func (r *report) svg(w io.Writer) error { return chartSVG.Execute(w, newChart(r)) }
