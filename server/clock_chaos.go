//go:build chaosclock

package server

import (
	"os"
	"strings"
	"sync"
	"time"
)

// ClockVariable names a file with a duration that is added to the clock: how tests make a clock jump. Only a build with the tag chaosclock has it.
const ClockVariable = "LOCKSTEP_CHAOS_CLOCK"

// clockAge is how long a read offset is used, so that reading the clock costs no system call each time.
const clockAge = 20 * time.Millisecond

var clock struct {
	mu     sync.Mutex
	read   time.Time
	offset time.Duration
}

// wallClock is the system's clock with the offset of the test.
func wallClock() time.Time {
	now, file := time.Now(), os.Getenv(ClockVariable)
	if file == "" {
		return now
	}
	clock.mu.Lock()
	defer clock.mu.Unlock()
	if now.Sub(clock.read) > clockAge {
		clock.read, clock.offset = now, 0
		if text, err := os.ReadFile(file); err == nil {
			clock.offset, _ = time.ParseDuration(strings.TrimSpace(string(text)))
		}
	}
	return now.Add(clock.offset)
}
