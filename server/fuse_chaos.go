//go:build chaosclock

package server

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// FuseVariable names a file by which tests end the process at a commit of their choice: "3 before" kills it instead of the third commit from then on, "3 after" when
// its bytes are durable. The file is removed when it is read. Only a build with the tag chaosclock has it.
const FuseVariable = "LOCKSTEP_CHAOS_FUSE"

var burning struct {
	mu    sync.Mutex
	left  int // commits until the end; 0: not lit
	after bool
}

// fused counts commits, whatever the store or role, and ends the process when its time has come.
func fused(s boltfile.Seam) boltfile.Seam {
	path := os.Getenv(FuseVariable)
	if path == "" {
		return s
	}
	return func(file string, commit func() error) error {
		end, after := burns(path)
		if end && !after {
			kill()
		}
		var err error
		if s == nil {
			err = commit()
		} else {
			err = s(file, commit)
		}
		if end {
			kill()
		}
		return err
	}
}

// burns counts one commit.
func burns(path string) (end, after bool) {
	burning.mu.Lock()
	defer burning.mu.Unlock()
	if text, err := os.ReadFile(path); err == nil {
		var when string
		burning.left = 0
		if _, err := fmt.Sscan(string(text), &burning.left, &when); err == nil {
			burning.after = when == "after"
		}
		_ = os.Remove(path) // read twice it would count anew, and the test would see that nothing ends
	}
	if burning.left == 0 {
		return false, false
	}
	burning.left--
	return burning.left == 0, burning.after
}

func kill() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}
