package wal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"testing"

	"github.com/lockstepdb/lockstep/wal"
)

// twin is the slow obvious log: a slice of frames of which retention hides a part.
type twin struct {
	*maker
	from int // frames before are gone
	log  *wal.Log
	cfg  wal.Config
	rng  *rand.Rand
}

func TestRandomCallsGiveWhatASliceOfFramesGives(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 1))
		cfg := wal.Config{Dir: t.TempDir(), SegmentBytes: 4 << 10, RingBytes: int64(1 + rng.IntN(20_000))}
		if seed%2 == 0 {
			cfg.SegmentBytes, cfg.SegmentEntries = 64<<10, 3+rng.IntN(40)
		}
		l, _ := mustOpen(t, cfg)
		w := &twin{maker: newMaker(), log: l, cfg: cfg, rng: rng}
		for step := range 100 {
			name := w.step(t)
			if err := w.compare(); err != nil {
				t.Fatalf("seed %d, step %d, after %s: %v", seed, step, name, err)
			}
			if step%25 == 24 {
				holds(t, w.log, w.all[w.from:])
			}
		}
	}
}

func (w *twin) step(t *testing.T) string {
	switch w.rng.IntN(10) {
	case 0:
		if err := w.log.Rotate(); err != nil {
			t.Fatal(err)
		}
		return "rotate"
	case 1:
		w.truncate(t)
		return "truncate"
	case 4:
		w.cut(t)
		return "cut"
	case 2: // as after a kill: what is on disk now, without Close
		w.cfg.Dir = crash(t, w.cfg.Dir)
		_ = w.log.Close()
		w.log, _ = mustOpen(t, w.cfg)
		w.fork[1]++
		return "crash"
	case 3:
		if err := w.log.Close(); err != nil {
			t.Fatal(err)
		}
		w.log, _ = mustOpen(t, w.cfg)
		return "reopen"
	}
	var frames []*wal.Frame
	for range 1 + w.rng.IntN(4) {
		frames = append(frames, w.sized(1+w.rng.IntN(6), w.rng.IntN(1500)))
	}
	mustAppend(t, w.log, frames...)
	return fmt.Sprint("append ", len(frames))
}

// cut takes back a few frames, perhaps all, to the end of one or to where the log begins.
func (w *twin) cut(t *testing.T) {
	n := max(w.from, len(w.all)-w.rng.IntN(8))
	to, chain := wal.Position{}, wal.Hash{}
	if n > 0 {
		to, chain = w.all[n-1].Position(), w.all[n-1].Chain
	}
	if err := w.log.Cut(to, map[string][]byte{"cut": {byte(n)}}); err != nil {
		t.Fatalf("cutting the log after %d: %v", to.Index, err)
	}
	if got := w.log.Note("cut"); len(got) != 1 || got[0] != byte(n) {
		t.Fatalf("the note of the cut: got %v, want %d", got, byte(n))
	}
	w.all, w.chain, w.next = w.all[:n], chain, to.Index+1
	w.fork[2]++
}

func (w *twin) truncate(t *testing.T) {
	below := w.log.First() + uint64(w.rng.IntN(150))
	if _, err := w.log.Truncate(below); err != nil {
		t.Fatal(err)
	}
	first := w.log.First()
	for w.from < len(w.all) && w.all[w.from].First < first {
		if w.all[w.from].Last() >= below {
			t.Fatalf("truncate below %d dropped the frame of %d to %d", below, w.all[w.from].First, w.all[w.from].Last())
		}
		w.from++
	}
}

func (w *twin) compare() error {
	at, chain := w.log.End()
	if at.Index != w.next-1 || chain != w.chain {
		return fmt.Errorf("end: got %d, want %d", at.Index, w.next-1)
	}
	for range 5 {
		index := 1 + w.rng.Uint64N(w.next+3)
		f, err := w.log.Frame(index)
		switch {
		case index >= w.next:
			if !errors.Is(err, wal.ErrBeyondEnd) {
				return fmt.Errorf("frame %d: got %v, want ErrBeyondEnd", index, err)
			}
		case index < w.log.First():
			if !errors.Is(err, wal.ErrGone) {
				return fmt.Errorf("frame %d: got %v, want ErrGone", index, err)
			}
		case err != nil:
			return fmt.Errorf("frame %d: %w", index, err)
		default:
			i := sort.Search(len(w.all), func(i int) bool { return w.all[i].Last() >= index })
			if !same(f, w.all[i]) {
				return fmt.Errorf("frame %d: got %+v, want %+v", index, f.Header, w.all[i].Header)
			}
		}
	}
	return nil
}
