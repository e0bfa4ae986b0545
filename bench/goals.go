package main

import "github.com/lockstepdb/lockstep/bench/report"

// goals are what is to be reached, each as a ratio to a limit that is measured in the same run: the rate on the machine
// that the goal was set on, divided by the limit's there. Figures of that machine are in the comments.
var goals = []report.Goal{
	// 31.6 k/s by the handler with 64 clients, 25.8 k/s with 256, 25.1 k/s over TLS.
	{Row: "write/plain/64", Limit: "limit/handler/plain/64", Must: 0.45, Aim: 0.60, What: "write without a secondary, 64 clients", Unit: "/s"},
}
