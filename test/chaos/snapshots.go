package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// shot is a snapshot that was taken of a member while clients wrote.
type shot struct {
	on        *member
	file, key string
	reign     int           // that of the member; 0: it was not the primary
	call, ret time.Duration // while it was taken
	index     uint64        // of the last entry in it, as the command says
	shows     map[string]string
}

var savedAt = regexp.MustCompile(`: snapshot \S+ of \S+ at index ([0-9]+): `)

// snapshot takes one, of the primary every second time. What it holds is looked at when the round has ended, see restoreShots.
func (w *world) snapshot(pick, how int) error {
	if err := w.healAll(); err != nil {
		return err
	}
	s := &shot{on: w.members[pick%len(w.members)]}
	if how%2 == 0 {
		s.on = w.primary.active
	}
	if s.on == w.primary.active {
		s.reign = w.reigning()
	}
	home := filepath.Dir(s.on.node.Dir)
	s.file = filepath.Join(home, fmt.Sprintf("%d.snapshot", len(w.shots)+1))
	s.key = filepath.Join(s.on.node.Dir, "unseal.key")
	err := w.await("a snapshot of "+s.on.name, stepTime, func() (bool, string) {
		if s.on == s.on.site.active { // the token of a former part may be none of this one
			if err := w.login(s.on); err != nil {
				return false, err.Error()
			}
		} else {
			own := s.on.node.Token
			s.on.node.Token = s.on.site.op
			defer func() { s.on.node.Token = own }()
		}
		s.call = w.history.now()
		out, words, err := s.on.node.Command("snapshot", "save", "-output="+s.file)
		s.ret = w.history.now()
		if err != nil {
			return false, fmt.Sprintf("%v: %s%s", err, out, words)
		}
		at := savedAt.FindStringSubmatch(out)
		if at == nil {
			return false, "it does not say at which index: " + out
		}
		s.index, err = strconv.ParseUint(at[1], 10, 64)
		return err == nil, out
	})
	if err != nil {
		return err
	}
	w.note("snapshot of %s at index %d, taken in %s", s.on.name, s.index, s.ret-s.call)
	w.shots = append(w.shots, s)
	return nil
}

// restoreShots makes a store of each snapshot in a directory of its own, lets `lockstep check` look at its files, and finds out which value it has of each
// key. No server is started on it: it would be a clone of one that the round's clusters know.
func (w *world) restoreShots() error {
	for _, s := range w.shots {
		dir := strings.TrimSuffix(s.file, ".snapshot") + ".restored"
		n := cluster.New(w.t, s.on.name, cluster.Options{Dir: dir, Clock: s.on.clock})
		key, err := os.ReadFile(s.key)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "unseal.key"), key, 0o600); err != nil {
			return err
		}
		if out, words, err := n.Command("snapshot", "restore", "-yes", "-config="+n.Config, s.file); err != nil {
			return fmt.Errorf("restore the snapshot of %s at index %d: %w\n%s%s", s.on.name, s.index, err, out, words)
		}
		if out, err := n.Check(); err != nil {
			return fmt.Errorf("lockstep check of the snapshot of %s at index %d, restored: %w\n%s", s.on.name, s.index, err, out)
		}
		if s.shows, err = w.shown(n, s.ret); err != nil {
			return fmt.Errorf("the snapshot of %s at index %d, restored: %w", s.on.name, s.index, err)
		}
	}
	return nil
}

// shown finds out what a stopped store has of each key, by asking `lockstep check -against` about one value of each at a time, the newest first, of all
// that were written up to a time.
func (w *world) shown(n *cluster.Node, until time.Duration) (map[string]string, error) {
	tries := map[string][]string{}
	for _, o := range slices.Backward(w.history.all()) {
		if o.value != "" && o.call < until && o.outcome != refused && !o.mismatch {
			tries[o.key] = append(tries[o.key], o.value)
		}
	}
	open, shows := keys(), map[string]string{}
	for try := 0; len(open) > 0; try++ {
		asked := map[string]string{}
		var list strings.Builder
		for _, key := range open {
			if asked[key] = "nobody wrote this"; try < len(tries[key]) {
				asked[key] = tries[key][try]
			}
			fmt.Fprintf(&list, "{\"path\":%q,\"value\":{\"v\":%q}}\n", key, asked[key])
		}
		file := filepath.Join(n.Dir, "asked.json")
		if err := os.WriteFile(file, []byte(list.String()), 0o600); err != nil {
			return nil, err
		}
		out, err := n.Check("-against=" + file)
		if !strings.Contains(out, fmt.Sprintf(" %d records ", len(open))) {
			return nil, errors.Join(err, errors.New(out))
		}
		var left []string
		for _, key := range open {
			switch {
			case strings.Contains(out, key+": missing\n"):
			case !strings.Contains(out, key+": another value\n"):
				shows[key] = asked[key]
			case try >= len(tries[key]):
				return nil, fmt.Errorf("%s has a value that nobody wrote before it was taken", key)
			default:
				left = append(left, key)
			}
		}
		open = left
	}
	return shows, nil
}

// snapshots: one of the primary is the state of one moment, and has all that was acknowledged before it was asked for.
func (v *verdict) snapshots() {
	for _, s := range v.shots {
		if s.reign == 0 || s.shows == nil {
			continue
		}
		for _, key := range keys() {
			v.inShot(s, key)
		}
		v.tally.note("snapshot of the primary held against the writes")
	}
}

// inShot judges what a snapshot has of one key. Of version 2 it is the newest version's data, which a delete leaves there.
func (v *verdict) inShot(s *shot, key string) {
	var must *op
	mayLack := false
	for _, x := range v.byKey[key] {
		switch {
		case !x.kind.writes() || x.outcome == refused || x.mismatch || versioned(key) && x.kind == remove:
		case !x.heldIn(s.reign):
			mayLack = mayLack || x.kind == remove && x.call < s.ret
		case x.reign == s.reign && x.ret < s.call && x.at.index > s.index:
			v.fault("a snapshot of %s at index %d lacks what was acknowledged before it was asked for: %s", s.on.name, s.index, x)
		case x.reign < s.reign || x.reign == s.reign && x.at.index <= s.index:
			if must == nil || before(x, must) > 0 {
				must = x
			}
		}
	}
	value, found := s.shows[key]
	shown := v.byValue[value]
	switch {
	case !found:
		if must != nil && must.kind != remove && !mayLack {
			v.fault("a snapshot of %s at index %d lacks %s", s.on.name, s.index, must)
		}
	case shown == nil || shown.key != key || shown.outcome == refused:
		v.fault("a snapshot of %s at index %d has %q as %s, which nobody wrote there", s.on.name, s.index, value, key)
	case shown.fate.lostIn > 0 && shown.fate.lostIn <= s.reign:
		v.fault("a snapshot of %s in reign %d has what was lost: %s", s.on.name, s.reign, shown)
	case !shown.heldIn(s.reign):
	case must != nil && before(shown, must) < 0:
		v.fault("a snapshot of %s at index %d has an older write: %s\n  it must have %s", s.on.name, s.index, shown, must)
	case shown.reign == s.reign && shown.at.index > s.index:
		v.fault("a snapshot of %s at index %d has a later write: %s", s.on.name, s.index, shown)
	}
}

// heldIn tells whether the primary of a reign certainly had a write, of that reign or of one before, from its place on.
func (o *op) heldIn(reign int) bool {
	kept := o.settled() || o.kind != remove && o.outcome == done && !o.mismatch && o.at.index > 0 && !o.fate.unsure && o.fate.lostIn > reign
	return kept && o.reign <= reign
}
