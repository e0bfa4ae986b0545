package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// seam stands around all commits of a store, one at a time, so that its files are still while a test looks at them.
type seam struct {
	mu     sync.Mutex
	count  int
	before func(n int, file string) error
	after  func(n int, file string) error
}

func (s *seam) around(file string, commit func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	if s.before != nil {
		if err := s.before(s.count, file); err != nil {
			return err
		}
	}
	if err := commit(); err != nil {
		return err
	}
	if s.after != nil {
		return s.after(s.count, file)
	}
	return nil
}

// copyStore copies a directory; blocks of zeros stay holes.
func copyStore(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.Walk(from, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if info.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		return copyFile(path, filepath.Join(to, rel))
	})
	if err != nil {
		t.Errorf("copying the store: %v", err)
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	buf := make([]byte, 1<<16)
	size := int64(0)
	for {
		n, err := in.Read(buf)
		if strings.Trim(string(buf[:n]), "\x00") != "" {
			if _, err := out.WriteAt(buf[:n], size); err != nil {
				return err
			}
		}
		size += int64(n)
		if err == io.EOF {
			return out.Truncate(size)
		}
		if err != nil {
			return err
		}
	}
}

// acked is what clients were told is durable.
type acked struct {
	mu   sync.Mutex
	vals map[string]string
}

func (a *acked) set(k, v string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.vals[k] = v
}

func (a *acked) copy() map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string]string, len(a.vals))
	for k, v := range a.vals {
		out[k] = v
	}
	return out
}

func newAcked() *acked { return &acked{vals: map[string]string{}} }

// mustHold reports acknowledged writes that a store lacks. Values are counters: a later one may be there.
func mustHold(t *testing.T, e *engine.Engine, want map[string]string) {
	t.Helper()
	for k, v := range want {
		r, err := e.Get(shared, []byte(k))
		if err != nil {
			t.Errorf("acknowledged write %s=%s: %v", k, v, err)
		} else if string(r.Value) < v {
			t.Errorf("acknowledged write %s=%s: got %s", k, v, r.Value)
		}
	}
}

// write lets workers write until stop is closed or an error comes.
func write(e *engine.Engine, a *acked, stop <-chan struct{}) (wait func()) {
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				k, v := fmt.Sprintf("w%d-%02d", w, i%40), fmt.Sprintf("%06d", i)
				writes := []engine.Write{put(k, v)}
				if i%7 == 3 {
					writes = append(writes, enginetest.Put(local, storage.Local, k, v))
				}
				if _, err := e.Do(context.Background(), &engine.Tx{Writes: writes}); err != nil {
					return
				}
				a.set(k, v)
			}
		})
	}
	return wg.Wait
}

// crashes is how many places of a run a test looks at.
var crashes = fewer(24, 16)

func TestKilledAtAnyCommitNothingAcknowledgedIsLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := newAcked()
	type image struct {
		dir  string
		what string
		want map[string]string
	}
	var images []image
	stop := make(chan struct{})
	s := &seam{}
	source := ""
	take := func(n int, file, when string) {
		if n%5 != 0 || len(images) >= crashes || source == "" {
			return
		}
		im := image{filepath.Join(dir, fmt.Sprint(len(images))), fmt.Sprintf("%s commit %d, of %s", when, n, filepath.Base(file)), a.copy()}
		copyStore(t, source, im.dir)
		if images = append(images, im); len(images) == crashes {
			close(stop)
		}
	}
	s.before = func(n int, file string) error { take(n+n/5%2, file, "before"); return nil }
	s.after = func(n int, file string) error { take(n+1-n/5%2, file, "after"); return nil }
	e := enginetest.New(t, engine.Writer, small, func(c *engine.Config) {
		c.SegmentBytes, c.CheckpointBytes, c.Seam = 4<<10, 4<<10, s.around
		source = c.Dir
	})
	write(e, a, stop)()
	for _, im := range images {
		t.Run(im.what, func(t *testing.T) {
			e := enginetest.Open(t, im.dir, engine.Writer, small)
			mustHold(t, e, im.want)
			enginetest.Check(t, e)
			enginetest.MustDo(t, e, put("more", "x"))
		})
	}
}

var errDisk = errors.New("the disk failed")

func TestFailedCommitEndsTheEngineAndLosesNothing(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(file string) bool{
		"log":      func(f string) bool { return strings.Contains(f, "/log/") && filepath.Base(f) != "meta.db" },
		"metadata": func(f string) bool { return filepath.Base(f) == "meta.db" },
		"state":    func(f string) bool { return filepath.Base(f) == "state.db" },
	}
	for kind, is := range kinds {
		for _, when := range []string{"before", "after"} {
			t.Run(fmt.Sprintf("%s, %s the bytes are durable", kind, when), func(t *testing.T) {
				failAt := 12
				if kind == "metadata" {
					failAt = 3
				}
				s := &seam{}
				seen, failed := 0, ""
				fail := func(_ int, file string) error {
					if !is(file) || failed != "" {
						return nil
					}
					if seen++; seen < failAt {
						return nil
					}
					failed = file
					return errDisk
				}
				if when == "before" {
					s.before = fail
				} else {
					s.after = fail
				}
				a := newAcked()
				e := enginetest.New(t, engine.Writer, func(c *engine.Config) {
					c.SegmentBytes, c.CheckpointBytes, c.Seam = 8<<10, 2<<10, s.around
				})
				write(e, a, nil)()
				_, err := e.Do(context.Background(), &engine.Tx{Writes: []engine.Write{put("x", "y")}})
				if !errors.Is(err, engine.ErrPoisoned) {
					t.Errorf("a write after the failure: got %v, want ErrPoisoned", err)
				}
				if err := e.Writable(); !errors.Is(err, engine.ErrPoisoned) {
					t.Errorf("Writable: got %v, want ErrPoisoned", err)
				}
				dir := enginetest.Dir(t, e)
				if err := enginetest.Wait(t, e); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), failed) {
					t.Errorf("Run: got %v, want an error that names %s", err, failed)
				}
				again := enginetest.Open(t, dir, engine.Writer)
				mustHold(t, again, a.copy())
				enginetest.MustDo(t, again, put("more", "x"))
			})
		}
	}
}
