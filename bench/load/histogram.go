package load

import (
	"math/bits"
	"time"
)

// Histogram counts durations in buckets whose width is at most 1/64 of what they hold. The zero value is empty. It is
// no more than an array, so that recording costs a few nanoseconds.
type Histogram struct {
	counts [buckets]uint32
	n      uint64
	max    time.Duration
}

const (
	subBits = 6 // 64 buckets for each power of two
	sub     = 1 << subBits
	// longest is 2^40 ns, 18 minutes: what takes longer is counted there.
	longest = 40
	buckets = (longest - subBits + 1) * sub
)

// Record counts one duration.
func (h *Histogram) Record(d time.Duration) {
	h.counts[bucket(d)]++
	h.n++
	h.max = max(h.max, d)
}

// Add counts all of another histogram.
func (h *Histogram) Add(other *Histogram) {
	for i, c := range other.counts {
		h.counts[i] += c
	}
	h.n += other.n
	h.max = max(h.max, other.max)
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.n }

// Max returns the longest duration recorded, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile returns a duration that the share q of all is not above, at most 1/64 too long; 0 when nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(1, uint64(q*float64(h.n)+0.5))
	var seen uint64
	for i, c := range h.counts {
		if seen += uint64(c); seen >= rank {
			return min(top(i), h.max)
		}
	}
	return h.max
}

// bucket finds where a duration is counted: below 64 ns each has its own, above that the highest bits decide.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < sub {
		return int(v)
	}
	power := bits.Len64(v) - 1
	if power >= longest {
		return buckets - 1
	}
	return (power-subBits+1)*sub + int(v>>(power-subBits)) - sub
}

// top is the longest duration that a bucket holds.
func top(i int) time.Duration {
	if i < sub {
		return time.Duration(i)
	}
	shift := i/sub - 1
	return time.Duration((uint64(i%sub+sub)+1)<<shift - 1)
}
