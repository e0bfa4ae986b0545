package chaos

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// story makes histories by hand: one operation after the other, each a millisecond long, a millisecond apart.
type story struct {
	primary, second, reader *member
	ops                     []*op
	reigns                  []*reign
	index                   uint64
	clock                   time.Duration
	archived                *archived
	fenced                  []fenced
	shots                   []*shot
	levels                  []*level
	released                []release
}

func newStory() *story {
	s := &story{primary: &member{name: "a"}, second: &member{name: "b"}, reader: &member{name: "s"}}
	s.reigns = []*reign{{number: 1, on: s.primary, planned: true}}
	return s
}

func (s *story) add(o *op) *op {
	s.clock += 2 * time.Millisecond
	if o.call, o.ret = s.clock, s.clock+time.Millisecond; o.on == nil {
		r := s.reigns[len(s.reigns)-1]
		o.on, o.direct = r.on, true
	}
	if o.reign == 0 {
		o.reign = len(s.reigns)
	}
	o.id = len(s.ops)
	if o.kind.writes() && o.outcome == done && !o.mismatch {
		s.index++
		o.at = place{fmt.Sprint(o.reign), s.index}
		o.token = fmt.Sprint("token ", s.index, " of ", o.reign)
	}
	if o.kind.writes() && o.kind != remove && o.value == "" {
		o.value = fmt.Sprint("v", o.id)
	}
	s.ops = append(s.ops, o)
	return o
}

// write is an acknowledged one; version is that of the key after it.
func (s *story) write(key string, version int) *op {
	return s.add(&op{kind: put, key: key, version: version})
}

// read shows what x wrote, nil: nothing.
func (s *story) read(on *member, key string, x *op, version int) *op {
	o := &op{kind: read, key: key, on: on, version: version}
	if x != nil {
		o.found, o.got = true, x.value
	}
	return s.add(o)
}

// promote begins a reign of b that has everything up to kept.
func (s *story) promote(kept, lost *op, planned bool) {
	s.clock += 2 * time.Millisecond
	s.reigns[len(s.reigns)-1].last = s.clock
	s.reigns = append(s.reigns, &reign{number: len(s.reigns) + 1, on: s.second, planned: planned, first: s.clock, kept: kept, lost: lost})
}

// stays lets a successor begin by force while the former primary goes on, and returns the write that both have.
func (s *story) stays() *op {
	x := s.write("kv/k0", 0)
	s.promote(x, nil, false)
	s.reigns[0].last = 0
	return x
}

// snapshot is one of the present primary, taken in a millisecond after another, at an index, with values by key.
func (s *story) snapshot(index uint64, shows map[string]string) {
	s.clock += 2 * time.Millisecond
	r := s.reigns[len(s.reigns)-1]
	s.shots = append(s.shots, &shot{on: r.on, reign: r.number, call: s.clock, ret: s.clock + time.Millisecond, index: index, shows: shows})
}

// wait lets the primary wait for all secondaries of a set.
func (s *story) wait(kind cluster.Kind) {
	s.clock += 2 * time.Millisecond
	s.levels = append(s.levels, &level{kind: kind, on: s.primary, reign: len(s.reigns), from: s.clock})
}

// told lets the first primary's status show that it is fenced.
func (s *story) told(kind cluster.Kind) {
	s.clock += 2 * time.Millisecond
	s.fenced = append(s.fenced, fenced{s.primary, kind, s.clock, s.clock + time.Millisecond})
}

func (s *story) judge() []string {
	t := newTally()
	v := &verdict{ops: s.ops, reigns: s.reigns, calm: func(*op) bool { return true }, tally: t, archived: s.archived, fenced: s.fenced, shots: s.shots, levels: s.levels, released: s.released}
	v.attribute(func(fork string) (n int, ok bool) {
		_, err := fmt.Sscan(fork, &n)
		return n, err == nil && n > 0 && n <= len(s.reigns)
	})
	v.judge()
	return v.faults
}

// TestAWriteOfAReplacedPrimaryIsNotAskedFor: a paused primary acknowledges a write when its successor reigns. The reign after that is not asked for it: what it
// lacks would seem to begin there, and with it everything that its predecessor wrote.
func TestAWriteOfAReplacedPrimaryIsNotAskedFor(t *testing.T) {
	s := newStory()
	first, last := s.write("kv/k0", 0), s.write("kv/k0", 0)
	s.promote(last, nil, false)
	stray := s.add(&op{kind: put, key: "kv/k1", reign: 1, on: s.primary})
	next := s.write("kv/k2", 0)
	w := &world{reigns: s.reigns}
	for _, tc := range []struct {
		name string
		o    *op
		gone bool
	}{{"kept", first, false}, {"the last that was kept", last, false}, {"acknowledged since", stray, true}, {"the successor's own", next, false}} {
		if got := w.gone(tc.o); got != tc.gone {
			t.Errorf("%s: gone %t, want %t", tc.name, got, tc.gone)
		}
	}
}

// TestTheJudgeFindsWhatTheModelDoesNotAllow tells histories, good ones and bad ones.
func TestTheJudgeFindsWhatTheModelDoesNotAllow(t *testing.T) {
	const v1, v2 = "kv/k0", "secret/s0"
	for _, tc := range []struct {
		name string
		tell func(s *story)
		want string // part of the fault; "" when there is none
	}{
		{"writes and reads in order", func(s *story) {
			s.read(nil, v2, nil, 0)
			s.write(v2, 1)
			x := s.write(v2, 2)
			s.read(nil, v2, x, 2)
			s.add(&op{kind: remove, key: v2})
			s.read(nil, v2, nil, 2)
			s.add(&op{kind: cas, key: v2, expect: 2, version: 3})
		}, ""},
		{"a read that misses an acknowledged write", func(s *story) {
			x := s.write(v1, 0)
			s.write(v1, 0)
			s.read(nil, v1, x, 0)
		}, "fits no order"},
		{"a version that was counted twice", func(s *story) {
			s.write(v2, 1)
			s.write(v2, 1)
		}, "fits no order"},
		{"two winners of one check-and-set", func(s *story) {
			s.write(v2, 1)
			s.add(&op{kind: cas, key: v2, expect: 1, version: 2})
			s.add(&op{kind: cas, key: v2, expect: 1, version: 3})
		}, "fits no order"},
		{"a check-and-set refused although the version is right", func(s *story) {
			s.write(v2, 1)
			s.add(&op{kind: cas, key: v2, expect: 1, mismatch: true})
		}, "fits no order"},
		{"an unknown outcome that happened later", func(s *story) {
			x := s.add(&op{kind: put, key: v2, outcome: unknown})
			s.read(nil, v2, nil, 0)
			s.read(nil, v2, x, 1)
		}, ""},
		{"an unknown outcome that happened and was undone", func(s *story) {
			x := s.add(&op{kind: put, key: v1, outcome: unknown})
			s.read(nil, v1, x, 0)
			s.read(nil, v1, nil, 0)
		}, "fits no order"},
		{"a refused write that is read", func(s *story) {
			x := s.add(&op{kind: put, key: v1, outcome: refused})
			s.read(s.reader, v1, x, 0)
		}, "read what was refused"},
		{"a value that nobody wrote", func(s *story) {
			s.read(s.reader, v1, &op{value: "strange"}, 0)
		}, "nobody wrote"},
		{"a promotion that keeps everything", func(s *story) {
			x := s.write(v2, 1)
			s.promote(x, nil, true)
			s.read(nil, v2, x, 1)
			s.write(v2, 2)
		}, ""},
		{"a planned change that loses a write and says so", func(s *story) {
			x, y := s.write(v2, 1), s.write(v2, 2)
			s.promote(x, y, true)
			s.read(nil, v2, x, 1)
		}, "lost by a planned change"},
		{"a promotion that loses a write and does not say so", func(s *story) {
			x, y := s.write(v2, 1), s.write(v2, 2)
			s.promote(y, nil, true)
			s.read(nil, v2, x, 1)
		}, "fits no order"},
		{"a forced promotion that leaves behind what it says", func(s *story) {
			x, y := s.write(v2, 1), s.write(v2, 2)
			s.promote(x, y, false)
			s.read(nil, v2, x, 1)
			s.write(v2, 2)
		}, ""},
		{"a forced promotion that leaves behind more than it says", func(s *story) {
			x, y := s.write(v2, 1), s.write(v2, 2)
			z := s.write(v1, 0)
			s.promote(y, z, false)
			s.read(nil, v2, x, 1)
		}, "fits no order"},
		{"a forced promotion that keeps what it calls lost", func(s *story) {
			x, y := s.write(v2, 1), s.write(v2, 2)
			s.promote(x, y, false)
			s.read(nil, v2, y, 2)
		}, "fits no order"},
		{"a lost write that is archived, by its place", func(s *story) {
			x, y := s.write(v2, 1), s.write(v2, 2)
			s.promote(x, y, false)
			s.archived = &archived{places: map[place]bool{y.at: true}}
		}, ""},
		{"a lost write that is in no archive", func(s *story) {
			x, y := s.write(v2, 1), s.write(v2, 2)
			s.promote(x, y, false)
			s.archived = &archived{places: map[place]bool{x.at: true}}
		}, "in no archive"},
		{"a former primary that goes on alone", func(s *story) {
			x := s.write(v2, 1)
			s.promote(x, nil, false)
			s.reigns[0].last = 0
			y := s.add(&op{kind: put, key: v2, version: 2, on: s.primary, direct: true, reign: 1})
			s.write(v2, 2)
			s.add(&op{kind: read, key: v2, on: s.primary, direct: true, reign: 1, found: true, got: y.value, version: 2})
		}, ""},
		{"a delete that a secondary sent to a former primary, where it found nothing", func(s *story) {
			x := s.write(v2, 1)
			s.promote(x, nil, false)
			o := s.add(&op{kind: remove, key: v2, on: s.reader})
			o.at, o.token = place{}, ""
			s.read(nil, v2, x, 1)
		}, ""},
		{"a secondary that is behind and goes on", func(s *story) {
			x := s.write(v1, 0)
			y := s.write(v1, 0)
			s.read(s.reader, v1, x, 0)
			s.read(s.reader, v1, y, 0)
		}, ""},
		{"a secondary that goes back", func(s *story) {
			x := s.write(v1, 0)
			y := s.write(v1, 0)
			s.read(s.reader, v1, y, 0)
			s.read(s.reader, v1, x, 0)
		}, "is behind what it had shown"},
		{"a secondary that shows a write without one before it", func(s *story) {
			s.write(v1, 0)
			y := s.write(v2, 1)
			s.read(s.reader, v2, y, 1)
			s.read(s.reader, v1, nil, 0)
		}, "is behind what it had shown"},
		{"a secondary that is behind an index token", func(s *story) {
			s.write(v1, 0)
			y := s.write(v2, 1)
			s.add(&op{kind: read, key: v1, on: s.reader, asked: y.token})
		}, "is behind what it had shown or was asked for"},
		{"a secondary that shows a deleted record again", func(s *story) {
			x := s.write(v1, 0)
			s.add(&op{kind: remove, key: v1})
			y := s.write(v2, 1)
			s.read(s.reader, v2, y, 1)
			s.read(s.reader, v1, x, 0)
		}, "is behind what it had shown"},
		{"a secondary that shows a record after a delete that found nothing", func(s *story) {
			x := s.write(v1, 0)
			s.add(&op{kind: remove, key: v1})
			y := s.write(v1, 0)
			z := s.write(v2, 1)
			// Its place is that of the state that it saw.
			s.add(&op{kind: remove, key: v1, on: s.primary, direct: true, reign: 1}).at = place{"1", 3}
			s.ops[len(s.ops)-1].call = x.ret
			s.ops[len(s.ops)-1].ret = y.ret
			s.read(s.reader, v2, z, 1)
			s.read(s.reader, v1, y, 0)
		}, ""},
		{"a secondary that shows a lost write after what came in its place", func(s *story) {
			x, y := s.write(v1, 0), s.write(v1, 0)
			s.promote(x, y, false)
			z := s.write(v2, 1)
			s.read(s.reader, v2, z, 1)
			s.read(s.reader, v1, y, 0)
		}, "is behind what it had shown"},
		{"an index token called lost whose write is there", func(s *story) {
			x := s.write(v1, 0)
			s.add(&op{kind: read, key: v1, on: s.reader, asked: x.token, outcome: refused, status: 409, detail: "was lost"})
		}, "is answered as lost"},
		{"a list without a key", func(s *story) {
			s.write(v2, 1)
			s.add(&op{kind: list, key: v2, found: true})
		}, "missing in a list"},
		{"a list with a key that was refused", func(s *story) {
			s.add(&op{kind: put, key: v2, outcome: refused})
			s.add(&op{kind: list, key: v2, found: true, names: []string{"s0"}})
		}, "never written"},
		{"a write under a fork of nobody", func(s *story) {
			s.write(v1, 0).at.fork = "77"
		}, "fork that no primary had"},
		{"a fenced primary that refuses what it is asked for afterwards", func(s *story) {
			x := s.stays()
			s.told(cluster.DR)
			s.add(&op{kind: put, key: v1, reign: 1, on: s.primary, direct: true, outcome: refused, detail: "this cluster is fenced and takes no writes: b was promoted"})
			s.read(nil, v1, x, 0)
		}, ""},
		{"a fenced primary, by its status, that acknowledges a write", func(s *story) {
			s.stays()
			s.told(cluster.DR)
			s.add(&op{kind: put, key: v1, reign: 1, on: s.primary, direct: true})
		}, "had said"},
		{"a fenced primary, by an answer to a client, that acknowledges a write that another cluster forwards", func(s *story) {
			s.stays()
			s.add(&op{kind: put, key: v1, reign: 1, on: s.primary, direct: true, outcome: refused, detail: "this cluster is fenced and takes no writes to what is shared: b was promoted"})
			s.add(&op{kind: put, key: v1, reign: 1, on: s.reader})
		}, "had said"},
		{"a write that was asked for before the primary said that it is fenced", func(s *story) {
			s.stays()
			s.add(&op{kind: put, key: v1, reign: 1, on: s.primary, direct: true})
			s.told(cluster.DR)
			s.fenced[0].to = s.ops[1].ret
		}, ""},
		{"a delete that finds nothing on a fenced primary, and is answered as done", func(s *story) {
			s.stays()
			s.told(cluster.DR)
			s.add(&op{kind: remove, key: v2, reign: 1, on: s.primary, direct: true}).at = place{}
		}, "had said"},
		{"a delete that finds something on a fenced primary", func(s *story) {
			s.stays()
			s.told(cluster.DR)
			s.add(&op{kind: remove, key: v1, reign: 1, on: s.primary, direct: true})
		}, "had said"},
		{"a fenced primary that was demoted, and takes writes again when it is promoted", func(s *story) {
			s.stays()
			s.told(cluster.DR)
			s.released = append(s.released, release{on: s.primary, kind: cluster.DR, at: s.clock + 1})
			s.add(&op{kind: put, key: v1, reign: 1, on: s.primary, direct: true})
		}, ""},
		{"a fenced primary that says so while it is being demoted, and takes writes again when it is promoted", func(s *story) {
			s.stays()
			at := s.clock + 1
			s.told(cluster.DR)
			s.released = append(s.released, release{on: s.primary, kind: cluster.DR, at: at, end: s.clock + 1})
			s.add(&op{kind: put, key: v1, reign: 1, on: s.primary, direct: true})
		}, ""},
		{"a fenced primary that says so after it was demoted, and takes a write", func(s *story) {
			s.stays()
			at := s.clock
			s.told(cluster.DR)
			s.released = append(s.released, release{on: s.primary, kind: cluster.DR, at: at, end: at + 1})
			s.add(&op{kind: put, key: v1, reign: 1, on: s.primary, direct: true})
		}, "had said"},
		{"a fenced primary that was demoted in its other set, and takes a write", func(s *story) {
			s.stays()
			s.told(cluster.DR)
			s.released = append(s.released, release{on: s.primary, kind: cluster.Performance, at: s.clock + 1})
			s.add(&op{kind: put, key: v1, reign: 1, on: s.primary, direct: true})
		}, "had said"},
		{"a snapshot of the moment at which it was taken", func(s *story) {
			x, y := s.write(v1, 0), s.write(v2, 1)
			s.add(&op{kind: remove, key: v2})
			s.write("kv/k1", 0)
			s.add(&op{kind: remove, key: "kv/k1"})
			s.snapshot(5, map[string]string{v1: x.value, v2: y.value})
			s.write(v1, 0)
		}, ""},
		{"a snapshot without what was acknowledged before it", func(s *story) {
			s.write(v1, 0)
			s.snapshot(1, map[string]string{})
		}, "lacks"},
		{"a snapshot that ends before what was acknowledged before it", func(s *story) {
			x := s.write(v1, 0)
			s.write(v1, 0)
			s.snapshot(1, map[string]string{v1: x.value})
		}, "lacks what was acknowledged before it was asked for"},
		{"a snapshot with an older write", func(s *story) {
			x := s.write(v1, 0)
			s.write(v1, 0)
			s.snapshot(2, map[string]string{v1: x.value})
		}, "has an older write"},
		{"a snapshot with what was deleted", func(s *story) {
			x := s.write(v1, 0)
			s.add(&op{kind: remove, key: v1})
			s.snapshot(2, map[string]string{v1: x.value})
		}, "has an older write"},
		{"a snapshot of two moments", func(s *story) {
			s.write(v2, 1)
			y := s.write(v1, 0)
			y.ret += 5 * time.Millisecond // it is on its way while the snapshot is taken
			s.snapshot(1, map[string]string{v1: y.value, v2: s.ops[0].value})
		}, "has a later write"},
		{"a snapshot with a write whose outcome is not known, and one without", func(s *story) {
			x := s.add(&op{kind: put, key: v1, outcome: unknown})
			s.snapshot(0, map[string]string{v1: x.value})
			s.snapshot(0, map[string]string{})
		}, ""},
		{"a snapshot of a former primary with what its successor lacks", func(s *story) {
			x, y := s.write(v2, 1), s.write(v2, 2)
			s.snapshot(2, map[string]string{v2: y.value})
			s.promote(x, y, false)
		}, ""},
		{"a snapshot of a successor with what it lacks", func(s *story) {
			x, y := s.write(v2, 1), s.write(v2, 2)
			s.promote(x, y, false)
			s.snapshot(2, map[string]string{v2: y.value})
		}, "has what was lost"},
		{"a write that all had confirmed and a forced promotion keeps", func(s *story) {
			s.wait(cluster.DR)
			x, y := s.write(v1, 0), s.write(v1, 0)
			y.unconfirmed = true
			s.promote(x, y, false)
			s.read(nil, v1, x, 0)
		}, ""},
		{"a write that all had confirmed and a forced promotion loses", func(s *story) {
			s.wait(cluster.DR)
			x, y := s.write(v1, 0), s.write(v1, 0)
			s.promote(x, y, false)
			s.archived = &archived{places: map[place]bool{y.at: true}}
		}, "when all secondaries of the dr set had it"},
		{"a write from before the set had a level, lost", func(s *story) {
			x, y := s.write(v1, 0), s.write(v1, 0)
			s.wait(cluster.DR)
			s.promote(x, y, false)
		}, ""},
		{"a write that the secondaries of the other set had confirmed, lost", func(s *story) {
			s.wait(cluster.Performance)
			x, y := s.write(v1, 0), s.write(v1, 0)
			s.promote(x, y, false)
		}, ""},
		{"a write that one had confirmed before its data were replaced, lost by its promotion", func(s *story) {
			s.wait(cluster.DR)
			x, y := s.write(v1, 0), s.write(v1, 0)
			s.promote(x, y, false)
			s.reigns[1].since = s.clock
		}, ""},
		{"a write after the level was taken away, lost", func(s *story) {
			s.wait(cluster.DR)
			x := s.write(v1, 0)
			s.levels[0].to = s.clock + 1500*time.Microsecond
			s.promote(x, s.write(v1, 0), false)
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newStory()
			tc.tell(s)
			got := strings.Join(s.judge(), "\n")
			if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestASeedIsAPlan: a seed gives the same plan each time, and each plan is a round that counts.
func TestASeedIsAPlan(t *testing.T) {
	used := map[string]bool{}
	for seed := range uint64(400) {
		p := newPlan(seed)
		if again := newPlan(seed); again.String() != p.String() {
			t.Fatalf("seed %d gives two plans:\n%s\n%s", seed, p, again)
		}
		n := 0
		for _, s := range p.topology.sites {
			n += len(s)
		}
		if len(p.steps) < 5 || n < 3 || n > 5 {
			t.Errorf("seed %d: %d steps on %d clusters", seed, len(p.steps), n)
		}
		for _, s := range p.steps {
			used[s.what] = true
		}
		old := p.String()
		p.addMore()
		again := newPlan(seed)
		again.addMore()
		if again.String() != p.String() || p.String() == old {
			t.Fatalf("seed %d gives with more the plans:\n%s\n%s", seed, p, again)
		}
		for _, s := range p.steps {
			used[s.what] = true
		}
	}
	for _, what := range []string{
		stepKill, stepPause, stepCut, stepHalf, stepDelay, stepClock, stepFull, stepRestore,
		stepSwitch, stepFail, stepPerfSwitch, stepPerfFail, stepRepoint, stepRevoke, stepAnew, stepWrong,
		stepFence, stepSnapshot, stepCommand, stepCommandFail,
	} {
		if !used[what] {
			t.Errorf("no plan has %q", what)
		}
	}
}
