package replication

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// pause is between two writes of a test's load.
const pause = 2 * time.Millisecond

// writing has some writers write all the time, new records and the same ones again, until the function that it returns is called. Each writes some hundreds
// a second: as many as it can would take the processors from what is tested.
func (c *cluster) writing(ks storage.KeyspaceID, writers int) (stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			pace := time.NewTicker(pause)
			defer pace.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				<-pace.C
				tx := &engine.Tx{Writes: []engine.Write{enginetest.Put(ks, storage.Replicated, fmt.Sprintf("load/%d/%d", w, i%500), fmt.Sprint("turn ", i))}}
				if i%7 == 3 {
					tx.Writes = append(tx.Writes, enginetest.Delete(ks, storage.Replicated, fmt.Sprintf("load/%d/%d", w, (i+250)%500)))
				}
				if _, err := c.e.Do(context.Background(), tx); err != nil {
					return // the primary is being restarted
				}
			}
		})
	}
	return sync.OnceFunc(func() { cancel(); wg.Wait() })
}

func TestBootstrapUnderLoadConverges(t *testing.T) {
	bothKinds(t, func(t *testing.T, k Kind) {
		p, _ := newPrimary(t, func(c *engine.Config) { c.CheckpointInterval = 50 * time.Millisecond })
		p.load(shared, storage.Replicated, "base/", scaled(10_000), 200)
		p.checkpoint()
		stop := p.writing(shared, 4)
		defer stop()
		s := p.follow(k, "s")
		s.until("the secondary streams while writes go on", func() bool { return s.n.link[k].get().Machine.Name == StateStreamWALs })
		stop()
		p.caughtUp(k, s)
		if got := s.n.link[k].get().Resumes; got.Bootstrap != 1 || got.Repair != 0 {
			t.Errorf("answers: got %+v, want one bootstrap", got)
		}
	})
}

func TestRestartsDuringBootstrapSendNothingTwice(t *testing.T) {
	bothKinds(t, func(t *testing.T, k Kind) {
		records, size := 60_000, 512 // so many that their tenth is more than what chance adds to what was under way
		if raceEnabled {
			records = 8_000
		}
		p, px := newPrimary(t, func(c *engine.Config) { c.CheckpointInterval = 500 * time.Millisecond })
		p.load(shared, storage.Replicated, "base/", records, size)
		p.checkpoint()
		stop := p.writing(second, 1)
		defer func() { stop() }()
		px.down.Store(0)
		s := p.enrol(k, "s")
		for turn := range 3 {
			mark := px.down.Load()
			s.run()
			s.until("a quarter has been received", func() bool {
				return px.down.Load()-mark > int64(records*size/4) || s.n.link[k].get().Machine.Name == StateStreamWALs
			})
			s.stop()
			s.e = enginetest.Reopen(t, s.e)
			if turn == 1 {
				stop()
				p.restart()
				stop = p.writing(second, 1)
			}
		}
		s.run()
		s.until("the secondary streams", func() bool { return s.n.link[k].get().Machine.Name == StateStreamWALs })
		stop()
		p.caughtUp(k, s)
		data := int64(records) * int64(size+len("base/000000"))
		// What the stream brought beside the ranges is written by the test's own load, and bounded by it.
		streamed := p.e.LogBytes(1)
		underWay := int64(3 * LostAtMost) // at three interruptions; a tenth covers framing and encryption
		if got := px.down.Load() - streamed; got > data*11/10+underWay {
			t.Errorf("bytes on the wire beside the stream: got %d, want at most 1.1 times the data, %d, and what was under way", got, data)
		}
	})
}

func TestARecordThatDiffersIsFoundByItsRootAndRepairedAlone(t *testing.T) {
	t.Parallel()
	p, _ := newPrimary(t)
	p.load(shared, storage.Replicated, "base/", scaled(20_000), 50)
	p.checkpoint()
	s := p.follow(Performance, "s")
	p.caughtUp(Performance, s)
	before := s.n.link[Performance].get()
	enginetest.MustDo(t, s.e, enginetest.Put(shared, storage.Replicated, "base/003777", "not what the primary has"),
		enginetest.Put(shared, storage.Replicated, "base/extra", "nor this"), enginetest.Delete(shared, storage.Replicated, "base/001234"),
		enginetest.Put(local, storage.Local, "own", "stays"))
	s.until("it was found", func() bool { return strings.Contains(s.logs.String(), "the root differs from the primary's") })
	p.caughtUp(Performance, s)
	link := s.n.link[Performance].get()
	if got := link.DiffBytes + link.SyncBytes - before.DiffBytes - before.SyncBytes; got > 100<<10 {
		t.Errorf("bytes on the wire: got %d, want at most 100 KiB", got)
	}
	if got := enginetest.Content(t, s.e)[local]["own"]; got != "stays" {
		t.Errorf("local record: got %q, want it left alone", got)
	}
	for _, word := range []string{"root=", "primary_root="} {
		if !strings.Contains(s.logs.String(), word) {
			t.Errorf("the log lacks %q", word)
		}
	}
}

func TestARottenValueIsRepairedFromThePrimary(t *testing.T) {
	bothKinds(t, func(t *testing.T, k Kind) {
		p, _ := newPrimary(t)
		p.load(shared, storage.Replicated, "base/", scaled(20_000), 50)
		enginetest.MustDo(t, p.e, enginetest.Put(shared, storage.Replicated, "victim", "the value that rots"))
		p.checkpoint()
		s := p.follow(k, "s")
		p.caughtUp(k, s)
		s.checkpoint()
		s.stop()
		dir := enginetest.Dir(t, s.e)
		enginetest.Stop(t, s.e)
		rot(t, filepath.Join(dir, "state.db"), "the value that rots")
		role := engine.Writer
		if k == DR {
			role = engine.Verbatim
		}
		s.e = enginetest.Open(t, dir, role, func(c *engine.Config) { c.Repairable = true })
		s.run()
		if _, err := s.e.Check(enginetest.Context(t), nil); err != nil {
			t.Fatalf("checking: %v", err)
		}
		s.until("the record is whole again", func() bool {
			r, err := s.e.Get(shared, []byte("victim"))
			return err == nil && string(r.Value) == "the value that rots"
		})
		p.caughtUp(k, s)
		link := s.n.link[k].get()
		if got := link.DiffBytes + link.SyncBytes; got > 100<<10 {
			t.Errorf("bytes on the wire: got %d, want at most 100 KiB", got)
		}
		if link.Resumes.Bootstrap != 0 {
			t.Errorf("answers: got %+v, want no bootstrap", link.Resumes)
		}
		enginetest.Check(t, s.e)
	})
}

// rot changes one byte of every copy of a text in a file.
func rot(t *testing.T, path, text string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := bytes.Count(b, []byte(text))
	if n == 0 {
		t.Fatalf("%s does not hold %q", path, text)
	}
	b = bytes.ReplaceAll(b, []byte(text), append([]byte("T"), text[1:]...))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
