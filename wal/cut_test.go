package wal_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/wal"
)

// cutLog is a log of three segments: frames 1-2 3-4 | 5-6 7-8 | 9-10 11-12.
func cutLog(t *testing.T, cfg wal.Config) (*wal.Log, *maker) {
	t.Helper()
	cfg.SegmentEntries = 4
	l, _ := mustOpen(t, cfg)
	m := newMaker()
	for range 6 {
		mustAppend(t, l, m.frame("a", "b"))
	}
	return l, m
}

func TestACutLogEndsThereAndGoesOnWithOtherFrames(t *testing.T) {
	t.Parallel()
	for _, kept := range []int{0, 1, 2, 3, 4, 5, 6} {
		for _, ring := range []int64{1, 0} {
			dir := t.TempDir()
			l, m := cutLog(t, wal.Config{Dir: dir, RingBytes: ring})
			before := l.Reader(1)
			to, chain := wal.Position{}, wal.Hash{}
			if kept > 0 {
				to, chain = m.all[kept-1].Position(), m.all[kept-1].Chain
			}
			if err := l.Cut(to, nil); err != nil {
				t.Fatalf("cut after frame %d: %v", kept, err)
			}
			if at, c := l.End(); at != to || c != chain {
				t.Errorf("cut after frame %d: the log ends at %d", kept, at.Index)
			}
			if _, err := before.Next(context.Background()); !errors.Is(err, wal.ErrGone) {
				t.Errorf("a reader from before the cut: got %v, want ErrGone", err)
			}
			holds(t, l, m.all[:kept])
			m.all, m.chain, m.next, m.fork = m.all[:kept:kept], chain, to.Index+1, wal.Fork{2}
			mustAppend(t, l, m.frame("other", "ones"), m.frame("x"))
			holds(t, l, m.all)
			left := crash(t, dir)
			got, report, err := reopen(left)
			if err != nil || sameFrames(got, m.all) != nil || report.CutBytes != 0 {
				t.Errorf("cut after frame %d, reopened: %v, %+v, %v", kept, err, report, sameFrames(got, m.all))
			}
		}
	}
}

func TestACutIsRefusedWhereNoFrameEnds(t *testing.T) {
	t.Parallel()
	l, m := cutLog(t, wal.Config{Dir: t.TempDir()})
	if _, err := l.Truncate(5); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		to   wal.Position
		want error
	}{
		{"within a frame", wal.Position{Fork: wal.Fork{1}, Index: 7}, wal.ErrNotAnEnd},
		{"of another fork", wal.Position{Fork: wal.Fork{9}, Index: 8}, wal.ErrNotAnEnd},
		{"the end under another fork", wal.Position{Fork: wal.Fork{9}, Index: 12}, wal.ErrNotAnEnd},
		{"behind the end", wal.Position{Fork: wal.Fork{1}, Index: 13}, wal.ErrBeyondEnd},
		{"before the first", wal.Position{Fork: wal.Fork{1}, Index: 2}, wal.ErrGone},
	} {
		if err := l.Cut(tt.to, nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	holds(t, l, m.all[2:])
	if err := l.Cut(wal.Position{Fork: wal.Fork{1}, Index: 4}, nil); err != nil {
		t.Errorf("to the place before the first: %v", err)
	}
	holds(t, l, nil)
}

func TestACutIsMadeOrNotWhenItIsKilled(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		armed := false
		dir := t.TempDir()
		l, m := cutLog(t, wal.Config{Dir: dir, Seam: func(file string, commit func() error) error {
			if !armed || !strings.HasSuffix(file, "meta.db") {
				return commit()
			}
			if after {
				return errors.Join(commit(), errBoom)
			}
			return errBoom
		}})
		armed = true
		if err := l.Cut(m.all[2].Position(), map[string][]byte{"n": {1}}); !errors.Is(err, wal.ErrPoisoned) {
			t.Errorf("got %v, want ErrPoisoned", err)
		}
		l, _ = mustOpen(t, wal.Config{Dir: crash(t, dir)})
		want := m.all
		if after {
			want = m.all[:3]
		}
		holds(t, l, want)
		if made := len(l.Note("n")) > 0; made != after {
			t.Errorf("durable: %v, and the note is there: %v", after, made)
		}
	}
}
