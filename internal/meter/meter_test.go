package meter

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestBucketsHoldTheirValues(t *testing.T) {
	values := []uint64{0, 1, 2, 3, 4, 5, 7, 8, 1 << 20, 1<<20 + 1, math.MaxUint64}
	for range 10_000 {
		values = append(values, rand.Uint64()>>rand.IntN(64))
	}
	for _, v := range values {
		i := bucketOf(v)
		if i < 0 || i >= buckets {
			t.Fatalf("bucket of %d is %d, of %d", v, i, buckets)
		}
		if low, high := lowerBound(i), upperBound(i); float64(v) < low || float64(v) > high {
			t.Errorf("%d is in bucket %d, from %g to %g", v, i, low, high)
		}
		if v >= 4 && upperBound(i) > 1.26*lowerBound(i) {
			t.Errorf("bucket %d from %g to %g is wider than a quarter", i, lowerBound(i), upperBound(i))
		}
	}
}

func TestQuantilesAreNearTheSorted(t *testing.T) {
	var s Summary
	var values []uint64
	var sum uint64
	now := time.Now()
	for range 5000 {
		v := uint64(math.Exp(rand.Float64() * 20))
		values, sum = append(values, v), sum+v
		s.observe(v, now)
	}
	slices.Sort(values)
	r := s.read(now)
	if r.Count != 5000 || r.Sum != sum || r.Recent.Count != 5000 || r.Recent.Sum != sum || r.Recent.Max != values[4999] {
		t.Fatalf("got count %d sum %d recent %d %d max %d", r.Count, r.Sum, r.Recent.Count, r.Recent.Sum, r.Recent.Max)
	}
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
		want := float64(values[int(math.Ceil(q*5000))-1])
		if got := r.Recent.Quantile(q); got < want || got > want*1.26+1 {
			t.Errorf("quantile %g: got %g, the sorted values have %g", q, got, want)
		}
	}
	if got := r.Recent.Min(); got > float64(values[0]) || got*1.26 < float64(values[0])-1 {
		t.Errorf("least: got %g, want about %d", got, values[0])
	}
}

func TestOldObservationsLeaveTheQuantilesAndStayInTheSum(t *testing.T) {
	var s Summary
	at := time.Now()
	s.observe(1_000_000, at)
	s.observe(1, at.Add(span))
	if r := s.read(at.Add(span)); r.Recent.Max != 1_000_000 || r.Recent.Count != 2 {
		t.Errorf("a span later: %d observations, at most %d", r.Recent.Count, r.Recent.Max)
	}
	s.observe(2, at.Add(2*span))
	r := s.read(at.Add(2 * span))
	if r.Recent.Max != 2 || r.Recent.Count != 2 || r.Count != 3 || r.Sum != 1_000_003 {
		t.Errorf("two spans later: recent %d, at most %d; count %d, sum %d", r.Recent.Count, r.Recent.Max, r.Count, r.Sum)
	}
	if r := s.read(at.Add(10 * span)); r.Recent.Count != 0 || !math.IsNaN(r.Recent.Quantile(0.5)) || r.Count != 3 {
		t.Errorf("long after: recent %d, median %g, count %d", r.Recent.Count, r.Recent.Quantile(0.5), r.Count)
	}
}

func TestObservationsFromManySidesAreAllCounted(t *testing.T) {
	var s Summary
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				s.Observe(3)
			}
		})
	}
	wg.Wait()
	if r := s.Read(); r.Count != 8000 || r.Sum != 24000 {
		t.Errorf("got %d observations, sum %d", r.Count, r.Sum)
	}
}
