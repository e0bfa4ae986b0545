package replication

import "time"

// What a secondary may have in flight at most, whatever it asks for.
const (
	windowBytes   = 16 << 20
	windowEntries = 64 << 10
)

// limits bound what is sent and not yet acknowledged. Zero means the product's limit.
type limits struct {
	Bytes, Entries int
}

func (l limits) orDefault() limits {
	if l.Bytes <= 0 || l.Bytes > windowBytes {
		l.Bytes = windowBytes
	}
	if l.Entries <= 0 || l.Entries > windowEntries {
		l.Entries = windowEntries
	}
	return l
}

// window is what is in flight to one secondary: batches sent and not yet acknowledged, oldest first. A batch
// larger than the limits goes alone. It is bounded by the entries limit, for every batch counts as one entry at least.
type window struct {
	limits
	bytes, entries int
	sent           []inFlight
}

type inFlight struct {
	last           uint64 // index that the batch ends on
	bytes, entries int
	written        time.Time // commit time of its first frame, on the primary's clock
}

func newWindow(l limits) *window { return &window{limits: l.orDefault()} }

// room reports whether another batch may be sent.
func (w *window) room() bool {
	return len(w.sent) == 0 || w.bytes < w.Bytes && w.entries < w.Entries
}

func (w *window) add(last uint64, bytes, entries int, written time.Time) {
	entries = max(entries, 1)
	w.sent = append(w.sent, inFlight{last, bytes, entries, written})
	w.bytes += bytes
	w.entries += entries
}

// ack takes out every batch that ends at or before an index: acknowledgements are cumulative.
func (w *window) ack(index uint64) {
	n := 0
	for n < len(w.sent) && w.sent[n].last <= index {
		w.bytes -= w.sent[n].bytes
		w.entries -= w.sent[n].entries
		n++
	}
	w.sent = append(w.sent[:0], w.sent[n:]...)
}

// oldest returns when the oldest entry in flight was written; zero when nothing is.
func (w *window) oldest() time.Time {
	if len(w.sent) == 0 {
		return time.Time{}
	}
	return w.sent[0].written
}
