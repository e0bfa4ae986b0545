package replication

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
)

// capable gives a cluster what a primary needs, whatever it is now: an API listener for activations and a cluster port that others reach.
func (c *cluster) capable() *cluster {
	c.t.Helper()
	if c.bind == "" {
		c.bind = freeAddr(c.t)
	}
	c.api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serveActivation(w, r, c.node(), "0.1.0", time.Now(), func() bool { return false })
	}))
	c.t.Cleanup(c.api.Close)
	return c
}

func (c *cluster) node() *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// newCapablePrimary runs a primary of some sets whose API others can call.
func newCapablePrimary(t testing.TB, sets ...Kind) *cluster {
	t.Helper()
	c := newCluster(t, "the first primary", enginetest.New(t, engine.Writer), freeAddr(t)).capable()
	c.run()
	for _, k := range sets {
		if _, err := c.n.EnablePrimary(enginetest.Context(t), k, c.bind); err != nil {
			t.Fatalf("enabling the %s primary: %v", k, err)
		}
	}
	return c
}

// successor enrols a secondary that can become a primary, and runs it.
func (c *cluster) successor(k Kind, id string) *cluster {
	c.t.Helper()
	s := c.enrol(k, id).capable()
	s.run()
	c.caughtUp(k, s)
	return s
}

// reopen does what the server does when a node asks for it: stop, let the same store go on in another role.
func (c *cluster) reopen() {
	c.t.Helper()
	select {
	case r := <-c.reopenings:
		c.reopenAs(r)
	case <-time.After(patience):
		c.t.Fatal("the node does not ask for its store to be opened in another role")
	}
}

func (c *cluster) reopenAs(r reopening) {
	c.stop()
	select {
	case <-c.reopenings: // asked again meanwhile
	default:
	}
	enginetest.Turn(c.t, c.e, r.role, r.secondary)
	c.run()
}

func (c *cluster) demote(k Kind) {
	c.t.Helper()
	d, err := c.n.DemotePrimary(enginetest.Context(c.t), k, Demote{})
	if err != nil || len(d.Warnings) == 0 {
		c.t.Fatalf("demoting: %+v, %v", d, err)
	}
	if k == DR {
		c.reopen()
	}
	c.awaitMode(k, Secondary)
}

func (c *cluster) promote(k Kind, force bool) {
	c.t.Helper()
	var warning string
	var err error
	c.until("a promotion is not told to come again, as clients do", func() bool {
		var later *NotReady
		warning, err = c.n.PromoteSecondary(enginetest.Context(c.t), k, Promote{PrimaryClusterAddr: c.bind, Force: force})
		return !errors.As(err, &later)
	})
	if err != nil || warning == "" {
		c.t.Fatalf("promoting: %q, %v", warning, err)
	}
	if k == DR {
		c.reopen()
	}
	c.awaitMode(k, Primary)
}

func (c *cluster) awaitMode(k Kind, m Mode) {
	c.t.Helper()
	c.until("the cluster is a "+string(k)+" "+string(m)+" and nothing is under way", func() bool { return c.n.Mode(k) == m && c.n.underWay() == nil })
}

// repoint makes a cluster follow another primary of its set, by a token and the primary's API.
func (c *cluster) repoint(k Kind, to *cluster, id string) {
	c.t.Helper()
	ctx := enginetest.Context(c.t)
	var a *Activation
	to.until("the new primary gives a token for the id, once what that had before is good no more", func() bool {
		var err error
		if a, err = to.n.SecondaryToken(ctx, k, id, 0); err != nil {
			c.t.Logf("a token of the new primary: %v", err)
		}
		return err == nil
	})
	warning, err := c.n.UpdatePrimary(ctx, k, UpdatePrimary{Token: &a.Token})
	if err != nil || !strings.Contains(warning, "keeps its data") {
		c.t.Fatalf("update-primary: %q, %v", warning, err)
	}
	again, err := c.n.UpdatePrimary(context.WithoutCancel(ctx), k, UpdatePrimary{Token: &a.Token})
	if err != nil || !strings.Contains(again, "already") {
		c.t.Errorf("the same call again: %q, %v", again, err)
	}
	to.caughtUp(k, c)
}

// cost is what a secondary has transferred since it started, and how its streams began.
func (c *cluster) cost(k Kind) (bytes uint64, r resumes) {
	l := c.n.link[k].get()
	return l.DiffBytes + l.SyncBytes, l.Resumes
}

// livesNoMore demands that the life of a secondary has ended and that none begins, although it has a primary.
func (c *cluster) livesNoMore(k Kind) {
	c.t.Helper()
	if _, slot, _ := c.n.beginLife(enginetest.Context(c.t), k); slot != nil || len(c.n.set(k).Primaries) == 0 {
		c.t.Fatal("a life as a secondary begins, although the change of role has begun")
	}
}
