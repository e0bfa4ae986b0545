package main

import "github.com/lockstepdb/lockstep/bench/report"

// The limits that goals are measured by.
const (
	handler64     = "limit/handler/plain/64"
	handler256    = "limit/handler/plain/256"
	handlerTLS64  = "limit/handler/tls/64"
	handlerTLS256 = "limit/handler/tls/256"
	commit1       = "limit/commit/1"
	commit64      = "limit/commit/64"
)

// What the limits were on the machine that the goals were set on: a goal there divided by the limit there is what must
// be reached everywhere.
const (
	handler64There    = 31_600
	handler64P99There = 7.7
	handler64P50There = 1.7
	handler256There   = 25_800
	handlerTLSThere   = 25_100
	commit1There      = 4_600
	commit1P99There   = 0.40
	commit64There     = 68_500
)

var goals = []report.Goal{
	{What: "PUT, 64 clients, one secondary", Unit: "/s", Row: "replicated/plain/64", Limit: handler64, Must: 0.30, Aim: 0.40},
	{What: "its lag at the end", Unit: "ms", Row: "replicated/plain/64", Figure: lagAtEnd, Must: 1000, Lower: true},
	{What: "its p99", Unit: "ms", Row: "replicated/plain/64", Figure: "p99", Limit: handler64, LimitFigure: "p99",
		Must: 25 / handler64P99There, Aim: 12 / handler64P99There, Lower: true},
	{What: "PUT over TLS, 64 clients, one secondary", Unit: "/s", Row: "replicated/tls/64", Limit: handlerTLS64,
		Must: 7_500. / handlerTLSThere, Aim: 10_000. / handlerTLSThere},
	{What: "PUT, 256 clients, one secondary", Unit: "/s", Row: "replicated/plain/256", Limit: handler256,
		Must: 11_000. / handler256There, Aim: 16_000. / handler256There},
	{What: "PUT, 1 client, one secondary", Unit: "/s", Row: "replicated/plain/1", Limit: commit1, Must: 2_000. / commit1There, Aim: 2_800. / commit1There},
	{What: "KV v2 PUT, 64 clients, one secondary", Unit: "/s", Row: "kv2/plain/64", Limit: handler64, Must: 7_000. / handler64There, Aim: 10_000. / handler64There},
	{What: "PUT without a secondary, 64 clients", Unit: "/s", Row: "write/plain/64", Limit: handler64, Must: 0.45, Aim: 0.60},
	{What: "GET, 64 clients", Unit: "/s", Row: "read/plain/64", Limit: handler64, Must: 20_000. / handler64There, Aim: 0.80},
	{What: "PUT answered when applied, 64 clients", Unit: "/s", Row: "applied/plain/64", Limit: handler64, Must: 8_000. / handler64There, Aim: 10_000. / handler64There},
	{What: "lag, idle, p99", Unit: "ms", Row: "lag/idle", Figure: "p99", Limit: commit1, LimitFigure: "p99",
		Must: 2 / commit1P99There, Aim: 1 / commit1P99There, Lower: true},
	{What: "lag under 64 clients, p50", Unit: "ms", Row: "lag/full", Figure: "p50", Limit: handler64, LimitFigure: "p50",
		Must: 1.5 / handler64P50There, Aim: 1 / handler64P50There, Lower: true},
	{What: "lag under 64 clients, p99", Unit: "ms", Row: "lag/full", Figure: "p99", Limit: handler64, LimitFigure: "p99",
		Must: 15 / handler64P99There, Aim: 8 / handler64P99There, Lower: true},
	{What: "catch-up from the log", Unit: "entries/s", Row: "catch-up", Limit: commit64, Must: 40_000. / commit64There, Aim: 80_000. / commit64There},
	{What: "bootstrap of 1,000,000 records", Unit: "records/s", Row: "bootstrap", Figure: "records/s", Limit: commit64,
		Must: 125_000. / commit64There, Aim: 250_000. / commit64There},
	{What: "diff of 1,000,000 records, 100 differences", Unit: "ms", Row: "diff/100/rtt0", Must: 200, Aim: 50, Lower: true},
	{What: "its bytes", Unit: "KB", Row: "diff/100/rtt0", Figure: "KB on the link", Must: 400, Aim: 150, Lower: true},
	{What: "promote to first accepted write", Unit: "ms", Row: "promote", Must: 50, Aim: 10, Lower: true},
	{What: "restart after kill, 1,000,000 records", Unit: "s", Row: "restart", Must: 2, Aim: 0.5, Lower: true},
	{What: "processor time of the primary for an idle secondary, of 100", Unit: "% of a core", Row: "idle/100", Must: 0.02, Lower: true},
	{What: "memory for each of them", Unit: "KB", Row: "idle/100", Figure: memoryEach, Must: 200, Lower: true},
	{What: "100 secondaries at 2,000 writes/s: the last is behind by", Unit: "s", Row: "fanout/100", Must: 1, Lower: true},
	{What: "PUT rate with 10,000,000 records over that with 10,000", Unit: "", Row: "growth", Must: 0.6, Aim: 0.8},
}
