package divergence

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

var (
	trials = flag.Int("trials", 12, "bytes that TestRandomByte changes")
	seed   = flag.Uint64("seed", 0, "seed of TestRandomByte; 0 takes one from the clock and prints it")
)

const sample = 2000 // records of TestRandomByte

// TestRandomByte changes one byte anywhere in any file of a stopped cluster.
// Check and server may refuse, naming something; they never panic, die by a
// signal, or serve a value that was not written.
func TestRandomByte(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d -trials=%d", *seed, *trials)
	r := rand.New(rand.NewPCG(*seed, 0))
	n := cluster.New(t, "sample", cluster.Options{Replication: []string{`segment_entries = 512`, `checkpoint_interval = "200ms"`}})
	n.Start()
	n.Init()
	n.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	cluster.Fill(t, n, "kv/r", sample/2, valueBytes)
	cluster.Fill(t, n, "kv/s", sample/2, valueBytes)
	n.Kill() // not every file is at rest: the log is ahead of the state
	sound := filepath.Join(t.TempDir(), "sound")
	cluster.CopyDir(t, sound, n.Data)
	files := filesOf(t, sound)
	for i := range *trials {
		file := files[i%len(files)]
		t.Run(fmt.Sprintf("%d %s", i, filepath.Base(file)), func(t *testing.T) { oneByte(t, n, sound, file, r) })
	}
}

func filesOf(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "reserve" || d.Name() == "lock" {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if info, e := d.Info(); e == nil && info.Size() > 0 {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func oneByte(t *testing.T, n *cluster.Node, sound, file string, r *rand.Rand) {
	if err := os.RemoveAll(n.Data); err != nil {
		t.Fatal(err)
	}
	cluster.CopyDir(t, n.Data, sound)
	if err := os.Chmod(n.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.Data, file)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	at, mask := r.Int64N(used(t, path, info.Size())), byte(1+r.IntN(255))
	cluster.FlipByte(t, path, at, mask)
	t.Logf("byte %d of %s, mask %#x", at, file, mask)

	report, err := n.Check()
	demandOwnEnd(t, "lockstep check", err, report)
	n.Launch()
	served := readable(t, n)
	defer n.Kill()
	if !served {
		return
	}
	ctx, wrong, refused := context.Background(), 0, 0
	for i := 0; i < sample/2; i += 3 {
		for _, path := range []string{"kv/r", "kv/s"} {
			value, found, err := n.Get(ctx, cluster.Key(path, i))
			switch {
			case err != nil:
				refused++
			case !found || value != cluster.Value(i, 0, valueBytes):
				wrong++
				t.Errorf("record %d: found %t, value %.40q; check had said: %.300s", i, found, value, report)
			}
		}
		if wrong > 3 || !n.Running() {
			break
		}
	}
	if !n.Running() {
		demandOwnEnd(t, "lockstep server", n.WaitExit(time.Second), n.LogTail(20))
	}
	t.Logf("%d reads refused", refused)
}

// used returns the size of a file without the zeros at its end: bytes that
// were reserved and never written tell nothing.
func used(t *testing.T, path string, size int64) int64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for size > 1 && b[size-1] == 0 {
		size--
	}
	return size
}

// readable waits until the server serves records or has ended; true when it serves.
func readable(t *testing.T, n *cluster.Node) bool {
	t.Helper()
	served := false
	cluster.Eventually(t, cluster.Deadline, "the server serves or refuses to start", func() (bool, string) {
		if !n.Running() {
			demandOwnEnd(t, "lockstep server", n.WaitExit(time.Second), n.LogTail(20))
			return true, ""
		}
		answer, err := n.Do(context.Background(), "GET", "sys/health", nil)
		if err != nil {
			return false, err.Error()
		}
		served = answer.Status == 200
		// 501: it took its store for an empty one.
		if answer.Status == 501 {
			t.Errorf("after the damage the cluster takes itself for a new one: %s", answer.Body)
			return true, ""
		}
		return served, fmt.Sprint(answer.Status)
	})
	return served
}

// demandOwnEnd demands that a process ended by its own decision: with code 0
// or 1 and words, not by a signal or a panic (Go's exit code 2).
func demandOwnEnd(t *testing.T, what string, err error, words string) {
	t.Helper()
	var exit *exec.ExitError
	if err == nil {
		return
	}
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%s ended with %v:\n%s", what, err, words)
	}
	if strings.TrimSpace(words) == "" {
		t.Errorf("%s ended with %v and says nothing", what, err)
	}
}
