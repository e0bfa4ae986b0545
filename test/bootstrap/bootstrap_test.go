// Package bootstrap fills new secondaries with much data, under load and kills.
package bootstrap

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/test/cluster"
)

var (
	records = flag.Int("records", 100_000, "records that the primary holds before the secondary is enrolled")
	kind    = flag.String("kind", "dr", "kind of the secondary: dr or performance")
)

const (
	valueBytes  = 512
	anonMiB     = 512 // most anonymous memory of either process
	wireFactor  = 1.1 // bytes on the wire for each byte of data
	loadWriters = 2
	kills       = 3
)

// TestBootstrap enrols a secondary of a primary that holds much and is written
// to meanwhile. The secondary is killed twice and the primary once: no range
// that was verified before a kill is sent again, which a witness between the
// two counts in bytes, and neither needs much memory.
func TestBootstrap(t *testing.T) {
	set := cluster.Kind(*kind)
	primary, wire := behindProxy(t, "primary", cluster.Options{})
	primary.Start()
	primary.Init()
	primary.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	began := time.Now()
	cluster.Fill(t, primary, "kv/r", *records, valueBytes)
	t.Logf("%d records of %d bytes written in %s", *records, valueBytes, time.Since(began).Round(time.Millisecond))

	// From here on its checkpoint is not behind its log, however fast it was filled: else much of the data comes by the stream, whose window is lost at a kill, too.
	primary.Stop()
	primary.Start()
	primary.EnablePrimary(set)
	secondary := cluster.New(t, "secondary", cluster.Options{})
	secondary.Start()
	secondary.Init()
	memory := watchMemory(primary, secondary)
	load := startLoad(primary)
	began = time.Now()
	token := primary.SecondaryToken(set, "new")
	if _, err := secondary.Client().Logical().Write("sys/replication/"+*kind+"/secondary/enable", map[string]any{"token": token}); err != nil {
		t.Fatalf("enable: %v\n%s", err, secondary.LogTail(40))
	}
	data := int64(*records) * recordBytes
	killAt(t, wire, data/5, secondary)
	killAt(t, wire, data*2/5, primary)
	killAt(t, wire, data*3/5, secondary)
	cluster.Eventually(t, 10*time.Minute, "the secondary streams", func() (bool, string) {
		s, err := secondary.Status(set)
		if err != nil {
			return false, err.Error()
		}
		return s.State == "stream-wals", fmt.Sprintf("mode %s, state %s, %d MiB on the wire", s.Mode, s.State, wire.FromServer()>>20)
	})
	written := load.end()
	cluster.WaitConverged(t, cluster.Deadline, primary, secondary, set)
	peaks := memory.end()

	data += int64(written) * recordBytes
	sent := wire.FromServer()
	t.Logf("filled in %s under load of %d writes: %d MiB of data, %d MiB on the wire (%.2f); anonymous memory at most: primary %d MiB, secondary %d MiB",
		time.Since(began).Round(time.Millisecond), written, data>>20, sent>>20, float64(sent)/float64(data), peaks[0]>>20, peaks[1]>>20)
	limit := int64(wireFactor * float64(data))
	if *records < 1_000_000 {
		// In a short run what was under way at a kill weighs more than the tenth that is allowed. The stream's own
		// window does not count: what it held is the load's, and in data with it.
		limit += kills * replication.LostAtMost
	}
	if sent > limit {
		t.Errorf("%d bytes on the wire for %d bytes of data, want at most %d", sent, data, limit)
	}
	for i, n := range []*cluster.Node{primary, secondary} {
		if peaks[i] == 0 || peaks[i] > anonMiB<<20 {
			t.Errorf("%s had %d MiB of anonymous memory, want less than %d", n.Name, peaks[i]>>20, anonMiB)
		}
	}
	primary.Stop()
	secondary.Stop()
	primary.MustCheck()
	secondary.MustCheck()
}

// recordBytes is what one record is, key and JSON around the value included.
const recordBytes = int64(len("r/000000000") + len(`{"value":""}`) + valueBytes)

// behindProxy makes a node whose cluster port others reach through a proxy only.
func behindProxy(t *testing.T, name string, o cluster.Options) (*cluster.Node, *cluster.Proxy) {
	t.Helper()
	wire := cluster.NewProxy(t)
	o.Top = append(o.Top, fmt.Sprintf("cluster_addr = %q", "https://"+wire.Address))
	n := cluster.New(t, name, o)
	wire.Serve(n.Cluster)
	return n, wire
}

// killAt kills a node once so many bytes went over the wire, and starts it again.
func killAt(t *testing.T, wire *cluster.Proxy, sent int64, victim *cluster.Node) {
	t.Helper()
	cluster.Eventually(t, 5*time.Minute, fmt.Sprintf("%d MiB are on the wire", sent>>20), func() (bool, string) {
		return wire.FromServer() >= sent, fmt.Sprintf("%d MiB\n%s", wire.FromServer()>>20, victim.LogTail(5))
	})
	t.Logf("%s killed after %d MiB on the wire", victim.Name, wire.FromServer()>>20)
	victim.Restart()
}

// load overwrites random records until its end.
type load struct {
	stop    context.CancelFunc
	done    sync.WaitGroup
	written atomic.Int64
}

func startLoad(primary *cluster.Node) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel}
	for range loadWriters {
		l.done.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond) // some hundred writes a second: a load, not the data again
			defer tick.Stop()
			for g := 1; ctx.Err() == nil; g++ {
				i := rand.IntN(*records)
				if primary.Put(context.Background(), cluster.Key("kv/r", i), cluster.Value(i, g, valueBytes)) == nil {
					l.written.Add(1)
				}
				<-tick.C
			}
		})
	}
	return l
}

func (l *load) end() int64 {
	l.stop()
	l.done.Wait()
	return l.written.Load()
}

// memory samples the anonymous memory of nodes and keeps each one's peak.
type memory struct {
	stop  context.CancelFunc
	done  sync.WaitGroup
	peaks []int64
}

func watchMemory(nodes ...*cluster.Node) *memory {
	ctx, cancel := context.WithCancel(context.Background())
	m := &memory{stop: cancel, peaks: make([]int64, len(nodes))}
	for i, n := range nodes {
		m.done.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				if rss, err := n.RssAnon(); err == nil {
					m.peaks[i] = max(m.peaks[i], rss)
				}
				<-tick.C
			}
		})
	}
	return m
}

func (m *memory) end() []int64 {
	m.stop()
	m.done.Wait()
	return m.peaks
}
