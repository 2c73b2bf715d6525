package bench

import "slices"

// Spread is a figure that was measured several times.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spreadOf is the spread of values, of which there must be at least one. The median of an even number is the mean of the
// two in the middle.
func spreadOf(values []float64) Spread {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return Spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1]}
}

// over is how many times as much a is as b: of the medians, and of the extremes that are furthest apart. A ratio whose
// Min is above 1 was seen in whichever rounds are compared.
func (a Spread) over(b Spread) Spread {
	return Spread{Median: a.Median / b.Median, Min: a.Min / b.Max, Max: a.Max / b.Min}
}
