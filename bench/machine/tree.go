package machine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// TreeCPU is ProcessCPU of a process and all that it started, those that have ended included.
func TreeCPU(pid int) float64 {
	sum := 0.0
	for _, p := range tree(pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue
		}
		// Fields 14 to 17: its own in user mode and in the kernel, and the same of children that have ended.
		fields := statFields(text)
		for i := 14 - 3; i <= 17-3 && i < len(fields); i++ {
			n, _ := strconv.ParseUint(fields[i], 10, 64)
			sum += float64(n) / ticks
		}
	}
	return sum
}

// TreeMemory is ProcessMemory of a process and all that it started; the peaks of all are added, though they need not
// have been at once.
func TreeMemory(pid int) Memory {
	var sum Memory
	for _, p := range tree(pid) {
		m := ProcessMemory(p)
		sum.Anonymous, sum.Peak = sum.Anonymous+m.Anonymous, sum.Peak+m.Peak
	}
	return sum
}

// tree returns a process and its descendants.
func tree(root int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	children := map[int][]int{}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
		if fields := statFields(text); len(fields) > 1 {
			parent, _ := strconv.Atoi(fields[1])
			children[parent] = append(children[parent], pid)
		}
	}
	all := []int{root}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// statFields returns the fields of a process's stat from the third on, behind the name in brackets.
func statFields(text []byte) []string {
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
}
