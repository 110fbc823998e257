package console

import (
	"fmt"
	"strings"
	"time"
)

// chart is a small line or some bars over the last hour.
type chart struct {
	Name  string // what it shows, said with its figures to those who don't see it
	Lines []string
	Bars  []bar
	Max   string
}

type bar struct{ X, Y, Height float64 }

// The size of a chart's drawing.
const (
	chartWidth  = 240
	chartHeight = 40
)

// lineChart draws points; where too much time lies between two, the line has a gap.
func lineChart(name string, now time.Time, gap time.Duration, times []time.Time, values []float64, show func(float64) string) *chart {
	c := &chart{Name: name + ": no figures yet"}
	if len(values) == 0 {
		return c
	}
	highest, lowest := values[0], values[0]
	for _, v := range values {
		highest, lowest = max(highest, v), min(lowest, v)
	}
	c.Max = show(highest)
	c.Name = fmt.Sprintf("%s since %s: now %s, lowest %s, highest %s", name, times[0].UTC().Format("15:04"), show(values[len(values)-1]), show(lowest), show(highest))
	var b strings.Builder
	for i, v := range values {
		if i > 0 && times[i].Sub(times[i-1]) > gap {
			c.Lines = append(c.Lines, b.String())
			b.Reset()
		}
		x := chartWidth * (1 - now.Sub(times[i]).Seconds()/kept.Seconds())
		y := chartHeight - 1.0
		if highest > 0 {
			y -= (chartHeight - 2) * v / highest
		}
		if b.Len() == 0 { // one point is seen, too
			fmt.Fprintf(&b, "%.1f,%.1f ", x-1, y)
		}
		fmt.Fprintf(&b, "%.1f,%.1f ", x, y)
	}
	c.Lines = append(c.Lines, b.String())
	return c
}

// barChart draws a count for each minute of the last hour, the oldest first.
func barChart(name string, counts []int64) *chart {
	c := &chart{}
	var highest, sum int64
	for _, n := range counts {
		highest, sum = max(highest, n), sum+n
	}
	c.Max = number(highest)
	c.Name = fmt.Sprintf("%s: %s in the last hour, at most %s a minute", name, number(sum), number(highest))
	width := float64(chartWidth) / float64(len(counts))
	for i, n := range counts {
		if n > 0 {
			height := max(1, chartHeight*float64(n)/float64(highest))
			c.Bars = append(c.Bars, bar{X: float64(i) * width, Y: chartHeight - height, Height: height})
		}
	}
	return c
}
