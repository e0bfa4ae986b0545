package replication

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// switchedTo is what the server does after Switch: a new store with the identity, role and notes, and a node on it.
func (s *station) switchedTo() *station {
	s.t.Helper()
	c := <-s.switched
	dir := filepath.Join(s.t.TempDir(), "gen-0002")
	if err := engine.Create(dir, c.id, c.notes); err != nil {
		s.t.Fatal(err)
	}
	out := &station{t: s.t, e: enginetest.Open(s.t, dir, c.role), clock: s.clock, logged: s.logged, cfg: s.cfg, stop: func() {}, switched: s.switched}
	out.cfg.Engine = out.e
	out.reload()
	return out
}

func TestALifeFromTokenToRevocation(t *testing.T) {
	for _, k := range kinds {
		t.Run(string(k), func(t *testing.T) {
			ctx := enginetest.Context(t)
			p, s := newStation(t), newStation(t)
			p.run()
			enginetest.MustPut(t, p.e, storage.KeyspaceID{9}, storage.Replicated, "before", "v")
			enginetest.MustPut(t, s.e, storage.KeyspaceID{7}, storage.Replicated, "of the old store", "v")
			p.mustEnable(k)
			if _, err := s.EnableSecondary(ctx, k, SecondaryEnable{Token: p.mustToken(k, "eu")}); err != nil {
				t.Fatal(err)
			}
			s = s.switchedTo()
			s.run()
			equal := func() bool {
				a, b := p.Status(k), s.Status(k)
				return b["state"] == "stream-wals" && a["merkle_root"] == b["merkle_root"] && a["last_wal"] == b["last_remote_wal"]
			}
			eventually(t, "the secondary streams with an equal root", equal)
			enginetest.MustPut(t, p.e, storage.KeyspaceID{9}, storage.Replicated, "after", "v")
			eventually(t, "it has what was written since", equal)
			if s.Mode(k) != Secondary {
				t.Errorf("mode: got %s, want %s", s.Mode(k), Secondary)
			}
			if _, err := s.e.Get(storage.KeyspaceID{7}, []byte("of the old store")); err == nil {
				t.Error("a record of the old store is still there")
			}
			eventually(t, "both call the other connected", func() bool {
				mine := p.Status(k)["secondaries"].([]map[string]any)
				theirs := s.Status(k)["primaries"].([]map[string]any)
				return len(mine) == 1 && mine[0]["connection_status"] == "connected" && len(theirs) == 1 && theirs[0]["connection_status"] == "connected"
			})
			decoded(t, p.Status(k))
			decoded(t, s.Status(k))

			if err := p.RevokeSecondary(ctx, k, "eu"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the revoked secondary is idle with a reason", func() bool {
				st := s.Status(k)
				return st["state"] == "idle" && st["reason"] != nil
			})
			if p.Status(k)["state"] != "running" || len(p.streams.live) != 0 {
				t.Error("the primary is not as before")
			}
			started := s.link[k].get().Started
			if _, err := s.Recover(ctx); err != nil {
				t.Fatal(err)
			}
			eventually(t, "recover starts its life again", func() bool { return s.link[k].get().Started.After(started) })
			eventually(t, "it is told why it is not let in", func() bool {
				st := s.Status(k)
				reason, _ := st["reason"].(string)
				return st["state"] == "idle" && strings.Contains(reason, "new activation token") && s.Revoked(k)
			})
			if logged := s.logged.String(); strings.Contains(logged, "recover starts it again") {
				t.Errorf("a revoked secondary's log advises recover: %s", logged)
			}

			again := p.mustToken(k, "eu")
			eventually(t, "enrolling it again, once the life that recover began was refused too", func() bool {
				_, err := s.EnableSecondary(ctx, k, SecondaryEnable{Token: again})
				return err == nil
			})
			s.stop()
			s = s.switchedTo()
			s.run()
			eventually(t, "enrolled again it streams with an equal root", equal)
			_, err := s.EnableSecondary(ctx, k, SecondaryEnable{Token: p.mustToken(k, "us")})
			wantRefused(t, err, "update-primary gives it another primary")
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	p, s := newStation(t), newStation(t)
	p.run()
	p.mustEnable(DR)
	if _, err := s.EnableSecondary(enginetest.Context(t), DR, SecondaryEnable{Token: p.mustToken(DR, "eu")}); err != nil {
		t.Fatal(err)
	}
	s = s.switchedTo()
	ctx, cancel := context.WithCancel(enginetest.Context(t))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	eventually(t, "it streams", func() bool { return s.Status(DR)["state"] == "stream-wals" && s.Mode(DR) == Secondary })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	p.stop() // the primary's end waits for no stream
}

func TestRunFailsWhenThePortIsTaken(t *testing.T) {
	p, s := newStation(t), newStation(t)
	p.run()
	s.cfg.ClusterBind = p.cfg.ClusterAddr
	s.reload()
	if err := s.Run(enginetest.Context(t)); err == nil {
		t.Error("got no error")
	}
}
