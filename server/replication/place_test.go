package replication

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

var lineage = wal.Lineage{1}

func fork(name string) (f wal.Fork) { copy(f[:], name); return f }

// history reads "p1@1 d2@96 e3@120!b s4@41<130": fork p under ordinal 1 from index 1, then d, then e, which overrides fork b, then s, in another log, whose
// cluster had the one before up to 130.
func history(t testing.TB, text string) []engine.Reign {
	t.Helper()
	var out []engine.Reign
	for _, word := range strings.Fields(text) {
		word, left, another := strings.Cut(word, "<")
		word, overrides, _ := strings.Cut(word, "!")
		var name byte
		r := engine.Reign{Lineage: lineage}
		if _, err := fmt.Sscanf(word, "%c%d@%d", &name, &r.Ordinal, &r.Start); err != nil {
			t.Fatalf("%q: %v", word, err)
		}
		r.Fork = fork(string(name))
		for _, o := range overrides {
			r.Overrides = append(r.Overrides, fork(string(o)))
		}
		if len(out) > 0 {
			r.Parent, r.Lineage = out[len(out)-1].Fork, out[len(out)-1].Lineage
		}
		if another {
			r.Lineage[0]++
			if _, err := fmt.Sscan(left, &r.ParentEnd); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
		}
		out = append(out, r)
	}
	return out
}

func position(t testing.TB, text string) (p wal.Position) {
	t.Helper()
	if text == "" {
		return p
	}
	name, index, _ := strings.Cut(text, ":")
	if _, err := fmt.Sscan(index, &p.Index); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	p.Fork = fork(name)
	return p
}

func TestPlace(t *testing.T) {
	tests := []struct {
		name         string
		kind         Kind
		feeder, end  string // history and end of the feeder's log
		first, floor uint64
		caller, at   string // history that the caller has seen, and its place
		want         AnswerKind
		wantAt       string
		log, common  string // of the feeder, when it is not the set's history; of a rewind, when it has another name there
		conflict     bool
	}{
		{name: "an empty DR secondary", feeder: "p1@1", end: "p:100", want: Bootstrap},
		{name: "an empty secondary of an empty primary", want: Bootstrap},
		{name: "an empty secondary that has heard of the history", feeder: "p1@1", end: "p:100", caller: "p1@1", want: Bootstrap},
		{name: "on the running fork, behind", feeder: "p1@1", end: "p:100", caller: "p1@1", at: "p:90", want: Continue, wantAt: "p:90"},
		{name: "at the end", feeder: "p1@1", end: "p:100", caller: "p1@1", at: "p:100", want: Continue, wantAt: "p:100"},
		{name: "at the end, the log holds nothing any more", feeder: "p1@1", end: "p:100", first: 101, caller: "p1@1", at: "p:100", want: Continue, wantAt: "p:100"},
		{name: "the next entry is the first that is held", feeder: "p1@1", end: "p:100", first: 91, caller: "p1@1", at: "p:90", want: Continue, wantAt: "p:90"},
		{name: "the next entry is not held any more", feeder: "p1@1", end: "p:100", first: 92, caller: "p1@1", at: "p:90", want: Repair, wantAt: "p:90"},
		{name: "a cursor below the floor", kind: Performance, feeder: "p1@1", end: "p:100", floor: 91, caller: "p1@1", at: "p:90", want: Repair, wantAt: "p:90"},
		{name: "a cursor at the floor", kind: Performance, feeder: "p1@1", end: "p:100", floor: 90, caller: "p1@1", at: "p:90", want: Continue, wantAt: "p:90"},
		{name: "a DR secondary below a floor: it copies housekeeping as it is", feeder: "p1@1", end: "p:100", floor: 91, caller: "p1@1", at: "p:90", want: Continue, wantAt: "p:90"},
		{name: "the primary was restarted since", feeder: "p1@1 q1@101 r1@150", end: "r:160", caller: "p1@1", at: "p:90", want: Continue, wantAt: "p:90"},
		{name: "at the end of a fork before the last", feeder: "p1@1 q1@101 r1@150", end: "r:160", caller: "p1@1 q1@101", at: "q:149", want: Continue, wantAt: "q:149"},
		{name: "it knows forks that it has not reached", feeder: "p1@1 q1@101", end: "q:110", caller: "p1@1 q1@101", at: "p:90", want: Continue, wantAt: "p:90"},
		{name: "the same number under another fork is not the same place", feeder: "p1@1 d2@91", end: "d:100", caller: "p1@1", at: "p:100", want: Rewind, wantAt: "p:90"},

		// PROTOCOL 8: D (95) promoted; S at 90, 95, 98.
		{name: "D promoted at 95, S at 90", kind: Performance, feeder: "p1@1 d2@96", end: "d:200", caller: "p1@1", at: "p:90", want: Continue, wantAt: "p:90"},
		{name: "D promoted at 95, S at 95", kind: Performance, feeder: "p1@1 d2@96", end: "d:200", caller: "p1@1", at: "p:95", want: Continue, wantAt: "p:95"},
		{name: "D promoted at 95, S at 98", kind: Performance, feeder: "p1@1 d2@96", end: "d:200", caller: "p1@1", at: "p:98", want: Rewind, wantAt: "p:95"},
		{name: "D promoted and wrote nothing yet, S at 98", kind: Performance, feeder: "p1@1 d2@96", end: "p:95", caller: "p1@1", at: "p:98", want: Rewind, wantAt: "p:95"},

		// A (1-100), B promoted at 90, C at 95, C restored by recover (ordinal 3).
		{name: "A returns to B", feeder: "a1@1 b2@91", end: "b:120", caller: "a1@1", at: "a:100", want: Rewind, wantAt: "a:90"},
		{name: "A returns to C", feeder: "a1@1 c2@96 e3@130", end: "e:140", caller: "a1@1", at: "a:100", want: Rewind, wantAt: "a:95"},
		{name: "A joined B, then comes to C: nobody chose between them", feeder: "a1@1 c2@96 e3@130", end: "e:140", caller: "a1@1 b2@91", at: "b:120", want: Refuse, conflict: true},
		{name: "A joined C, then comes to B", feeder: "a1@1 b2@91", end: "b:120", caller: "a1@1 c2@96 e3@130", at: "e:135", want: Refuse, conflict: true},
		{name: "B comes to C", feeder: "a1@1 c2@96 e3@130", end: "e:140", caller: "a1@1 b2@91", at: "b:110", want: Refuse, conflict: true},
		{name: "C comes to B", feeder: "a1@1 b2@91", end: "b:120", caller: "a1@1 c2@96 e3@130", at: "e:140", want: Refuse, conflict: true},
		{name: "recover on C overrode B: A, which had joined B, rewinds to 90", feeder: "a1@1 c2@96 e3@130!b", end: "e:140", caller: "a1@1 b2@91", at: "b:120", want: Rewind, wantAt: "a:90"},
		{name: "recover on C overrode B: B is told so", feeder: "a1@1 b2@91", end: "b:120", caller: "a1@1 c2@96 e3@130!b", at: "e:140", want: Stale},

		{name: "recover on B, too, and later: B, overridden before, is the one", feeder: "a1@1 b2@91 f4@121!ce", end: "f:130", caller: "a1@1 c2@96 e3@130!b", at: "e:140", want: Rewind, wantAt: "a:90"},
		{name: "and C is told so", feeder: "a1@1 c2@96 e3@130!b", end: "e:140", caller: "a1@1 b2@91 f4@121!ce", at: "f:130", want: Stale},
		{name: "recover on both before they have met", feeder: "a1@1 b2@91 f3@121!c", end: "f:130", caller: "a1@1 c2@96 e3@130!b", at: "e:140", want: Refuse, conflict: true},

		// The feeder is out of date.
		{name: "the caller saw a promotion that left inside the feeder's reign", feeder: "p1@1 q1@50", end: "q:100", caller: "p1@1 q1@50 d2@96", at: "d:97", want: Stale},
		{name: "that left at an earlier opening of the same reign", feeder: "p1@1 q1@97", end: "q:100", caller: "p1@1 d2@96", at: "d:97", want: Stale},
		{name: "that left at the feeder's end", feeder: "p1@1", end: "p:95", caller: "p1@1 d2@96", at: "d:97", want: Stale},
		{name: "seen, not reached, by an empty secondary", feeder: "p1@1", end: "p:95", caller: "p1@1 d2@96", want: Stale},

		// The writer's disk was restored or cloned.
		{name: "the caller holds more of the running fork", feeder: "p1@1", end: "p:80", caller: "p1@1", at: "p:98", want: Restored},
		{name: "restored at 80, reopened, wrote to 130", feeder: "p1@1 r1@81", end: "r:130", caller: "p1@1", at: "p:98", want: Restored},
		{name: "restored at 80, the caller knows a later opening", feeder: "p1@1", end: "p:80", caller: "p1@1 q1@90", at: "q:98", want: Restored},
		{name: "restored at 80, both went on", feeder: "p1@1 r1@81", end: "r:130", caller: "p1@1 q1@90", at: "q:98", want: Restored},
		{name: "recover after the restore, caller beyond", feeder: "p1@1 s2@81", end: "s:90", caller: "p1@1 q1@90", at: "q:98", want: Rewind, wantAt: "p:80"},
		{name: "recover after writing on, caller beyond", feeder: "p1@1 r1@81 s2@131", end: "s:140", caller: "p1@1", at: "p:98", want: Rewind, wantAt: "p:80"},
		{name: "recover after the restore, caller before it", feeder: "p1@1 s2@81", end: "s:90", caller: "p1@1 q1@90", at: "p:70", want: Continue, wantAt: "p:70"},

		// S had p up to 95 when it was promoted; its own log was at 40, and p:90 is its 30th entry, p:95 its 35th.
		{name: "another log: the caller was where S is", kind: Performance, feeder: "p1@1 s2@41<95", log: "x1@1 s2@41", end: "s:60", caller: "p1@1", at: "p:95", want: Continue, wantAt: "x:35"},
		{name: "another log: the caller was behind S", kind: Performance, feeder: "p1@1 s2@41<95", log: "x1@1 s2@41", end: "s:60", caller: "p1@1", at: "p:90", want: Continue, wantAt: "x:30"},
		{name: "another log: the caller is ahead of S", kind: Performance, feeder: "p1@1 s2@41<95", log: "x1@1 s2@41", end: "s:60", caller: "p1@1", at: "p:98", want: Rewind, wantAt: "x:35", common: "p:95"},
		{name: "another log: the former primary was reopened since", kind: Performance, feeder: "p1@1 s2@41<95", log: "x1@1 s2@41", end: "s:60", caller: "p1@1 q1@97", at: "q:98", want: Rewind, wantAt: "x:35", common: "p:95"},
		{name: "another log: what follows is not held any more", kind: Performance, feeder: "p1@1 s2@41<95", log: "x1@1 s2@41", first: 36, end: "s:60", caller: "p1@1", at: "p:90", want: Repair},
		{name: "another log: a sync lies between", kind: Performance, feeder: "p1@1 s2@41<95", log: "x1@1 s2@41", floor: 33, end: "s:60", caller: "p1@1", at: "p:90", want: Repair, wantAt: "x:30"},
		{name: "another log: a rewind behind a sync", kind: Performance, feeder: "p1@1 s2@41<95", log: "x1@1 s2@41", floor: 38, end: "s:60", caller: "p1@1", at: "p:98", want: Repair, wantAt: "x:35"},
		{name: "in this log, before its reign", kind: Performance, feeder: "p1@1 s2@41<95", log: "x1@1 s2@41", end: "s:60", caller: "p1@1 s2@41<95", at: "x:33", want: Continue, wantAt: "x:33"},
		{name: "in this log, in its reign", kind: Performance, feeder: "p1@1 s2@41<95", log: "x1@1 s2@41", end: "s:60", caller: "p1@1 s2@41<95", at: "s:50", want: Continue, wantAt: "s:50"},
		{name: "the former primary comes back to the secondary of a set of its own log", kind: Performance, feeder: "p1@1 s2@41<95 r3@150<60", log: "p1@1 q1@96 r3@150", end: "r:160", caller: "p1@1", at: "p:90", want: Continue, wantAt: "p:90"},
		{name: "the caller has what was lost at the first promotion", kind: Performance, feeder: "p1@1 s2@41<95 r3@150<60", log: "p1@1 q1@97 r3@150", end: "r:160", caller: "p1@1", at: "p:96", want: Rewind, wantAt: "p:95", common: "p:95"},
		{name: "promoted away in another log: the feeder is stale", kind: Performance, feeder: "p1@1", log: "p1@1", end: "p:100", caller: "p1@1 s2@41<95", at: "s:50", want: Stale},

		{name: "the feeder took its own end back before it was promoted again: its entries after 95 count no more", kind: Performance, feeder: "p1@1 r3@150<95", log: "p1@1 r3@150", end: "r:160", floor: 120, caller: "p1@1", at: "p:97", want: Repair, wantAt: "p:95", common: "p:95"},

		{name: "a fork that nobody here knows", feeder: "p1@1", end: "p:100", caller: "", at: "x:50", want: Refuse},
		{name: "another tree altogether", feeder: "p1@1", end: "p:100", caller: "x1@1", at: "x:50", want: Refuse, conflict: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &feederPlace{Kind: tt.kind, Set: "s", Version: "0.1.0", History: history(t, tt.feeder), End: position(t, tt.end), First: tt.first, Floor: tt.floor}
			if f.Kind == "" {
				f.Kind = DR
			}
			c := &callerPlace{Set: "s", Version: "0.1.0", Lineage: lineage, History: history(t, tt.caller), Place: position(t, tt.at)}
			if tt.log != "" {
				f.Log = history(t, tt.log)
				f.After = func(p wal.Position) (uint64, bool) { return p.Index - 60, p.Index-60+1 >= tt.first }
			}
			got := place(f, c)
			if tt.common != "" && got.Common != position(t, tt.common) {
				t.Errorf("in common: got %v, want %s", got.Common, tt.common)
			}
			if got.Kind != tt.want || got.At != position(t, tt.wantAt) || got.Conflict != tt.conflict {
				t.Errorf("got %v at %v (conflict %v: %s), want %v at %q (conflict %v)", got.Kind, got.At, got.Conflict, got.Reason, tt.want, tt.wantAt, tt.conflict)
			}
			if got.Kind != Continue && got.Reason == "" {
				t.Error("no reason")
			}
		})
	}
}

func TestPlaceRefusesBeforeItLooksAtHistories(t *testing.T) {
	f := feederPlace{Kind: DR, Set: "s", Version: "0.3.1", History: history(t, "p1@1 q2@80"), End: position(t, "q:100"),
		Chain: func(index uint64) (wal.Hash, bool) { return wal.Hash{7}, index >= 50 }}
	c := callerPlace{Set: "s", Version: "0.3.0", Lineage: lineage, History: history(t, "p1@1 q2@80"), Place: position(t, "q:90")}
	tests := []struct {
		name   string
		change func(*callerPlace)
		want   AnswerKind
	}{
		{"nothing wrong", func(*callerPlace) {}, Continue},
		{"foreign set", func(c *callerPlace) { c.Set = "x" }, Refuse},
		{"foreign lineage", func(c *callerPlace) { c.Lineage = wal.Lineage{2} }, Refuse},
		{"an older release", func(c *callerPlace) { c.Version = "0.2.9" }, Refuse},
		{"one release newer", func(c *callerPlace) { c.Version = "0.4.0" }, Continue},
		{"two releases newer", func(c *callerPlace) { c.Version = "0.5.0" }, Refuse},
		{"a version that is none", func(c *callerPlace) { c.Version = "latest" }, Refuse},
		{"the hash agrees", func(c *callerPlace) { c.Chain = wal.Hash{7} }, Continue},
		{"the hash differs: a hash verifies a place", func(c *callerPlace) { c.Chain = wal.Hash{8} }, Repair},
		{"the hash is not held here any more", func(c *callerPlace) { c.Chain = wal.Hash{8}; c.Place.Index = 40 }, Continue},
		{"another caller of this identity has a newer log", func(c *callerPlace) {
			c.Log, c.Identity = history(t, "s1@1"), history(t, "s1@1 t2@90")
		}, Superseded},
		{"this caller's disk was restored: it had copied more before", func(c *callerPlace) {
			c.Log, c.Identity = history(t, "p1@1"), history(t, "p1@1 q2@80")
		}, Continue},
		{"another caller of this identity has an older log", func(c *callerPlace) {
			c.Log, c.Identity = history(t, "s1@1 t2@90"), history(t, "s1@1")
		}, Continue},
	}
	for _, tt := range tests {
		c := c
		tt.change(&c)
		if got := place(&f, &c); got.Kind != tt.want {
			t.Errorf("%s: got %v (%s), want %v", tt.name, got.Kind, got.Reason, tt.want)
		}
	}
}

// ---- the slow obvious twin: logs as lists of entries

type entryID struct {
	fork    wal.Fork
	ordinal uint64
}

// copyOf is one cluster's log, entry by entry, and what it has seen of the set.
type copyOf struct {
	log  []entryID
	seen []engine.Reign // what its log says, and what it heard
}

func (c *copyOf) history() []engine.Reign { return c.seen }

func (c *copyOf) end() wal.Position {
	if len(c.log) == 0 {
		return wal.Position{}
	}
	return wal.Position{Fork: c.log[len(c.log)-1].fork, Index: uint64(len(c.log))}
}

// historyOf reads a history from entries.
func historyOf(log []entryID) []engine.Reign {
	var out []engine.Reign
	for i, e := range log {
		if len(out) == 0 || out[len(out)-1].Fork != e.fork {
			r := engine.Reign{Lineage: lineage, Ordinal: e.ordinal, Fork: e.fork, Start: uint64(i + 1)}
			if len(out) > 0 {
				r.Parent = out[len(out)-1].Fork
			}
			out = append(out, r)
		}
	}
	return out
}

func commonPrefix(a, b []entryID) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// randomTree makes copies of one log that were written, reopened, copied in part, promoted and restored at random.
func randomTree(rng *rand.Rand) []*copyOf {
	all := []*copyOf{{}}
	forks := 0
	write := func(c *copyOf, ordinal uint64) {
		forks++
		for range 1 + rng.IntN(4) {
			c.log = append(c.log, entryID{fork(fmt.Sprint("f", forks)), ordinal})
		}
	}
	write(all[0], 1)
	for range 2 + rng.IntN(12) {
		c := all[rng.IntN(len(all))]
		last := c.log[len(c.log)-1].ordinal
		switch rng.IntN(4) {
		case 0: // opened again by its writer
			write(c, last)
		case 1: // a secondary that copied a part
			all = append(all, &copyOf{log: append([]entryID(nil), c.log[:1+rng.IntN(len(c.log))]...)})
		case 2: // promoted
			write(c, last+1)
		case 3: // goes on writing under its fork
			c.log = append(c.log, c.log[len(c.log)-1])
		}
	}
	for _, c := range all {
		c.seen = historyOf(c.log)
	}
	return all
}

func TestPlaceAgreesWithLogsComparedEntryByEntry(t *testing.T) {
	t.Parallel()
	counts := map[AnswerKind]int{}
	for seed := range uint64(scaled(1500)) {
		rng := rand.New(rand.NewPCG(seed, 1))
		all := randomTree(rng)
		for _, f := range all {
			for _, c := range all {
				first := uint64(1 + rng.IntN(len(f.log)+1))
				got := place(
					&feederPlace{Kind: DR, Set: "s", Version: "1.0.0", History: f.history(), End: f.end(), First: first},
					&callerPlace{Set: "s", Version: "1.0.0", Lineage: lineage, History: c.history(), Place: c.end()})
				counts[got.Kind]++
				common := commonPrefix(f.log, c.log)
				prefix := common == len(c.log)
				name := fmt.Sprintf("seed %d: feeder %v, caller %v: %v at %d", seed, f.log, c.log, got.Kind, got.At.Index)
				switch {
				case prefix && uint64(common)+1 >= first && got.Kind != Continue:
					t.Fatalf("%s: want CONTINUE: the caller's log is the beginning of the feeder's, and held from %d", name, first)
				case prefix && uint64(common)+1 < first && got.Kind != Repair:
					t.Fatalf("%s: want REPAIR: the log is held from %d only", name, first)
				case !prefix && (got.Kind == Continue || got.Kind == Repair && uint64(common)+1 >= first):
					t.Fatalf("%s: the caller has entries that the feeder lacks, and the log is held from %d", name, first)
				case got.Kind == Rewind && uint64(common)+1 < first:
					t.Fatalf("%s: want REPAIR: the log is held from %d only", name, first)
				case got.Kind == Rewind && got.At.Index != uint64(common):
					t.Fatalf("%s: want it at %d", name, common)
				case (got.Kind == Continue || got.Kind == Rewind) && got.At.Index > 0 && got.At.Fork != f.log[got.At.Index-1].fork:
					t.Fatalf("%s: the fork there is another", name)
				}
			}
		}
	}
	for _, k := range []AnswerKind{Continue, Repair, Rewind, Refuse, Stale, Restored} {
		if counts[k] < 40 {
			t.Errorf("the random trees gave %v only %d times", k, counts[k])
		}
	}
}

func TestHistoriesCompareTheSameFromEitherSide(t *testing.T) {
	t.Parallel()
	for seed := range uint64(scaled(1500)) {
		all := randomTree(rand.New(rand.NewPCG(seed, 2)))
		for _, a := range all {
			for _, b := range all {
				x, y := compareHistories(a.seen, b.seen), compareHistories(b.seen, a.seen)
				name := fmt.Sprintf("seed %d: %v, %v", seed, a.log, b.log)
				if x == historyNewer && y != historyKnown {
					t.Fatalf("%s: newer from one side, %d from the other", name, y)
				}
				if (x == historyConflict) != (y == historyConflict) {
					t.Fatalf("%s: a conflict from one side only (%d, %d)", name, x, y)
				}
			}
		}
	}
}

func TestVersions(t *testing.T) {
	for _, tt := range []struct {
		primary, secondary string
		fit                bool
	}{
		{"0.1.0", "0.1.0", true}, {"v0.1.0-dev", "0.1.4+abc", true}, {"0.1", "0.2.0", true},
		{"0.2.0", "0.1.9", false}, {"0.1.0", "0.3.0", false}, {"1.0.0", "2.0.0", false}, {"2.0.0", "1.9.0", false},
		{"", "0.1.0", false}, {"0.1.0", "x.y.z", false}, {"0.1.0", "0.-1.0", false}, {"0.1.0.0", "0.1.0", false},
	} {
		if got := versionsFit(tt.primary, tt.secondary); (got == "") != tt.fit {
			t.Errorf("primary %s, secondary %s: got %q, want fit %v", tt.primary, tt.secondary, got, tt.fit)
		}
	}
}
