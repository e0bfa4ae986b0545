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

// variant is a way to build the server.
type variant struct {
	name string
	args []string
	env  string
}

var builds = map[string]func() (string, error){}

func init() {
	for _, v := range []variant{
		{"lockstep", nil, "CGO_ENABLED=0"},
		{"lockstep-race", []string{"-race"}, "CGO_ENABLED=1"},
		{"lockstep-chaosclock", []string{"-tags=chaosclock"}, "CGO_ENABLED=0"},
	} {
		builds[v.name] = sync.OnceValues(func() (string, error) { return build(v) })
	}
}

// Binary builds bin/lockstep for tests, with the race detector or without,
// once a test process, and returns its path. LOCKSTEP_TEST_BINARY names one
// that is taken instead.
func Binary(t testing.TB, race bool) string {
	t.Helper()
	if race {
		return binary(t, "lockstep-race")
	}
	return binary(t, "lockstep")
}

func binary(t testing.TB, name string) string {
	t.Helper()
	if path := os.Getenv("LOCKSTEP_TEST_BINARY"); path != "" {
		return path
	}
	path, err := builds[name]()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// binary is the one that the options ask for.
func (o *Options) binary(t testing.TB) string {
	t.Helper()
	switch {
	case o.Binary != "":
		return o.Binary
	case o.Clock != "" || o.Fuse != "":
		return binary(t, "lockstep-chaosclock")
	}
	return Binary(t, o.Race)
}

// build keeps the binary in the repository's .cache, where the go command
// leaves it alone as long as nothing changed. Tests of several packages run at
// once: a file lock lets one of them build.
func build(v variant) (string, error) {
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
	path := filepath.Join(dir, v.name)
	args := append([]string{"build", "-buildvcs=false"}, v.args...)
	cmd := exec.Command("go", append(args, "-o", path, "./cmd/lockstep")...)
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), v.env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return path, nil
}
