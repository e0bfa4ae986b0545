package replication

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// TestReindexNamesWhatIsWrongAndRebuilds damages a primary's record on disk: diff names its key, the rebuilt index tells what the record is now.
func TestReindexNamesWhatIsWrongAndRebuilds(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	c := newCluster(t, "a primary", enginetest.New(t, engine.Writer), "")
	c.run()
	if _, err := c.n.EnablePrimary(ctx, DR, "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	c.load(shared, storage.Replicated, "k", 200, 50)
	enginetest.MustPut(t, c.e, shared, storage.Replicated, "victim", "the value that rots")
	c.checkpoint()
	before := c.n.Status(DR)["merkle_root"]
	dir := enginetest.Dir(t, c.e)
	c.stop()
	enginetest.Stop(t, c.e)
	rot(t, filepath.Join(dir, "state.db"), "the value that rots")
	c.e = enginetest.Open(t, dir, engine.Writer)
	c.run()

	if _, err := c.e.Get(shared, []byte("victim")); err == nil {
		t.Fatal("the damaged record reads as if it were whole")
	}
	if _, err := c.n.Reindex(ctx, ReindexOptions{Diff: true, Force: true}); err != nil {
		t.Fatal(err)
	}
	c.until("it has ended", func() bool {
		return c.n.Status(DR)["last_reindex_epoch"] != "0" && c.n.Status(DR)["reindex_in_progress"] == nil
	})
	diff, _ := c.n.Status(DR)["last_reindex_diff"].(map[string]any)
	keys, _ := diff["keys"].([]map[string]any)
	if len(keys) != 1 || keys[0]["key"] != "victim" || keys[0]["keyspace"] != shared.String() {
		t.Errorf("diff names %v, want the key victim", diff)
	}
	if !strings.Contains(c.logs.String(), "key=victim") {
		t.Error("its log does not name the key")
	}
	if _, err := c.e.Get(shared, []byte("victim")); err != nil {
		t.Errorf("after force: %v", err)
	}
	if c.n.Status(DR)["merkle_root"] == before {
		t.Error("the root is that of the record before it rotted")
	}
	enginetest.Check(t, c.e)
}

// TestAReindexWithoutItsFlushBeginsAgain kills reindex with skip_flush at each of its commits: where its mark was durable, the next start reindexes.
func TestAReindexWithoutItsFlushBeginsAgain(t *testing.T) {
	t.Parallel()
	marked := 0
	for n, through := 1, false; !through; n++ {
		f := &fuse{}
		c := newCluster(t, "a cluster", enginetest.New(t, engine.Writer, func(cfg *engine.Config) { cfg.Seam = f.seam }), "")
		c.run()
		c.write(shared, storage.Replicated, "k", 30)
		f.left.Store(int64(n))
		if _, err := c.n.Reindex(enginetest.Context(t), ReindexOptions{SkipFlush: true}); err != nil {
			t.Fatal(err)
		}
		c.until("it has ended or was killed", func() bool {
			c.n.mu.Lock()
			defer c.n.mu.Unlock()
			return f.blown.Load() || !c.n.reindex.Running
		})
		through = !f.blown.Load()
		c.stop()
		dir := enginetest.Dir(t, c.e)
		if through {
			enginetest.Stop(t, c.e)
		} else {
			_ = enginetest.Wait(t, c.e) // it fails: that is the kill
		}
		c.e = enginetest.Open(t, dir, engine.Writer)
		again := strings.Contains(string(c.e.NodeGet(noteMaintenance)), `"unflushed":true`)
		c.run()
		if again {
			marked++
			c.until("the index was rebuilt and the mark is gone", func() bool {
				return strings.Contains(string(c.e.NodeGet(noteMaintenance)), `"reindexed"`) && !strings.Contains(string(c.e.NodeGet(noteMaintenance)), "unflushed")
			})
		}
		if through && again {
			t.Error("the mark is left although it ended")
		}
		c.stop()
	}
	if marked == 0 {
		t.Error("no kill left the mark")
	}
}
