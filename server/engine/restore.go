package engine

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lockstepdb/lockstep/wal"
)

// Override lets the newest reign of a writer's history list forks whose entries it does not have and takes the place of: who wrote or follows
// those finds that this log goes on without them. It is for a store that nobody is served from yet.
func (e *Engine) Override(forks []wal.Fork) error {
	if e.cfg.Role != Writer {
		return ErrNotWritable
	}
	e.hist.mu.Lock()
	defer e.hist.mu.Unlock()
	n := len(e.hist.reigns)
	if n == 0 {
		return errors.New("internal error: a history without reigns overrides nothing")
	}
	reigns := slices.Clone(e.hist.reigns)
	own := slices.Clone(reigns[n-1].Overrides)
	for _, f := range forks {
		if !slices.Contains(own, f) && !slices.ContainsFunc(reigns, func(r Reign) bool { return r.Fork == f }) {
			own = append(own, f)
		}
	}
	reigns[n-1].Overrides = own
	if err := e.hist.replaceLocked(e.wal, reigns); err != nil {
		return e.abandonCommit(fmt.Errorf("noting which forks are overridden: %w", err))
	}
	return nil
}
