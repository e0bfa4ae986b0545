//go:build !linux

package machine

import (
	"errors"
	"os"
	"os/exec"
)

// Datasync makes a file durable.
func Datasync(f *os.File) error { return f.Sync() }

// StartAndWait starts a command and sends its exit on the channel returned.
func StartAndWait(cmd *exec.Cmd) (<-chan error, error) {
	ended := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		return ended, err
	}
	go func() {
		ended <- cmd.Wait()
		close(ended)
	}()
	return ended, nil
}

// Free is known on Linux only.
func Free(string) (int64, error) {
	return 0, errors.New("free space is known on Linux only: run this there")
}

// InMemory is known on Linux only.
func InMemory(string) bool { return false }

func fileSystem(string) string { return "unknown file system" }
