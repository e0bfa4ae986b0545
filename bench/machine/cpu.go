package machine

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticks is the unit of processor time in /proc: 1/100 s on every Linux that Go runs on.
const ticks = 100

// CPU is processor time of the whole machine since its start, in seconds of one core.
type CPU struct {
	Total, Idle, Steal float64
}

// ReadCPU reads the machine's processor time; zeros where the system does not say.
func ReadCPU() CPU {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return CPU{}
	}
	c, err := parseStat(text)
	if err != nil {
		return CPU{}
	}
	return c
}

// Sub returns what passed since an earlier reading.
func (c CPU) Sub(earlier CPU) CPU {
	return CPU{c.Total - earlier.Total, c.Idle - earlier.Idle, c.Steal - earlier.Steal}
}

// StealPercent returns which share of one core, in percent, the hypervisor gave to others over seconds of time. A
// machine of two cores can lose 200.
func (c CPU) StealPercent(seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return c.Steal / seconds * 100
}

// parseStat reads the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice.
// The last two are part of user and nice.
func parseStat(text []byte) (CPU, error) {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 9 || fields[0] != "cpu" {
		return CPU{}, fmt.Errorf("/proc/stat: %.60q is not a line of processor times", line)
	}
	var c CPU
	for i, f := range fields[1:9] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return CPU{}, fmt.Errorf("/proc/stat: %w", err)
		}
		seconds := float64(n) / ticks
		c.Total += seconds
		switch i {
		case 3, 4: // idle, and idle while a disk works
			c.Idle += seconds
		case 7:
			c.Steal += seconds
		}
	}
	return c, nil
}
