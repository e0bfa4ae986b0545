package machine

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// Datasync makes a file's data durable, and of its metadata what is needed to read it.
func Datasync(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }

// StartAndWait starts a command that ends when this process does, however that ends, and sends its exit on the channel
// returned, which is closed then. The signal fires when the thread that started a child ends, so that one waits for it.
func StartAndWait(cmd *exec.Cmd) (<-chan error, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
			close(ended)
		}
	}()
	return ended, <-started
}

// Free returns the bytes that may be written to a directory's file system.
func Free(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

const (
	tmpfs = 0x01021994
	ramfs = 0x858458f6
)

var fileSystems = map[uint32]string{
	0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", tmpfs: "tmpfs", ramfs: "ramfs", 0x794c7630: "overlay", 0x2FC12FC1: "zfs",
}

func fileSystem(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "unknown file system"
	}
	if name := fileSystems[uint32(s.Type)]; name != "" {
		return name
	}
	return fmt.Sprintf("file system %#x", uint32(s.Type))
}

// InMemory reports whether a directory lies in memory, where a sync costs nothing.
func InMemory(dir string) bool {
	fs := fileSystem(dir)
	return fs == "tmpfs" || fs == "ramfs"
}
