package engine

import (
	"sync"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Sets that a sync may be of, as SyncState.Set names them.
const (
	setDR          = "dr"
	setPerformance = Performance
)

// syncs is the sync under way.
type syncs struct {
	step sync.Mutex // one step at a time: BeginSync, ApplyRange, EndSync

	mu     sync.Mutex         // guards what follows
	state  *storage.SyncState // never changed, only replaced
	frames bool               // a Verbatim store keeps frames that it has not applied

	spoolMu sync.Mutex // guards what follows
	spool   *spool     // Writer; nil until needed
}

func (s *syncs) get() *storage.SyncState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *syncs) set(state *storage.SyncState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
}

// begin sets state and whether the log runs ahead of it.
func (s *syncs) begin(state *storage.SyncState, frames bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.frames = state, frames
}

// spooling returns the sync during which a Verbatim log runs ahead of its state; nil when there is none.
func (s *syncs) spooling() *storage.SyncState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.frames {
		return nil
	}
	return s.state
}

// SyncState returns the sync under way, nil when the state is consistent. On a DR secondary of a performance secondary it
// may be the sync of the latter.
func (e *Engine) SyncState() *storage.SyncState {
	s := e.sync.get()
	if s == nil {
		return nil
	}
	c := *s
	return &c
}

// effect is what an entry means for cursors and syncs.
type effect struct {
	upstream wal.Position
	mark     *storage.SyncMark
}

func effectOf(e *storage.Entry) *effect {
	if e.Upstream.IsZero() && e.Sync == nil {
		return nil
	}
	return &effect{upstream: e.Upstream, mark: e.Sync}
}

// apply moves cursors, and returns the sync as it is after the entry.
func (f *effect) apply(state *storage.SyncState, cursors map[string]wal.Position) *storage.SyncState {
	if !f.upstream.IsZero() {
		cursors[Performance] = f.upstream
	}
	if f.mark == nil {
		return state
	}
	switch f.mark.Kind {
	case storage.SyncBegin:
		cursors[Performance] = f.mark.From
		return &storage.SyncState{Set: setPerformance, From: f.mark.From, Until: f.mark.Until}
	case storage.SyncRange:
		if state != nil {
			state = advance(state, f.mark.Keyspace, f.mark.High, f.mark.Until)
		}
	case storage.SyncEnd:
		cursors[Performance] = f.mark.Until
		return nil
	}
	return state
}

// advance returns a sync after the range of a keyspace that ends below high (empty: at the keyspace's end) has been received, as of until.
func advance(s *storage.SyncState, ks storage.KeyspaceID, high []byte, until wal.Position) *storage.SyncState {
	n := *s
	if until.Index > n.Until.Index {
		n.Until = until
	}
	n.Keyspace, n.Done = ks, high
	if len(high) == 0 {
		n.Keyspace, n.Done = after(ks), nil
	}
	return &n
}

// after returns the next possible id: all of ks is complete.
func after(ks storage.KeyspaceID) storage.KeyspaceID {
	for i := len(ks) - 1; i >= 0; i-- {
		ks[i]++
		if ks[i] != 0 {
			break
		}
	}
	return ks
}
