// Package load drives an HTTP server with a fixed number of clients, each on a keep-alive HTTP/1.1 connection of its
// own, and times every request. It is made to cost little, because it runs on the processors of the server that it
// measures: a request is bytes that are sent as they are, and an answer is read no further than its status and its end.
//
// The loop is closed: a client sends its next request when the last one was answered. What a stall of the server would
// have kept waiting elsewhere is therefore not in the percentiles; the largest latency shows it.
//
// Any answer that is not a success, and any broken connection, ends the run as failed: a server that refuses is fast.
package load
