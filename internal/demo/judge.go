package demo

import (
	"context"
	"fmt"
	"time"
)

// verdict is one line of the summary.
type verdict struct {
	what   string
	failed string // why; empty when it passed
}

// judge checks everything that the demo claims and prints the summary.
func (s *story) judge(ctx context.Context) error {
	s.table.say("Looking every acknowledged record up on all three clusters …")
	verdicts := s.roots(ctx)
	verdicts = append(verdicts, s.resumed())
	for _, n := range []*node{s.primary, s.performance} {
		verdicts = append(verdicts, s.byAPI(ctx, n))
	}
	verdicts = append(verdicts, s.byFiles(ctx)...)

	s.table.say("\nSummary after %s", time.Since(s.began).Round(time.Second))
	failures := 0
	for _, v := range verdicts {
		if v.failed == "" {
			s.table.say("  ok      %s", v.what)
			continue
		}
		failures++
		s.table.say("  FAILED  %s: %s", v.what, v.failed)
	}
	if failures > 0 {
		return fmt.Errorf("the demo failed: %d of %d checks", failures, len(verdicts))
	}
	return nil
}

func (s *story) roots(ctx context.Context) []verdict {
	var out []verdict
	for _, n := range []*node{s.dr, s.performance} {
		v := verdict{what: fmt.Sprintf("%s shows the primary's root of the %s set", n.name, n.kind)}
		if err := s.converged(ctx, n); err != nil {
			v.failed = err.Error()
		} else if own, err := n.status(ctx, n.kind); err == nil {
			v.what += ": " + own.MerkleRoot
		}
		out = append(out, v)
	}
	return out
}

// resumed judges how the killed secondary caught up.
func (s *story) resumed() verdict {
	v := verdict{what: fmt.Sprintf("dr missed %d writes while it was down and continued at its place: %d bytes of diff, %d bytes of sync",
		s.missed, s.restarted.DiffBytes, s.restarted.SyncBytes)}
	switch {
	case s.missed < leastMissed:
		v.failed = fmt.Sprintf("it should have missed %d", leastMissed)
	case s.restarted.DiffBytes != 0 || s.restarted.SyncBytes != 0:
		v.failed = "it copied"
	case s.restarted.Resumes["continue"] == 0:
		v.failed = fmt.Sprintf("the primary never answered it to continue, but %v", s.restarted.Resumes)
	}
	return v
}

func (s *story) byAPI(ctx context.Context, n *node) verdict {
	v := verdict{what: fmt.Sprintf("%s answers all %d acknowledged records with their values", n.name, s.list.len())}
	wrong, first, err := read(ctx, n, s.list.all())
	switch {
	case err != nil:
		v.failed = err.Error()
	case wrong > 0:
		v.failed = fmt.Sprintf("%d are missing or differ, the first is %s", wrong, first)
	}
	return v
}

// byFiles stops the DR secondary and reads its files: a DR secondary answers
// no reads.
func (s *story) byFiles(ctx context.Context) []verdict {
	found := verdict{what: fmt.Sprintf("dr's data directory holds all %d acknowledged records (lockstep check -against)", s.list.len())}
	clean := verdict{what: "dr's log, state and digests agree (lockstep check)"}
	err := s.dr.stop()
	if err == nil {
		err = s.list.save(s.listFile())
	}
	if err != nil {
		found.failed, clean.failed = err.Error(), "not checked"
		return []verdict{found, clean}
	}
	if err := s.check(ctx, s.dr, "-against="+s.listFile()); err != nil {
		found.failed = err.Error()
	}
	if err := s.check(ctx, s.dr); err != nil {
		clean.failed = err.Error()
	}
	return []verdict{found, clean}
}

// ending says how to go on with clusters that are kept.
func (s *story) ending(ctx context.Context) error {
	if !s.cfg.Keep {
		s.table.say("\nTry `lockstep demo -keep` (make demo DEMO=-keep) to go on with these clusters yourself.")
		return nil
	}
	if err := s.dr.start(ctx, s.cfg.Program); err != nil {
		return err
	}
	s.table.say("\nThe clusters go on running; their data and logs are in %s", s.scratch)
	for _, n := range s.nodes() {
		s.table.say("  %-8s VAULT_ADDR=%s VAULT_TOKEN=%s  pid %d", n.name, n.api.Address, n.api.Token, n.proc.cmd.Process.Pid)
	}
	p, f := s.primary.api, s.performance.api
	s.table.say(`
Try:
  VAULT_ADDR=%s %s status
  VAULT_ADDR=%s %s status
  curl -H 'X-Vault-Token: %s' %s/v1/%s/net/http/Client.Do
  curl -H 'X-Vault-Token: %s' -X PUT -d '{"hello":"world"}' %s/v1/%s/mine      # a secondary forwards the write
  curl -H 'X-Vault-Token: %s' %s/v1/%s/mine
End them:
  kill %d %d %d && rm -r %s`,
		p.Address, s.cfg.Program, s.dr.api.Address, s.cfg.Program,
		f.Token, f.Address, mountPath, f.Token, f.Address, mountPath, p.Token, p.Address, mountPath,
		s.primary.proc.cmd.Process.Pid, s.dr.proc.cmd.Process.Pid, s.performance.proc.cmd.Process.Pid, s.scratch)
	return nil
}
