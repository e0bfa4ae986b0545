package replication

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestWindowIsFullAtEitherLimitAndTakesOneLargeBatchAlone(t *testing.T) {
	for _, c := range []struct {
		name           string
		batches        [][2]int // bytes, entries
		room           bool
		bytes, entries int
	}{
		{"empty", nil, true, 0, 0},
		{"below both", [][2]int{{10, 1}}, true, 10, 1},
		{"full by bytes", [][2]int{{60, 1}, {40, 1}}, false, 100, 2},
		{"full by entries", [][2]int{{1, 4}, {1, 6}}, false, 2, 10},
		{"one batch larger than the limit", [][2]int{{1000, 1}}, false, 1000, 1},
		{"batches without covered entries count as one each", [][2]int{{0, 0}, {0, 0}}, true, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWindow(limits{Bytes: 100, Entries: 10})
			for i, b := range c.batches {
				w.add(uint64(i+1), b[0], b[1], time.Time{})
			}
			if got := w.room(); got != c.room {
				t.Errorf("room: got %v, want %v", got, c.room)
			}
			if w.bytes != c.bytes || w.entries != c.entries {
				t.Errorf("in flight: got %d bytes and %d entries, want %d and %d", w.bytes, w.entries, c.bytes, c.entries)
			}
			w.ack(uint64(len(c.batches)))
			if !w.room() || w.bytes != 0 || w.entries != 0 || len(w.sent) != 0 {
				t.Errorf("after everything was acknowledged: %+v", w)
			}
		})
	}
}

func TestWindowAgreesWithAListOfWhatIsNotAcknowledged(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	w := newWindow(limits{Bytes: 1000, Entries: 100})
	type sent struct {
		last    uint64
		b, e    int
		written time.Time
	}
	var twin []sent
	last := uint64(0)
	for range 10_000 {
		if r.IntN(3) > 0 && w.room() {
			last += uint64(1 + r.IntN(5))
			s := sent{last, r.IntN(300), 1 + r.IntN(30), time.Unix(int64(last), 0)}
			w.add(s.last, s.b, s.e, s.written)
			twin = append(twin, s)
		} else {
			to := last - min(last, uint64(r.IntN(20)))
			w.ack(to)
			for len(twin) > 0 && twin[0].last <= to {
				twin = twin[1:]
			}
		}
		bytes, entries, oldest := 0, 0, time.Time{}
		for i, s := range twin {
			bytes, entries = bytes+s.b, entries+s.e
			if i == 0 {
				oldest = s.written
			}
		}
		if w.bytes != bytes || w.entries != entries || !w.oldest().Equal(oldest) {
			t.Fatalf("got %d bytes, %d entries, oldest %v, want %d, %d, %v", w.bytes, w.entries, w.oldest(), bytes, entries, oldest)
		}
		if room := len(twin) == 0 || bytes < 1000 && entries < 100; w.room() != room {
			t.Fatalf("room: got %v, want %v", w.room(), room)
		}
	}
}

func TestASecondaryCannotAskForMoreThanTheProductsWindow(t *testing.T) {
	for _, c := range []struct{ ask, want limits }{
		{limits{}, limits{windowBytes, windowEntries}},
		{limits{1 << 40, 1 << 40}, limits{windowBytes, windowEntries}},
		{limits{-1, -1}, limits{windowBytes, windowEntries}},
		{limits{1000, 10}, limits{1000, 10}},
	} {
		if got := newWindow(c.ask).limits; got != c.want {
			t.Errorf("asked for %+v: got %+v, want %+v", c.ask, got, c.want)
		}
	}
}
