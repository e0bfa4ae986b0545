package replication

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// fuse fails the n-th commit after it is lit, before or after the bytes are durable: what a kill at that instant leaves.
type fuse struct {
	left  atomic.Int64 // 0: not lit
	after bool
	blown atomic.Bool
}

var errBlown = errors.New("killed here")

func (f *fuse) seam(_ string, commit func() error) error {
	if f.left.Load() == 0 || f.left.Add(-1) > 0 {
		return commit()
	}
	f.blown.Store(true)
	f.left.Store(1) // nothing becomes durable after a kill
	if f.after {
		f.after = false
		if err := commit(); err != nil {
			return err
		}
	}
	return errBlown
}

// killed ends node and engine without ceremony, and opens the store as the next start would: in the role that the store was last asked to have, unless the kill
// came before that was written. From then on f burns, if at is not zero.
func (c *cluster) killed(lostRole bool, f *fuse, at int64) {
	c.t.Helper()
	c.stop()
	dir, role, secondary := enginetest.Dir(c.t, c.e), c.e.Role(), c.n.isSecondary()
	_ = enginetest.Wait(c.t, c.e) // it fails: that is the kill
	select {
	case r := <-c.reopenings:
		if !lostRole {
			role, secondary = r.role, r.secondary
		}
	default:
	}
	c.e = enginetest.Open(c.t, dir, role, func(cfg *engine.Config) { cfg.Repairable, cfg.Seam = secondary, f.seam })
	f.left.Store(at)
	c.run()
}

// turnLit is reopen with a fuse that is lit before the change of role in the engine, which can fail of it.
func (c *cluster) turnLit(f *fuse, at int64) {
	c.t.Helper()
	r := <-c.reopenings
	c.stop()
	f.left.Store(at)
	if err := enginetest.TryTurn(c.t, c.e, r.role, r.secondary); err != nil && !f.blown.Load() {
		c.t.Fatal(err)
	}
	if !f.blown.Load() {
		c.run()
	}
}

// settle follows the node's requests until no role change is under way.
func (c *cluster) settle() {
	c.t.Helper()
	c.until("the role change has ended", func() bool {
		select {
		case r := <-c.reopenings:
			c.reopenAs(r)
		default:
		}
		return c.n.underWay() == nil
	})
}

// TestARoleChangeSurvivesAKillAtEachCommit kills each role change at each of its commits, before and after the bytes are on disk, and when it asks for the
// store in another role. The next start completes it, or finds it never begun, and then it can be done; no record is lost or changed.
func TestARoleChangeSurvivesAKillAtEachCommit(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, kinds...)
	p.write(shared, storage.Replicated, "k", 40)
	ids, before := 0, (*cluster)(nil)
	primaryOf := func(k Kind) func(*fuse) *cluster {
		return func(f *fuse) *cluster {
			c := newCluster(t, "a primary", enginetest.New(t, engine.Writer, func(c *engine.Config) { c.Seam = f.seam }), "")
			c.run()
			if _, err := c.n.EnablePrimary(enginetest.Context(t), k, ""); err != nil {
				t.Fatal(err)
			}
			c.write(shared, storage.Replicated, "k", 40)
			return c
		}
	}
	secondaryOf := func(k Kind) func(*fuse) *cluster {
		return func(f *fuse) *cluster {
			if before != nil { // it may have been promoted, and would go on telling of it
				before.stop()
			}
			p.until("the one before has said its last word", func() bool {
				p.n.streams.mu.Lock()
				defer p.n.streams.mu.Unlock()
				return len(p.n.streams.live) == 0
			})
			if ids++; p.n.isFenced() { // by the secondary that was promoted before
				if _, err := p.n.Recover(enginetest.Context(t)); err != nil {
					t.Fatal(err)
				}
			}
			s := p.follow(k, fmt.Sprintf("s%d", ids), func(c *engine.Config) { c.Seam = f.seam })
			p.caughtUp(k, s)
			before = s
			return s
		}
	}
	promote := func(k Kind) func(*cluster) error {
		return func(c *cluster) error {
			_, err := c.n.PromoteSecondary(enginetest.Context(t), k, Promote{Force: true}) // forced: the primary goes on by itself
			return err
		}
	}
	demote := func(k Kind) func(*cluster) error {
		return func(c *cluster) error { _, err := c.n.DemotePrimary(enginetest.Context(t), k, Demote{}); return err }
	}
	for _, tt := range []struct {
		name     string
		k        Kind
		start    func(*fuse) *cluster
		call     func(*cluster) error
		old, new Mode
	}{
		{"promote performance", Performance, secondaryOf(Performance), promote(Performance), Secondary, Primary},
		{"demote performance", Performance, primaryOf(Performance), demote(Performance), Primary, Secondary},
		{"promote dr", DR, secondaryOf(DR), promote(DR), Secondary, Primary},
		{"demote dr", DR, primaryOf(DR), demote(DR), Primary, Secondary},
		{"disable dr secondary", DR, secondaryOf(DR), func(c *cluster) error { _, err := c.n.DisableSecondary(enginetest.Context(t), DR); return err }, Secondary, Disabled},
	} {
		for _, open := range []bool{true, false} { // the store stayed open, or the process was started anew
			if tt.k != DR {
				break
			}
			t.Run(fmt.Sprintf("%s, in the new role, open %v", tt.name, open), func(t *testing.T) {
				for n, through := 1, false; !through; n++ {
					f := &fuse{after: n%2 == 0}
					c := tt.start(f)
					if err := tt.call(c); err != nil {
						t.Fatal(err)
					}
					if open {
						c.turnLit(f, int64((n+1)/2))
					} else {
						f = &fuse{after: n%2 == 0}
						c.killed(false, f, int64((n+1)/2))
					}
					c.until("it is killed, or through", func() bool { return f.blown.Load() || c.n.underWay() == nil })
					through = !f.blown.Load()
					c.killed(false, &fuse{}, 0)
					c.settle()
					if got := c.n.Mode(tt.k); got != tt.new {
						t.Fatalf("killed at commit %d: mode %s, want %s", n, got, tt.new)
					}
					if got := len(enginetest.Content(t, c.e)[shared]); got != 40 {
						t.Fatalf("killed at commit %d: %d records, want 40", n, got)
					}
					c.stop()
				}
			})
		}
		t.Run(tt.name, func(t *testing.T) {
			for n, through := 1, false; !through; n++ {
				f := &fuse{after: n%2 == 0}
				c := tt.start(f)
				before := enginetest.Content(t, c.e)[shared]
				f.left.Store(int64((n + 1) / 2))
				err := tt.call(c)
				through = !f.blown.Load()
				c.killed(n%2 == 1, &fuse{}, 0)
				c.settle()
				mode := c.n.Mode(tt.k)
				if mode != tt.new && (err == nil || mode != tt.old) {
					t.Fatalf("killed at commit %d: mode %s, the call answered %v", n, mode, err)
				}
				if mode == tt.old {
					if err := tt.call(c); err != nil {
						t.Fatalf("killed at commit %d, repeating the call: %v", n, err)
					}
					c.settle()
					if got := c.n.Mode(tt.k); got != tt.new {
						t.Fatalf("killed at commit %d, after repeating the call: mode %s, want %s", n, got, tt.new)
					}
				}
				after := enginetest.Content(t, c.e)[shared]
				for key, value := range before {
					if after[key] != value {
						t.Fatalf("killed at commit %d: record %s has changed", n, key)
					}
				}
				_, werr := c.e.Do(enginetest.Context(t), &engine.Tx{Writes: []engine.Write{enginetest.Put(local, storage.Local, "after", "it")}})
				if writable := tt.k == Performance || tt.new != Secondary; (werr == nil) != writable {
					t.Fatalf("killed at commit %d: writing gives %v", n, werr)
				}
				c.stop()
			}
		})
	}
}
