// Package replication is a cluster's part in its replication sets: it enrols secondaries and is enrolled, serves the cluster port, streams the log, and
// brings what differs into line.
//
// # What it promises
//
//   - Where a stream begins is decided in one pure function, place, from histories alone; a hash verifies a place and never finds one.
//   - A secondary's life is one pure function, Step: every pair of state and event is answered, the pairs that cannot occur by a named error. At
//     most three rounds of diff and sync follow each other, then one with a rebuilt index, then it stops with the reason.
//   - An activation token is redeemed once, in the entry that registers the secondary; for five minutes the same certificate request gets the same
//     certificate, and any other is refused, logged and shown.
//   - A role change is written down before its first step and completed whenever the process dies in between; it copies nothing and wipes nothing.
//   - Nothing is cleared and no token is spent before address, CA, clock, version, cluster port and disk were checked.
//   - A private key never leaves its node. No token, key or digest secret is logged or part of an error.
//   - A performance secondary is sent what its coverage takes and nothing else, in streams and in syncs. Coverage is a function of filter and mount table as of
//     an index (coverage.go); each change is told in stream order. A secondary that was told to cover less keeps to it until who knows of that widens it.
//   - A revoked secondary is refused at the handshake and at every call, and what it has open is cut at once.
//   - What secondaries tell is bounded in number and length; the log is held for them within the limits of the engine and no further.
//
// # What it does not
//
// Of mounts it knows their paths and keyspaces (Config.Mounts), for paths filters, and of policies and tokens of clients nothing. It decides nothing from a clock: the offset checked at activation, certificates' lives and lag are for
// trust and for people. It does not fail over by itself. Whoever holds a token before it is redeemed can enrol in its stead (package token). The answer to
// an activation holds the set's digest secret: on an API listener without TLS it crosses the network unprotected, and the caller is warned.
//
// # Where things are kept
//
// Node scope (never leaves this node; k is dr or performance):
//
//	replication/<k>/set         this cluster's part: setConfig (JSON); of a performance primary it is a record instead
//	replication/<k>/ca-key      primary: the set's CA key (PKCS 8, PEM)
//	replication/<k>/token-key   DR primary: seed of the Ed25519 key that signs activation tokens; of a performance primary a record
//	replication/<k>/tls-key     secondary: key of its certificate (PKCS 8, PEM)
//	replication/<k>/seen        newest history seen of the set (JSON)
//	replication/<k>/confirmed   highest index that the primary said to be confirmed (JSON)
//	replication/pending/<jti>   an activation under way: its key and request (JSON); gone with the old store, or when the primary refused
//	replication/<k>/public-key  the key pair of generate-public-key, until it is used (JSON)
//	replication/performance/successor   DR secondary: the CA that it will have in its primary's performance set, with its key (JSON)
//	replication/<k>/fence       primary: why it takes no writes, and the history that it met (JSON)
//	replication/<k>/herald      promoted or re-pointed: how the former primary is reached, with a key and certificate (JSON)
//	replication/<k>/farewell    secondary: where its primary's part ended, once that one said so (JSON)
//	replication/<k>/demotion    demoted: how its secondaries stood then (JSON)
//	replication/<k>/contact     secondary: what it last heard of its primary, for the figures of a promotion (JSON)
//	replication/intent          a role change that has begun and not ended, with the keys that it mints (JSON)
//	replication/maintenance     when the index was last rebuilt and checked (JSON)
//
// Records of the system's local keyspace, which DR secondaries hold too, so that a promoted one goes on with them:
//
//	replication/performance/set, replication/performance/token-key
//	replication/performance/member     what a performance secondary is in its set, for its DR secondaries: memberRecord (JSON)
//	replication/<k>/change             id of the role change that last wrote to the log
//	replication/performance/filter/<id>   filterRecord (JSON): a secondary's paths filter; it may be there before the secondary
//	replication/performance/coverage      heldCoverage (JSON), of a secondary: what it was last told to leave out
//	replication/<k>/synchronous        level that answers of the set's primary wait for (its text)
//	replication/<k>/secondary/<id>     secondaryRecord (JSON): issued, active or revoked
//	replication/<k>/activation/<jti>   activationRecord (JSON): by which request it was redeemed, and the certificate
//
// # Trust
//
// Each set has a private CA. A secondary's certificate names it by the URI repl://<set>/<kind>/<id>, is good for client authentication only and for 48
// hours, and carries the id of the token that enrolled it, so that revocation and a new token end it; it is renewed at two thirds of its life over the live
// connection. The primary's certificates carry the DNS name <set>.<kind>.lockstep, which no address has, and are made in memory. Connections are TLS
// 1.3 without session tickets; each purpose has a protocol name (ALPN) of its own, lockstep-<kind>-<purpose>/1.
//
// # Goroutines
//
// Run starts the gRPC server (which starts one goroutine for each connection and call), one that stops it, one that completes a role change, one for each set that waits
// until this cluster is a secondary of it and then lives (live, follow, and what follow starts for a connection or a stream), one for each set that tells a
// former primary (heralds), one keeper of holds, and one that rebuilds the index when
// asked. It returns after all have ended. Everything hangs on its context; streams and calls of a secondary also end by track, when it is revoked.
package replication
