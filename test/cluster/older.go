package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Built builds a commit of this repository with a version of its own, "" for the source as it is, and returns the program's path. Programs of commits are kept in
// .cache. A test is skipped where the commit is not there, as in a shallow clone.
func Built(t testing.TB, commit, version string) string {
	t.Helper()
	dir := filepath.Join(Root(), ".cache", "older")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	source, path := Root(), filepath.Join(dir, "lockstep-now-"+version)
	if commit != "" {
		if _, err := git("cat-file", "-e", commit+"^{commit}"); err != nil {
			t.Skipf("commit %s is not in this clone's history, so there is no older program to build: git fetch --unshallow, or name one by LOCKSTEP_TEST_OLDER=PATH", commit)
		}
		path = filepath.Join(dir, "lockstep-"+commit+"-"+version)
		if _, err := os.Stat(path); err == nil {
			return path
		}
		source = unpacked(t, commit)
	}
	building := path + ".part"
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-X github.com/lockstepdb/lockstep/internal/buildinfo.Version="+version, "-o", building, "./cmd/lockstep")
	cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s of %s: %v\n%s", version, source, err, out)
	}
	if err := os.Rename(building, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// unpacked is a directory with the files of a commit.
func unpacked(t testing.TB, commit string) string {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join(dir, "source.tar")
	if _, err := git("archive", "--format=tar", "-o", archive, commit); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-xf", archive, "-C", source).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v\n%s", commit, err, out)
	}
	return source
}

func git(args ...string) (string, error) {
	cmd := exec.Command("git", append([]string{"-c", "safe.directory=*", "-C", Root()}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
