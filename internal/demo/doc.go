// Package demo is the story that `make demo` tells: three real server
// processes on this machine replicate a real data set, one of them is killed
// on the way, and at the end every acknowledged record is looked for on all
// three, by means that the servers do not provide.
//
// It talks to the servers as anybody would, over the HTTP API, and judges the
// killed one's files by `lockstep check`. The list of acknowledged records is
// its own. It uses no network beside this machine's loopback address.
package demo
