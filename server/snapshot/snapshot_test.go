package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// cluster is a sealed store at work.
type cluster struct {
	*engine.Engine
	t    *testing.T
	keys *seal.Opened
	cfg  engine.Config
	stop func()
}

func newKeys(t *testing.T) *seal.Opened {
	t.Helper()
	keys, _, err := seal.New(seal.Options{Config: seal.Config{Shares: 1, Threshold: 1}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func newCluster(t *testing.T, name string) *cluster {
	t.Helper()
	c := &cluster{t: t, keys: newKeys(t)}
	c.cfg = engine.Config{Dir: filepath.Join(t.TempDir(), name), MinFree: -1, Sealer: c.keys.Keyring(), SegmentEntries: 64, CheckpointInterval: 20 * time.Millisecond}
	if err := engine.CreateSealed(c.cfg.Dir, engine.Identity{ClusterName: name}, map[string][]byte{"kept": []byte("yes")}, c.keys.Keyring()); err != nil {
		t.Fatal(err)
	}
	c.start()
	return c
}

func (c *cluster) start() {
	c.t.Helper()
	e, _, err := engine.Open(c.cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	c.Engine = e
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, e.Close()); err != nil {
			c.t.Errorf("the end of an engine: %v", err)
		}
	})
	c.t.Cleanup(c.stop)
}

var keyspaces = []storage.KeyspaceID{storage.SystemReplicated, {9, 1}, {9, 2}, {9, 3}}

func scopeOf(ks storage.KeyspaceID) storage.Scope {
	if ks == (storage.KeyspaceID{9, 3}) {
		return storage.Local
	}
	return storage.Replicated
}

func (c *cluster) do(writes ...engine.Write) {
	c.t.Helper()
	if _, err := c.Do(context.Background(), &engine.Tx{Writes: writes}); err != nil {
		c.t.Fatal(err)
	}
}

func put(ks storage.KeyspaceID, key, value string) engine.Write {
	return engine.Write{Keyspace: ks, Scope: scopeOf(ks), Change: storage.Change{Op: storage.Put, Key: []byte(key), Value: []byte(value)}}
}

// fill writes random records.
func (c *cluster) fill(rnd *rand.Rand, n int) {
	c.t.Helper()
	for range n {
		ks := keyspaces[rnd.IntN(len(keyspaces))]
		c.do(put(ks, fmt.Sprintf("k%04d", rnd.IntN(800)), strings.Repeat("secret-value ", 1+rnd.IntN(20))))
	}
}

func (c *cluster) begin() *Taking {
	c.t.Helper()
	taking, err := Begin(context.Background(), Source{Engine: c.Engine, Keys: c.keys, Version: "test", Now: time.Now})
	if err != nil {
		c.t.Fatal(err)
	}
	return taking
}

func (c *cluster) save() []byte {
	c.t.Helper()
	taking := c.begin()
	defer taking.End()
	var b bytes.Buffer
	if err := taking.Write(context.Background(), &b); err != nil {
		c.t.Fatal(err)
	}
	return b.Bytes()
}

// restore makes a new store of a snapshot.
func restore(t *testing.T, b []byte, keys *seal.Opened, live *engine.Engine) (*cluster, *Restored, error) {
	t.Helper()
	r, err := Open(bytes.NewReader(b))
	if err != nil {
		return nil, nil, err
	}
	opened, err := keys.OpenCopy(r.Seal)
	if err != nil {
		return nil, nil, err
	}
	r.Unseal(opened)
	id, err := r.Identify()
	if err != nil {
		return nil, nil, err
	}
	c := &cluster{t: t, keys: keys, cfg: engine.Config{Dir: filepath.Join(t.TempDir(), "restored"), MinFree: -1, Sealer: keys.Keyring()}}
	if c.cfg.Role, err = r.Header.Role(); err != nil {
		return nil, nil, err
	}
	if err := engine.CreateSealed(c.cfg.Dir, id.Engine(), id.NodeNotes(), keys.Keyring()); err != nil {
		return nil, nil, err
	}
	done, err := r.Restore(context.Background(), id, Store{Config: c.cfg, Live: live, Now: time.Now})
	if err != nil {
		return nil, nil, err
	}
	c.start()
	return c, done, nil
}

// contents are all records, and what the keyspaces' digests are.
func (c *cluster) contents() (map[string]string, []storage.KeyspaceTotal) {
	c.t.Helper()
	v := c.Snapshot()
	defer v.Release()
	out := map[string]string{}
	for _, total := range v.Totals() {
		if err := v.Scan(total.ID, nil, nil, func(r storage.Record) bool {
			out[total.ID.String()+"/"+string(r.Key)] = string(r.Value)
			return true
		}); err != nil {
			c.t.Fatal(err)
		}
	}
	return out, v.Totals()
}

func TestARestoredStoreIsWhatTheClusterWasAtTheSnapshotsEnd(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	c := newCluster(t, "c")
	c.fill(rnd, 400)
	c.do(engine.Write{Keyspace: keyspaces[2], Scope: storage.Replicated, Change: storage.Change{Op: storage.Drop}})
	b := c.save()
	if bytes.Contains(b, []byte("secret-value")) || bytes.Contains(b, c.Identity().DigestSecret) {
		t.Error("a value or the digest secret can be read in the file")
	}
	wantRecords, wantTotals := c.contents()
	at := c.Position()
	c.fill(rnd, 50)

	got, done, err := restore(t, b, c.keys, c.Engine)
	if err != nil {
		t.Fatal(err)
	}
	records, totals := got.contents()
	delete(records, storage.SystemLocal.String()+"/"+recordRestored)
	if !reflect.DeepEqual(records, wantRecords) {
		t.Errorf("got %d records, want the %d of the snapshot", len(records), len(wantRecords))
	}
	totals = slices.DeleteFunc(totals, func(k storage.KeyspaceTotal) bool { return k.ID == storage.SystemLocal })
	if !slices.Equal(totals, wantTotals) {
		t.Errorf("got digests %v, want %v", totals, wantTotals)
	}
	if done.Index != at.Index || done.Ordinal != 2 || got.Position().Index != at.Index+1 {
		t.Errorf("got %+v at %d, want the snapshot's index %d and the second epoch behind it", done, got.Position().Index, at.Index)
	}
	if id := got.Identity(); id.ClusterID != c.Identity().ClusterID || id.Lineage != c.Identity().Lineage {
		t.Error("the restored store is another cluster")
	}
	h := got.History()
	last := h[len(h)-1]
	if last.Start != at.Index+1 || last.Parent != h[len(h)-2].Fork || string(got.NodeGet("kept")) != "yes" {
		t.Errorf("history %+v: want an epoch that begins behind the snapshot", h)
	}
	if report, err := got.Check(context.Background(), nil); err != nil || len(report.Damage)+len(report.Log) > 0 {
		t.Errorf("checking the restored store: %v, %+v", err, report.Damage)
	}
}

func TestAForkWrittenAfterTheSnapshotIsOverridden(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "c")
	c.do(put(keyspaces[1], "a", "1"))
	b := c.save()
	if _, err := c.BeginEpoch(context.Background(), 0, []engine.Write{put(keyspaces[1], "b", "2")}); err != nil {
		t.Fatal(err)
	}
	live := c.History()
	got, done, err := restore(t, b, c.keys, c.Engine)
	if err != nil {
		t.Fatal(err)
	}
	h := got.History()
	last := h[len(h)-1]
	if done.Ordinal != live[len(live)-1].Ordinal+1 || len(last.Overrides) != 1 || last.Overrides[0] != live[len(live)-1].Fork {
		t.Errorf("got %+v, want an epoch above %d that overrides its fork", last, live[len(live)-1].Ordinal)
	}
}

// writer lets a cluster be written to while a snapshot of it goes out.
type writer struct {
	bytes.Buffer
	each func()
}

func (w *writer) Write(b []byte) (int, error) {
	w.each()
	return w.Buffer.Write(b)
}

func TestASnapshotTakenUnderWritesIsOneMoment(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	c := newCluster(t, "c")
	c.fill(rnd, 300)
	taking := c.begin()
	defer taking.End()
	n := 0
	w := &writer{each: func() {
		n++
		// Records move and come and go between any two pieces; the checkpoint moves on too.
		c.do(put(keyspaces[1], fmt.Sprintf("k%04d", rnd.IntN(800)), fmt.Sprint(n)), put(keyspaces[2], "n", fmt.Sprint(n)), put(keyspaces[3], "n", fmt.Sprint(n)))
		if n%7 == 0 {
			c.do(engine.Write{Keyspace: keyspaces[1], Scope: storage.Replicated, Change: storage.Change{Op: storage.Delete, Key: fmt.Appendf(nil, "k%04d", rnd.IntN(800))}})
		}
		if n%11 == 0 {
			if err := c.Checkpoint(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}}
	if err := taking.Write(context.Background(), w); err != nil {
		t.Fatal(err)
	}
	got, _, err := restore(t, w.Bytes(), c.keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(bytes.NewReader(w.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(func(int64) {}); err != nil {
		t.Fatal(err)
	}
	if r.Summary.Entries == 0 {
		t.Error("no entries in the snapshot: nothing was written while it was taken")
	}
	records, _ := got.contents()
	a, b := records[keyspaces[2].String()+"/n"], records[keyspaces[3].String()+"/n"]
	if a == "" || a != b {
		t.Errorf("two records of one transaction are of two moments: %q and %q", a, b)
	}
	if report, err := got.Check(context.Background(), nil); err != nil || len(report.Damage)+len(report.Log) > 0 {
		t.Errorf("checking the restored store: %v, %+v", err, report.Damage)
	}
}

func TestACutChangedOrForeignFileIsRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "c")
	c.fill(rand.New(rand.NewPCG(5, 6)), 120)
	whole := c.save()
	refused := func(name string, b []byte) {
		t.Helper()
		if _, _, err := restore(t, b, c.keys, nil); !isInvalid(err) {
			t.Errorf("%s: got %v, want an *Invalid", name, err)
		}
	}
	for _, n := range []int{0, 1, 20, 600, len(whole) / 2, len(whole) - 600, len(whole) - 1} {
		refused(fmt.Sprintf("cut at %d of %d", n, len(whole)), whole[:n])
	}
	refused("longer", append(bytes.Clone(whole), 0))
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 25 {
		at := 10 + rnd.IntN(len(whole)-10)
		b := bytes.Clone(whole)
		b[at] ^= 1 << rnd.IntN(8)
		if _, _, err := restore(t, b, c.keys, nil); err != nil && !isInvalid(err) {
			t.Errorf("a bit flipped at %d: got %v, want an *Invalid", at, err)
		}
		r, err := Open(bytes.NewReader(b))
		if err == nil {
			err = r.Verify(func(int64) {})
		}
		if err == nil && !bytes.Equal(members(t, b), members(t, whole)) {
			t.Errorf("a bit flipped at %d: the checksums did not notice", at)
		}
	}
	other := newKeys(t)
	if _, _, err := restore(t, whole, other, nil); !errors.Is(err, seal.ErrOtherRoot) {
		t.Errorf("another cluster's keys: got %v", err)
	}
}

func isInvalid(err error) bool {
	var i *Invalid
	return errors.As(err, &i)
}
