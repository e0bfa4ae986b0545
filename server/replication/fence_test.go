package replication

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// try is what writing a record at a cluster gives.
func (c *cluster) try(ks storage.KeyspaceID, scope storage.Scope, key string) error {
	c.t.Helper()
	_, err := c.e.Do(enginetest.Context(c.t), &engine.Tx{Writes: []engine.Write{enginetest.Put(ks, scope, key, "v")}})
	return err
}

// fencedIn waits until a primary is fenced, and demands what that means for writes, status and a restart.
func (c *cluster) fencedIn(k Kind, cause fenceCause) *fence {
	c.t.Helper()
	c.until("the primary is fenced: "+string(cause), func() bool { f := c.n.fenceOf(k); return f != nil && f.Cause == cause })
	for range 2 {
		f := c.n.fenceOf(k)
		if f == nil || f.Cause != cause {
			c.t.Fatalf("after a restart the fence is %+v, want %s", f, cause)
		}
		if err := c.try(shared, storage.Replicated, "while fenced"); !errors.Is(err, engine.ErrFenced) || !strings.Contains(err.Error(), "recover") {
			c.t.Errorf("a write of what is shared on a fenced primary: %v, want a refusal that says what to do", err)
		}
		if err := c.try(local, storage.Local, "while fenced"); errors.Is(err, engine.ErrFenced) != (c.n.fenceOf(DR) != nil) {
			c.t.Errorf("a write of local scope on a fenced primary: %v", err)
		}
		st := c.n.Status(k)
		if st["mode"] != "primary" || st["state"] != "fenced" || st["reason"] == "" || c.n.Fenced(k)["cause"] != string(cause) {
			c.t.Errorf("status of a fenced primary: %v", st)
		}
		c.restart()
	}
	if got := strings.Count(c.logs.String(), "this primary is fenced and takes no writes: set="+string(k)); got != 1 {
		c.t.Errorf("that it is fenced is logged %d times, want once", got)
	}
	return c.n.fenceOf(k)
}

// quiet lets a promoted cluster tell nobody: another way is to be seen.
func (c *cluster) quiet() {
	c.t.Helper()
	if err := c.e.NodeSet(map[string][]byte{noteHerald(DR): nil, noteHerald(Performance): nil}); err != nil {
		c.t.Fatal(err)
	}
}

// TestAPrimaryLearnsThatAnotherTookItsPlace promotes a DR secondary away while the primary cannot be reached, and lets the primary learn of it in each of the
// ways that there are. It stays fenced over restarts, until it is demoted and comes back.
func TestAPrimaryLearnsThatAnotherTookItsPlace(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, DR, Performance)
	a.handle = func(context.Context, *Forwarded) *ForwardedAnswer { return &ForwardedAnswer{Status: 204} }
	b := a.successor(DR, "b")
	c := a.follow(DR, "c")
	s := a.follow(Performance, "s")
	a.write(shared, storage.Replicated, "before", 20)
	a.caughtUp(DR, b)
	a.caughtUp(DR, c)
	a.caughtUp(Performance, s)
	for _, x := range []*cluster{c, s, a} {
		x.stop()
	}
	b.promote(DR, true)
	b.write(shared, storage.Replicated, "at the new primary", 5)
	told := b.e.History()
	news, err := b.n.newsOf(DR)
	if err != nil {
		t.Fatal(err)
	}
	kept := b.e.NodeGet(noteHerald(DR))
	if kept == nil {
		t.Fatal("the promoted cluster keeps nothing by which to reach its former primary")
	}
	b.quiet()
	forget := func() { // what it has learnt, to learn it anew
		a.stop()
		if err := a.e.NodeSet(map[string][]byte{noteFence(DR): nil, noteFence(Performance): nil}); err != nil {
			t.Fatal(err)
		}
		a.e.SetFence(nil)
		a.run()
		if err := a.try(shared, storage.Replicated, "in the double-primary window"); err != nil {
			t.Fatalf("before it knows: %v", err)
		}
	}
	for _, way := range []struct {
		name  string
		learn func()
		by    string
		knows bool // where the new primary is
	}{
		{"from a secondary's hello", func() {
			if err := c.e.NodeSet(map[string][]byte{noteSeen(DR): mustJSON(told)}); err != nil {
				t.Fatal(err)
			}
			c.run()
		}, "secondary c", false},
		{"from a client's index token", func() {
			token := b.n.IndexToken(b.e.Position())
			if _, err := a.n.ReachedIndex(enginetest.Context(t), []string{token}, false, false); errors.Is(err, engine.ErrFenced) || a.n.isFenced() {
				t.Errorf("shown by who has no right to ask, the token fenced: %v", err)
			}
			_, err := a.n.ReachedIndex(enginetest.Context(t), []string{token}, false, true)
			if !errors.Is(err, engine.ErrFenced) {
				t.Errorf("a token of the new primary: %v, want that this one is fenced", err)
			}
		}, "index token", false},
		{"from a forwarded request", func() {
			if err := s.e.NodeSet(map[string][]byte{noteSeen(Performance): mustJSON(told)}); err != nil {
				t.Fatal(err)
			}
			n, err := New(Config{Engine: s.e, Logger: s.logger(), Version: "0.1.0"}) // it does not follow, so it says no hello
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := n.Forward(enginetest.Context(t), &Forwarded{Method: "PUT", Path: "x"}); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "fenced") {
				t.Errorf("a forwarded write: %v, want that the primary refuses it because it is fenced", err)
			}
			n.forward.close()
		}, "forwarded", false},
		{"from the promoted cluster", func() {
			if err := b.e.NodeSet(map[string][]byte{noteHerald(DR): kept}); err != nil {
				t.Fatal(err)
			}
			b.n.mu.Lock()
			b.n.lives.wakeLocked(DR)
			b.n.mu.Unlock()
		}, "secondary b", true},
	} {
		c.stop()
		forget()
		way.learn()
		f := a.fencedIn(DR, fenceNewer)
		a.logs.forget()
		if !strings.Contains(f.Told, way.by) || f.Ordinal != 2 || f.From != news.History[len(news.History)-1].Start {
			t.Errorf("%s: the fence is %+v, want one of epoch 2 told by %s", way.name, f, way.by)
		}
		if text := f.sentence(DR); way.knows && (!strings.Contains(text, b.e.Identity().ClusterID) || !strings.Contains(text, b.api.URL)) {
			t.Errorf("%s: the refusal does not name the new primary: %s", way.name, text)
		}
	}
	c.stop()
	a.demote(DR)
	if f := a.n.fenceOf(DR); f != nil || a.e.Writable() != nil && errors.Is(a.e.Writable(), engine.ErrFenced) {
		t.Errorf("demoted, it is still fenced: %+v", f)
	}
	a.repoint(DR, b, "a-old")
	b.caughtUp(DR, a)
}

// TestRecoverIsTheOne lets a fenced primary go on: the cluster that was promoted in its place is fenced in turn, also when the process dies between the steps.
func TestRecoverIsTheOne(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, DR)
	a.write(shared, storage.Replicated, "before", 10)
	b := a.successor(DR, "b")
	b.promote(DR, true) // its herald reaches a, which runs
	a.fencedIn(DR, fenceNewer)
	b.write(shared, storage.Replicated, "lost in the end", 3)
	warning, err := a.n.Recover(enginetest.Context(t))
	if err != nil || !strings.Contains(warning, "primary again") {
		t.Fatalf("recover: %q, %v", warning, err)
	}
	if err := a.try(shared, storage.Replicated, "after recover"); err != nil {
		t.Errorf("a write after recover: %v", err)
	}
	h := a.e.History()
	last := h[len(h)-1]
	fork := b.e.History()[len(b.e.History())-1].Fork
	if last.Ordinal != 3 || len(last.Overrides) == 0 || !hasFork(b.e.History(), last.Overrides[0]) {
		t.Errorf("recover's epoch is %+v, want ordinal 3 that overrides %v", last, fork)
	}
	a.restart()
	if a.n.isFenced() {
		t.Error("after a restart the recovered primary is fenced again")
	}
	b.nudge(DR) // its herald hears of it
	f := b.fencedIn(DR, fenceNewer)
	if f.Cluster != a.e.Identity().ClusterID {
		t.Errorf("the other is fenced by %+v, want the recovered cluster named", f)
	}
	b.demote(DR)
	b.repoint(DR, a, "b2")
	a.caughtUp(DR, b)
}

// TestTwoPromotionsAreAConflict promotes two DR secondaries of one primary that cannot be reached. When it is back both hear of each other through it: neither
// takes writes, until one is told to win.
func TestTwoPromotionsAreAConflict(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, DR)
	a.write(shared, storage.Replicated, "before", 10)
	b, c := a.successor(DR, "b"), a.successor(DR, "c")
	a.caughtUp(DR, b)
	a.stop()
	for _, x := range []*cluster{b, c} {
		x.promote(DR, true)
		x.write(shared, storage.Replicated, "of its own", 4)
	}
	a.run()
	a.until("the former primary is told of both", func() bool {
		f := a.n.fenceOf(DR)
		return f != nil && f.Cause == fenceConflict
	})
	b.nudge(DR)
	c.nudge(DR)
	b.fencedIn(DR, fenceConflict)
	c.nudge(DR)
	c.fencedIn(DR, fenceConflict)
	if _, err := b.n.Recover(enginetest.Context(t)); err != nil {
		t.Fatal(err)
	}
	if err := b.try(shared, storage.Replicated, "the winner writes"); err != nil {
		t.Errorf("the winner: %v", err)
	}
	a.until("the former primary knows who won", func() bool { b.nudge(DR); f := a.n.fenceOf(DR); return f != nil && f.Cause == fenceNewer })
	c.until("the loser knows who won", func() bool { c.nudge(DR); f := c.n.fenceOf(DR); return f != nil && f.Cause == fenceNewer })
	for i, x := range []*cluster{a, c} {
		x.demote(DR)
		x.repoint(DR, b, fmt.Sprintf("back%d", i))
		b.caughtUp(DR, x)
	}
	if b.n.isFenced() {
		t.Error("the winner is fenced")
	}
}

// nudge lets a herald go again at once.
func (c *cluster) nudge(k Kind) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.n.lives.wakeLocked(k)
}

// TestARestoredPrimaryStops starts a primary from a copy of its disk that is older than what its secondary holds, and one from a clone.
func TestARestoredPrimaryStops(t *testing.T) {
	t.Parallel()
	for name, cloned := range map[string]bool{"restored from a backup": false, "a clone that went on": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newCapablePrimary(t, DR)
			a.write(shared, storage.Replicated, "before", 10)
			b := a.successor(DR, "b")
			dir := enginetest.Dir(t, a.e)
			a.stop()
			enginetest.Stop(t, a.e)
			backup := filepath.Join(t.TempDir(), "backup")
			if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			swap := func(to string) {
				t.Helper()
				a.stop()
				enginetest.Stop(t, a.e)
				a.e = enginetest.Open(t, to, engine.Writer)
				a.run()
			}
			swap(dir)
			a.write(shared, storage.Replicated, "after the backup", 15)
			a.caughtUp(DR, b)
			b.stop()
			swap(backup)
			if cloned { // it has written more than the original when it is met
				a.write(shared, storage.Replicated, "on the clone", 40)
			}
			end := a.e.Position().Index
			b.run()
			f := a.fencedIn(DR, fenceRestored)
			if f.Index != end || !strings.Contains(f.Told, "secondary b") {
				t.Errorf("the fence is %+v, want one at index %d told by b", f, end)
			}
			if _, err := a.n.Recover(enginetest.Context(t)); err != nil {
				t.Fatal(err)
			}
			a.write(shared, storage.Replicated, "after recover", 5)
			a.caughtUp(DR, b)
			a.caughtUp(DR, b)
		})
	}
}
