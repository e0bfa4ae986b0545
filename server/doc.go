// Package server is a node: its configuration, its data directory, its
// listeners, and the order in which everything starts and stops. What a node
// does is below it: server/engine keeps log and state, server/replication its
// part in replication sets, server/vault the API.
//
// # Promises
//
// Two processes never work on one data directory. Whatever instant a process
// dies at, the next start finds exactly one live store, whole: the one from
// before a change of generation or the one after it. The API's listener stays
// up over such a change; meanwhile it answers 503, and health and replication
// status say that the cluster is bootstrapping. A process that cannot make a
// commit durable answers no further write and ends with an error that names
// the file.
//
// Not promised: that a shutdown longer than shutdown_timeout makes its last
// checkpoint. Nothing acknowledged is lost by that; the next start replays the
// log.
//
// A node without an open seal answers health, seal status, init and unseal, and refuses everything else.
//
// # Data directory
//
// Mode 0700, its files 0600:
//
//	lock            held (flock) by the process that works here; its pid in decimal
//	CURRENT         name of the live generation and a newline
//	gen-NNNN/       a generation: a whole store as server/engine describes it, and
//	  role.json     {"format":1,"log":"writer"|"verbatim","secondary":bool}
//	  seal.json     the keys of the store, sealed; see internal/seal
//	dev-seal.key    of a development server: what unseals its store
//	trash/TIME-gen-NNNN/   generations that were replaced, kept for trash_keep
//	archive/        what rewinds and repairs took back, of all generations; server/archive describes it
//	*.new           unfinished; removed at the next start
//
// A generation is complete and synced before CURRENT is replaced by one
// rename, which alone decides. generation.go has the steps.
//
// # Goroutines
//
//	Run                the caller's; waits for the end, at most shutdown_timeout after it was asked for
//	serve (http)       the API listener, and net/http's own for connections
//	serve (opensearch) the same for listener "opensearch", if there is one
//	sweep              removes old trash
//	reloadLoop         takes SIGHUP's news (node.reload)
//	runCores           one core after the other; started by serve, which waits for it
//	  engine.Run       sequencer, committer, checkpointer; goes on under the next core when only the role changes
//	  replication.Run  the cluster port and the subscription to a primary
//	  vault.Run        removes expired tokens
//	  vault.FollowKeys takes over the primary's keys
//
// Start: lock (nobody else may touch the files), listener (callers hear that
// the server is starting, and a port in use is found before anything was
// recovered), seal (a store is opened when its seal is: by itself, or when enough shares have come), recovery, engine, replication, API, then the gate opens.
//
// Stop, the opposite: the gate shuts (no new request is let in), requests end
// or are cancelled, the API's own work and replication end (nothing more comes from a primary), the
// engine drains and makes its last checkpoint, files are closed, the listener
// ends, the lock is given back.
package server
