package main

import (
	"cmp"
	"math"
	"slices"
)

// interval is a median and where the true one lies with a confidence of 95 %, whatever the values' distribution is: between
// two of them in their order. With fewer than six values it is the whole of their range, and less certain.
type interval struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

func newInterval(values []float64) interval {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	// Of n values, fewer than k+1 are on one side of the true median with a probability of tail.
	k := 0
	for tail, term := 0.0, math.Pow(0.5, float64(n)); ; k++ {
		if tail += term; tail > 0.025 {
			break
		}
		term *= float64(n-k) / float64(k+1)
	}
	k = max(k-1, 0)
	return interval{Median: middle(sorted), Low: sorted[k], High: sorted[n-1-k]}
}

func middle[T cmp.Ordered](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}
