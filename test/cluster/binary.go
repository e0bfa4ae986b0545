package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// Root returns the top of the repository.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

var builds = map[bool]func() (string, error){
	false: sync.OnceValues(func() (string, error) { return build(false) }),
	true:  sync.OnceValues(func() (string, error) { return build(true) }),
}

// Binary builds bin/lockstep for tests, with the race detector or without,
// once a test process, and returns its path. LOCKSTEP_TEST_BINARY names one
// that is taken instead.
func Binary(t testing.TB, race bool) string {
	t.Helper()
	if path := os.Getenv("LOCKSTEP_TEST_BINARY"); path != "" {
		return path
	}
	path, err := builds[race]()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// build keeps the binary in the repository's .cache, where the go command
// leaves it alone as long as nothing changed. Tests of several packages run at
// once: a file lock lets one of them build.
func build(race bool) (string, error) {
	dir := filepath.Join(Root(), ".cache", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("build the server: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", fmt.Errorf("build the server: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("build the server: %w", err)
	}
	name, args, env := "lockstep", []string{"build", "-buildvcs=false"}, "CGO_ENABLED=0"
	if race {
		name, args, env = "lockstep-race", append(args, "-race"), "CGO_ENABLED=1"
	}
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", append(args, "-o", path, "./cmd/lockstep")...)
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return path, nil
}
