package bench

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Spread
	}{
		{[]float64{3}, Spread{3, 3, 3}},
		{[]float64{4, 1}, Spread{2.5, 1, 4}},
		{[]float64{9, 1, 2}, Spread{2, 1, 9}},
		{[]float64{4, 3, 2, 1}, Spread{2.5, 1, 4}},
	} {
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("%v has %v, not %v", c.values, got, c.want)
		}
	}
	a, b := Spread{Median: 20, Min: 18, Max: 24}, Spread{Median: 10, Min: 8, Max: 12}
	if got, want := a.over(b), (Spread{Median: 2, Min: 1.5, Max: 3}); got != want {
		t.Errorf("the ratio is %v, not %v", got, want)
	}
}

// The spread of a ratio holds the ratio of any two rounds.
func TestRatioHoldsEveryPair(t *testing.T) {
	rates := rapid.SliceOfN(rapid.Float64Range(1, 1e5), 1, 9)
	rapid.Check(t, func(t *rapid.T) {
		a, b := rates.Draw(t, "a"), rates.Draw(t, "b")
		ratio := spreadOf(a).over(spreadOf(b))
		for _, x := range a {
			for _, y := range b {
				if r := x / y; r < ratio.Min || r > ratio.Max {
					t.Errorf("%v/%v is outside %v", x, y, ratio)
				}
			}
		}
		if ratio.Median < ratio.Min || ratio.Median > ratio.Max {
			t.Errorf("%v", ratio)
		}
	})
}

func TestBaseURL(t *testing.T) {
	for url, want := range map[string]string{
		"http://h:1": "http://h:1", "http://h:1/": "http://h:1", "http://h:1/v1": "http://h:1", "http://h:1/v1/": "http://h:1", "http://h/x": "http://h/x",
	} {
		if diff := cmp.Diff(want, baseURL(url)); diff != "" {
			t.Errorf("%s: %s", url, diff)
		}
	}
}
