//go:build !chaosclock

package server

import "time"

// wallClock is the clock of everything that a node writes down or judges by time.
func wallClock() time.Time { return time.Now() }
