package machine

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// Description says where figures were measured.
type Description struct {
	System     string `json:"system"`
	Processor  string `json:"processor"`
	Cores      int    `json:"cores"`
	MemoryGiB  int    `json:"memory_gib"`
	FileSystem string `json:"file_system"` // of the directory measured in
	Go         string `json:"go"`
	Commit     string `json:"commit,omitempty"`
}

// Describe describes this machine, the file system of dir, and the commit of the working tree.
func Describe(dir, tree string) Description {
	d := Description{
		System: strings.TrimSpace(runtime.GOOS + " " + first("/proc/sys/kernel/osrelease")), Cores: runtime.NumCPU(),
		FileSystem: fileSystem(dir), Go: strings.TrimPrefix(runtime.Version(), "go"), Processor: runtime.GOARCH,
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "model name"); ok {
				d.Processor = strings.TrimSpace(strings.TrimLeft(rest, "\t :"))
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		d.MemoryGiB = int(statusKiB(text, "MemTotal:") >> 30)
	}
	if out, err := exec.Command("git", "-c", "safe.directory=*", "-C", tree, "describe", "--always", "--dirty").Output(); err == nil {
		d.Commit = strings.TrimSpace(string(out))
	}
	return d
}

func (d Description) String() string {
	return fmt.Sprintf("%s, %d cores, %d GiB, %s, %s, Go %s, commit %s", d.Processor, d.Cores, d.MemoryGiB, d.System, d.FileSystem, d.Go, d.Commit)
}

func first(path string) string {
	text, _ := os.ReadFile(path)
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
