// Package meter counts how often something happened and how large or how long it was, without a lock: an observation
// costs a few atomic additions, so that it can stand on the path of a commit.
package meter

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// span is how long a window takes observations. Quantiles are of the last one to two spans.
const span = time.Minute

// Buckets are a quarter of an octave wide: a quantile is at most a quarter too large.
const (
	quarters = 4
	buckets  = 64 * quarters
)

// Summary is a series of observations: their count and sum since the start, and how the latest ones are spread. The zero
// value is ready. Durations are observed in nanoseconds.
type Summary struct {
	count atomic.Uint64
	sum   atomic.Uint64
	now   atomic.Pointer[window]
	prev  atomic.Pointer[window]
}

// window are the observations of one span.
type window struct {
	began  time.Time
	count  atomic.Uint64
	sum    atomic.Uint64
	max    atomic.Uint64
	filled [buckets]atomic.Uint32
}

// Since observes the time from began until now.
func (s *Summary) Since(began time.Time) {
	now := time.Now()
	s.observe(uint64(max(now.Sub(began), 0)), now)
}

// Observe adds one observation.
func (s *Summary) Observe(v uint64) { s.observe(v, time.Now()) }

func (s *Summary) observe(v uint64, now time.Time) {
	s.count.Add(1)
	s.sum.Add(v)
	w := s.window(now)
	w.count.Add(1)
	w.sum.Add(v)
	w.filled[bucketOf(v)].Add(1)
	for {
		old := w.max.Load()
		if v <= old || w.max.CompareAndSwap(old, v) {
			return
		}
	}
}

// window returns the one that takes observations now, and begins a new one when the last has had its span.
func (s *Summary) window(now time.Time) *window {
	w := s.now.Load()
	if w != nil && now.Sub(w.began) < span {
		return w
	}
	fresh := &window{began: now}
	if s.now.CompareAndSwap(w, fresh) {
		s.prev.Store(w)
		return fresh
	}
	return s.now.Load()
}

// Reading is a summary at one moment. Count and Sum are since the start, Recent of the last one to two minutes.
type Reading struct {
	Count, Sum uint64
	Recent     Recent
}

// Recent tells how the latest observations are spread.
type Recent struct {
	Count, Sum, Max uint64
	Seconds         float64 // that they cover
	filled          [buckets]uint64
}

// Read returns what was observed so far.
func (s *Summary) Read() Reading { return s.read(time.Now()) }

func (s *Summary) read(now time.Time) Reading {
	r := Reading{Count: s.count.Load(), Sum: s.sum.Load()}
	for _, w := range []*window{s.prev.Load(), s.now.Load()} {
		if w == nil || now.Sub(w.began) >= 2*span {
			continue
		}
		r.Recent.Count += w.count.Load()
		r.Recent.Sum += w.sum.Load()
		r.Recent.Max = max(r.Recent.Max, w.max.Load())
		r.Recent.Seconds = max(r.Recent.Seconds, now.Sub(w.began).Seconds())
		for i := range w.filled {
			r.Recent.filled[i] += uint64(w.filled[i].Load())
		}
	}
	return r
}

// Quantile returns a value that the share q of the observations does not exceed, to a quarter too large; NaN without any.
func (r *Recent) Quantile(q float64) float64 {
	var total uint64
	for _, n := range r.filled {
		total += n
	}
	if total == 0 {
		return math.NaN()
	}
	need := uint64(math.Ceil(q * float64(total)))
	var seen uint64
	for i, n := range r.filled {
		if seen += n; n > 0 && seen >= need {
			return min(upperBound(i), float64(r.Max))
		}
	}
	return float64(r.Max)
}

// Min returns the lower end of the lowest bucket in use.
func (r *Recent) Min() float64 {
	for i, n := range r.filled {
		if n > 0 {
			return lowerBound(i)
		}
	}
	return 0
}

// Deviation is the standard deviation, as far as buckets tell.
func (r *Recent) Deviation() float64 {
	if r.Count < 2 {
		return 0
	}
	mean, squares := float64(r.Sum)/float64(r.Count), 0.0
	for i, n := range r.filled {
		d := (lowerBound(i)+upperBound(i))/2 - mean
		squares += d * d * float64(n)
	}
	return math.Sqrt(squares / float64(r.Count-1))
}

// bucketOf is a value's octave and the two bits below its highest one.
func bucketOf(v uint64) int {
	if v < quarters {
		return int(v)
	}
	octave := bits.Len64(v) - 1
	return octave*quarters + int(v>>(octave-2)&(quarters-1)) - quarters
}

// lowerBound is the least value of a bucket.
func lowerBound(i int) float64 {
	if i < quarters {
		return float64(i)
	}
	octave, quarter := (i+quarters)/quarters, (i+quarters)%quarters
	return math.Ldexp(float64(quarters+quarter), octave-2)
}

// upperBound is the least value beyond a bucket.
func upperBound(i int) float64 { return lowerBound(i + 1) }
