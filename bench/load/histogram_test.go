package load

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestQuantilesAreThoseOfTheSortedDurationsWithinOnePartIn64(t *testing.T) {
	for _, largest := range []int64{50, 5_000, 3_000_000, 4_000_000_000} {
		rng := rand.New(rand.NewPCG(1, uint64(largest)))
		var h, first, second Histogram
		var all []time.Duration
		for i := range 10_000 {
			d := time.Duration(rng.Int64N(largest))
			all = append(all, d)
			h.Record(d)
			if i%3 == 0 {
				first.Record(d)
			} else {
				second.Record(d)
			}
		}
		first.Add(&second)
		if first != h {
			t.Errorf("up to %d ns: two halves added are not the whole", largest)
		}
		slices.Sort(all)
		for _, q := range []float64{0, 0.5, 0.9, 0.99, 1} {
			want := all[max(0, int(q*float64(len(all))+0.5)-1)]
			if got := h.Quantile(q); got < want || got > want+want/64+1 {
				t.Errorf("up to %d ns: quantile %g: got %d, want %d or a 64th more", largest, q, got, want)
			}
		}
		if got, want := h.Max(), all[len(all)-1]; got != want {
			t.Errorf("up to %d ns: max: got %d, want %d", largest, got, want)
		}
		if got := h.Count(); got != 10_000 {
			t.Errorf("up to %d ns: count: got %d", largest, got)
		}
	}
}

func TestEachDurationIsInABucketThatHoldsIt(t *testing.T) {
	for power := range 45 {
		for _, by := range []int64{-1, 0, 1} {
			d := time.Duration(int64(1)<<power + by)
			i := bucket(d)
			if i < 0 || i >= buckets {
				t.Fatalf("bucket of %d ns: got %d of %d", d, i, buckets)
			}
			if i < buckets-1 && (top(i) < d || (i > 0 && top(i-1) >= d)) {
				t.Errorf("bucket of %d ns: got (%d, %d]", d, top(max(0, i-1)), top(i))
			}
		}
	}
	if got := bucket(-time.Second); got != 0 {
		t.Errorf("bucket of a negative duration: got %d, want 0", got)
	}
}

func TestAnEmptyHistogramHasNoQuantiles(t *testing.T) {
	var h Histogram
	if got := h.Quantile(0.99); got != 0 {
		t.Errorf("got %v, want 0", got)
	}
}
