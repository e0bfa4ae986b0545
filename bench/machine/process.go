package machine

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Memory is memory of a process, in bytes.
type Memory struct {
	Anonymous int64 // RssAnon: what is its own; pages of mapped files do not count
	Peak      int64 // VmHWM: the most that was ever resident, mapped files included
}

// ProcessMemory reads the memory of a process; zeros where the system does not say.
func ProcessMemory(pid int) Memory {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}
	}
	return Memory{Anonymous: statusKiB(text, "RssAnon:"), Peak: statusKiB(text, "VmHWM:")}
}

// ResetPeak lets Peak begin anew, where the system allows it.
func ResetPeak(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

func statusKiB(text []byte, name string) int64 {
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0
			}
			return n << 10
		}
	}
	return 0
}

// ProcessCPU returns the seconds of one core that a process used so far, in user mode and in the kernel.
func ProcessCPU(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	seconds, err := parseProcessStat(text)
	if err != nil {
		return 0
	}
	return seconds
}

// parseProcessStat reads fields 14 and 15. The second is the program's name in brackets, which may hold anything.
func parseProcessStat(text []byte) (float64, error) {
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return 0, fmt.Errorf("stat of a process: %.60q has no name", text)
	}
	fields := strings.Fields(string(text[end+1:]))
	const user, system = 14 - 3, 15 - 3 // the first after the name is the third
	if len(fields) <= system {
		return 0, fmt.Errorf("stat of a process: %d fields after the name are too few", len(fields))
	}
	var sum uint64
	for _, f := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("stat of a process: %w", err)
		}
		sum += n
	}
	return float64(sum) / ticks, nil
}
