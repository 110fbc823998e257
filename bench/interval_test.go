package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIntervalHoldsTheMedianInNineteenOfTwenty(t *testing.T) {
	values := make([]float64, 15)
	for i := range values {
		values[i] = float64(15 - i)
	}
	// The fourth and the twelfth of fifteen: one minus twice the chance that a fair coin shows heads at most three times.
	require.Equal(t, interval{Median: 8, Low: 4, High: 12}, newInterval(values))
	require.Equal(t, 15.0, values[0], "the rounds keep their order")
	require.Equal(t, interval{Median: 2, Low: 1, High: 3}, newInterval([]float64{3, 1, 2}), "too few for anything but their range")
	require.Equal(t, interval{Median: 1, Low: 1, High: 1}, newInterval([]float64{1}))
}
