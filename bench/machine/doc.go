// Package machine reads what the system says about itself: processor time of the machine and of processes, time that
// the hypervisor gave to others (steal), memory of processes, and what a reader of the figures wants to know of the
// hardware. It reads /proc; on other systems than Linux those figures are absent.
package machine
