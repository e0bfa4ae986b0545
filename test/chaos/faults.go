package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// heal ends a fault.
type heal struct {
	what string
	do   func() error
}

// strike starts a fault. What it returns ends it; nil when it has ended.
func (w *world) strike(s step) (*heal, error) {
	m := w.members[s.pick%len(w.members)]
	switch s.what {
	case stepKill:
		m.node.Kill()
		return &heal{"start " + m.name, func() error { return w.start(m) }}, nil
	case stepPause:
		return w.pause(m)
	case stepCut:
		m.proxy.Cut()
		return &heal{"mend the link to " + m.name, mend(m)}, nil
	case stepHalf:
		ways := [][]cluster.Direction{{cluster.FromServer}, {cluster.ToServer}, {cluster.FromServer, cluster.ToServer}}
		m.proxy.Hold(ways[s.how%len(ways)]...)
		return &heal{"mend the link to " + m.name, mend(m)}, nil
	case stepDelay:
		m.proxy.Delay(time.Duration(1+s.how) * time.Millisecond)
		return &heal{"mend the link to " + m.name, mend(m)}, nil
	case stepClock:
		jumps := []time.Duration{-10 * time.Minute, -50 * time.Second, 50 * time.Second, 10 * time.Minute}
		text := jumps[s.how%len(jumps)].String()
		if err := os.WriteFile(m.clock, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return &heal{"set the clock of " + m.name, func() error { return os.Remove(m.clock) }}, nil
	case stepFull:
		return nil, w.fill(m)
	case stepRestore:
		return nil, w.restore(s)
	}
	return nil, fmt.Errorf("there is no fault %q", s.what)
}

func mend(m *member) func() error {
	return func() error { m.proxy.Mend(); return nil }
}

func (w *world) pause(m *member) (*heal, error) {
	if !m.node.Running() {
		return nil, nil
	}
	pid := m.node.Pid()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return nil, fmt.Errorf("pause %s: %w", m.name, err)
	}
	return &heal{"continue " + m.name, func() error {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("continue %s: %w", m.name, err)
		}
		return nil
	}}, nil
}

// start starts a member that does not run, and learns the fork that it writes under if it is the primary.
func (w *world) start(m *member) error {
	if m.node.Running() {
		return nil
	}
	m.node.Launch()
	err := w.await(m.name+" serves", stepTime, func() (bool, string) {
		if !m.node.Running() {
			return false, "it has ended: " + m.node.LogTail(5)
		}
		a, err := m.call("GET", "sys/health", "")
		if err != nil {
			return false, err.Error()
		}
		return a.status != 503, fmt.Sprint(a.status)
	})
	if err != nil {
		return err
	}
	for _, r := range w.reigns {
		if r.on == m && r.last == 0 {
			w.learnFork(r, forkTime)
		}
	}
	return nil
}

// roomLeft is up to where a server on a full disk may write in any file.
const roomLeft = 24 << 10

// fill lets a server find no room, in whatever file it writes next. It ends and says which; it is started again with room.
func (w *world) fill(m *member) error {
	if !m.node.Running() {
		return w.start(m)
	}
	pid := m.node.Pid()
	if err := limitFiles(pid, roomLeft); err != nil {
		return fmt.Errorf("take the room of %s: %w", m.name, err)
	}
	full := w.await(m.name+" has ended", 2*time.Second, func() (bool, string) { return !m.node.Running(), "it runs" })
	if full != nil { // it had nothing to write
		w.tally.note("full disk that nobody noticed")
		if err := limitFiles(pid, unix.RLIM_INFINITY); err != nil {
			return fmt.Errorf("give the room of %s back: %w", m.name, err)
		}
		return nil
	}
	var exit *exec.ExitError
	if err := m.node.WaitExit(time.Second); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return fmt.Errorf("%s ended without room by %v, want exit code 1: %s", m.name, err, m.node.LogTail(10))
	}
	return w.start(m)
}

// limitFiles sets the soft limit on the size of a process's files.
func limitFiles(pid int, soft uint64) error {
	var now unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, nil, &now)
	if err == nil {
		now.Cur = min(soft, now.Max)
		err = unix.Prlimit(pid, unix.RLIMIT_FSIZE, &now, nil)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// restore puts an older copy of its data directory in the place of a secondary's. A cluster that others follow is not restored this way: see the
// scenarios of test/failover.
func (w *world) restore(s step) error {
	var leaves []*member
	for _, at := range w.sites {
		leaves = append(leaves, at.standbys...)
		if at != w.primary && len(at.standbys) == 0 {
			leaves = append(leaves, at.active)
		}
	}
	if len(leaves) == 0 {
		return nil
	}
	m := leaves[s.pick%len(leaves)]
	kept := filepath.Join(m.node.Dir, "copy")
	m.node.Kill()
	if err := cluster.CopyTree(kept, m.node.Data); err != nil {
		return fmt.Errorf("copy the data of %s: %w", m.name, err)
	}
	if err := w.start(m); err != nil {
		return err
	}
	w.waitOps(30)
	m.node.Kill()
	m.life.Add(1)
	m.since = w.history.now()
	w.replaced = true
	if err := os.RemoveAll(m.node.Data); err != nil {
		return fmt.Errorf("restore the data of %s: %w", m.name, err)
	}
	if err := os.Rename(kept, m.node.Data); err != nil {
		return fmt.Errorf("restore the data of %s: %w", m.name, err)
	}
	return w.start(m)
}

// healAll ends all faults.
func (w *world) healAll() error {
	all := w.healing
	w.healing = nil
	var err error
	for _, h := range all {
		w.note("heal: %s", h.what)
		err = errors.Join(err, h.do())
	}
	for _, m := range w.members {
		err = errors.Join(err, w.start(m))
	}
	return err
}
