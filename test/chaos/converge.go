package chaos

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// convergeTime is the bound within which healed clusters that nobody writes to show the same.
const convergeTime = 30 * time.Second

// converge demands that all clusters end with what the last primary has: equal roots, equal records, read by the API and from the files, and files in order.
func (w *world) converge() error {
	if err := w.healAll(); err != nil {
		return err
	}
	if err := w.joinAll(); err != nil {
		return fmt.Errorf("healed, and not in line: %w", err)
	}
	for _, st := range w.sites {
		if st != w.primary {
			if err := w.converged(w.primary.active, st.active, cluster.Performance); err != nil {
				return err
			}
		}
	}
	for _, st := range w.sites {
		for _, d := range st.standbys {
			if err := w.converged(st.active, d, cluster.DR); err != nil {
				return err
			}
		}
	}
	want, err := w.readAll(w.primary.active)
	if err != nil {
		return err
	}
	for _, st := range w.sites {
		have, err := w.readAll(st.active)
		if err != nil {
			return err
		}
		if !bytes.Equal(have, want) {
			return fmt.Errorf("in line, and %s shows other records than %s:\n%s---- primary:\n%s", st.active.name, w.primary.active.name, have, want)
		}
	}
	if !w.replaced {
		if w.archived, err = w.gatherArchives(); err != nil {
			return err
		}
	}
	return w.files(want)
}

func (w *world) converged(p, s *member, kind cluster.Kind) error {
	return w.await(fmt.Sprintf("%s shows what %s has of %s", s.name, p.name, kind), convergeTime, func() (bool, string) {
		return cluster.Converged(p.node, s.node, kind)
	})
}

// readAll reads every key, as the last operations of the history, and lists what is there for `lockstep check -against`.
func (w *world) readAll(m *member) ([]byte, error) {
	var b bytes.Buffer
	for _, key := range keys() {
		o := &op{client: clients, kind: read, key: key, on: m, life: int(m.life.Load()), direct: m == w.primary.active, reign: w.reigning(), call: w.history.now()}
		err := w.await("a read of "+key+" at "+m.name, stepTime, func() (bool, string) {
			w.send(o)
			return o.outcome == done, fmt.Sprintf("%s: %d %s", o.outcome, o.status, o.detail)
		})
		if err != nil {
			return nil, err
		}
		o.ret = w.history.now()
		w.history.add(o)
		if o.found {
			fmt.Fprintf(&b, "{\"path\":%q,\"value\":{\"v\":%q}}\n", key, o.got)
		}
	}
	return b.Bytes(), nil
}

// files stops all servers and looks at what they leave: first the records without digest and index, then everything.
func (w *world) files(records []byte) error {
	list := filepath.Join(filepath.Dir(w.members[0].node.Dir), "records.json")
	if err := os.WriteFile(list, records, 0o600); err != nil {
		return err
	}
	for _, m := range w.members {
		m.node.Stop()
	}
	problems := make([]error, len(w.members))
	var all sync.WaitGroup
	for i, m := range w.members {
		all.Go(func() {
			for _, args := range [][]string{{"-against=" + list}, nil} {
				if out, err := m.node.Check(args...); err != nil {
					problems[i] = fmt.Errorf("lockstep check %v of %s: %w\n%s", args, m.name, err, out)
					return
				}
			}
		})
	}
	all.Wait()
	for _, err := range problems {
		if err != nil {
			return err
		}
	}
	return w.restoreShots()
}
