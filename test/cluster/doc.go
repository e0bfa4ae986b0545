// Package cluster runs real Lockstep servers for tests: it builds the binary
// once, starts processes on free loopback ports with directories of their
// own, drives them over HTTP and waits for what status says, never for time
// to pass.
//
// Every node of a test is judged when the test ends: its log must hold no
// panic, no stack trace and no report of the race detector. When a test fails
// the end of each node's log is printed; with LOCKSTEP_TEST_KEEP set the
// directories stay.
package cluster
