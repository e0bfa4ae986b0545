package chaos

import (
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// The model of one key: a register with versions. Its state keeps, behind the last write that nothing can take back, the writes that a promotion may:
// a new reign begins with a prefix of what the one before wrote.

// fate is what became of an acknowledged write.
type fate struct {
	lostIn int  // the reign that began without it; 0: none did
	unsure bool // some promotion left that open
}

// cell is what a key holds.
type cell struct {
	version int // of version 2: counts writes
	value   string
	there   bool
}

// entry is a write that may be taken back.
type entry struct {
	id    int
	acked bool
	fate  fate
	after cell
}

// must tells what a reign's beginning does to a write: it is kept, or it is lost, or either.
func (e *entry) must(begins int) (keep, lose bool) {
	switch {
	case !e.acked || e.fate.unsure:
		return false, false
	case e.fate.lostIn == begins:
		return false, true
	}
	return e.fate.lostIn == 0 || e.fate.lostIn > begins, false
}

// register is the state of one key.
type register struct {
	base cell
	tail []entry
}

func (s *register) now() cell {
	if len(s.tail) == 0 {
		return s.base
	}
	return s.tail[len(s.tail)-1].after
}

func (s *register) write(o *op, c cell) *register {
	e := entry{o.id, o.outcome == done, o.fate, c}
	if e.acked && e.fate == (fate{}) { // no promotion takes it back, nor what was before it
		return &register{base: c}
	}
	return &register{s.base, append(slices.Clip(s.tail), e)}
}

func same(a, b any) bool {
	x, y := a.(*register), b.(*register)
	return x.base == y.base && slices.Equal(x.tail, y.tail)
}

// begins is the input of a reign's beginning.
type begins int

// model judges one key.
func model() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init:  func() []any { return []any{&register{}} },
		Equal: same,
		Step: func(state, input, _ any) []any {
			s := state.(*register)
			if r, ok := input.(begins); ok {
				return s.promote(int(r))
			}
			return s.step(input.(*op))
		},
	}
	return m.ToModel()
}

// promote returns the states with which a reign may begin.
func (s *register) promote(begins int) []any {
	var next []any
	for cut := 0; cut <= len(s.tail); cut++ {
		ok := true
		for i := range s.tail {
			keep, lose := s.tail[i].must(begins)
			ok = ok && (i >= cut || !lose) && (i < cut || !keep)
		}
		if ok {
			next = append(next, &register{s.base, s.tail[:cut:cut]})
		}
	}
	return next
}

// step returns the states after an operation; none when it cannot have been answered so.
func (s *register) step(o *op) []any {
	now, v2 := s.now(), versioned(o.key)
	if o.kind == read {
		if o.found != now.there || o.found && o.got != now.value || o.version > 0 && o.version != now.version {
			return nil
		}
		return []any{s}
	}
	if o.mismatch {
		if o.expect == now.version {
			return nil
		}
		return []any{s}
	}
	next := now
	does := true
	switch {
	case o.kind == remove:
		next.there, next.value = false, ""
	case o.kind == cas && o.expect != now.version:
		does = false
	default:
		next.there, next.value = true, o.value
		if v2 {
			next.version++
		}
	}
	if o.outcome == unknown {
		if !does {
			return []any{s}
		}
		return []any{s, s.write(o, next)}
	}
	if !does || o.version > 0 && o.version != next.version {
		return nil
	}
	return []any{s.write(o, next)}
}

// Times of the checker: each reign has a day of its own, for what was asked of one primary tells nothing about when another was asked.
const (
	day   = 24 * time.Hour
	dusk  = 20 * time.Hour // when what has no known end may at last have happened
	night = 21 * time.Hour // when the next reign begins
	late  = 20 * time.Second
)

// timeline is the history of one key for the checker, of the operations that tell about the primary.
func timeline(ops []*op, reigns []*reign) []porcupine.Operation {
	seen := map[string]bool{}
	for _, o := range ops {
		if o.kind == read && o.found {
			seen[o.got] = true
		}
	}
	var all []porcupine.Operation
	at := func(n int, t time.Duration) int64 { return int64(time.Duration(n)*day + t) }
	for _, o := range ops {
		switch {
		case o.kind == list || o.outcome == refused:
		case o.outcome == unknown && o.kind.writes():
			if !versioned(o.key) && o.kind == put && !seen[o.value] {
				continue // nobody read it: without it the others fit as well
			}
			for _, r := range reigns {
				if r.number >= o.reign-1 && r.first <= o.ret+late && (r.last == 0 || r.last+late >= o.call) {
					all = append(all, porcupine.Operation{ClientId: o.client, Input: o, Call: at(r.number, o.call), Return: at(r.number, dusk)})
				}
			}
		case o.outcome == unknown:
		case o.kind == read || o.mismatch:
			if r := reignNumber(reigns, o.reign); o.direct && r != nil && r.on == o.on && o.call >= r.first && (r.last == 0 || o.ret <= r.last) {
				all = append(all, porcupine.Operation{ClientId: o.client, Input: o, Call: at(o.reign, o.call), Return: at(o.reign, o.ret)})
			}
		default:
			all = append(all, porcupine.Operation{ClientId: o.client, Input: o, Call: at(o.reign, o.call), Return: at(o.reign, o.ret)})
		}
	}
	for _, r := range reigns {
		if r.number > 1 {
			all = append(all, porcupine.Operation{Input: begins(r.number), Call: at(r.number-1, night), Return: at(r.number-1, night+time.Hour)})
		}
	}
	return all
}

func reignNumber(reigns []*reign, n int) *reign {
	if n < 1 || n > len(reigns) {
		return nil
	}
	return reigns[n-1]
}
