// Package vault is the Vault-compatible face of one cluster: the HTTP API under /v1/ with its envelope and errors, tokens,
// ACL policies, mounts, KV version 1 and 2, response wrapping, and the calls of sys/replication.
//
// What it promises:
//
//   - A request either changes nothing or is one entry of the log (revoking a tree of tokens and sweeping expired ones
//     take several, each of which leaves a store that means the same to whoever asks).
//   - An answer is given after its entry is durable.
//   - Authorisation happens before a body is read and before anything is forwarded; the primary authorises once more.
//   - Tokens are kept as keyed hashes only, and no token, value or request body is ever logged or quoted in an error.
//   - Time and random values are decided once, by the handler, and stored: applying an entry needs neither.
//   - KV version 1 keeps the bytes of an object as they came; reads answer with those bytes.
//
// What it does not know: how entries travel, what a set is, and when a role changes. It asks replication.Node which part
// the cluster has and lets it forward.
//
// # Records
//
// In the system's replicated keyspace:
//
//	core/init            when the cluster was initialised (JSON)
//	mounts/<path>        a mount table entry (JSON, mountRecord); <path> ends with '/'
//	policy/<name>        an ACL policy's text, HCL or JSON, as it was written
//
// In the system's local keyspace:
//
//	mounts/<path>                        a local mount
//	token/salt                           32 random bytes: the key of the hashes below
//	token/id/<hash>                      a token (JSON, tokenEntry); <hash> is the hex HMAC-SHA256 of its text
//	token/accessor/<accessor>            the hash of the accessor's token
//	token/parent/<hash>/<child's hash>   "1": the child dies with its parent
//	wrapping/<hash>                      a wrapped answer (JSON, wrapped), until it is unwrapped or has expired
//
// A mount is a keyspace of its own, named by the record's uuid. In one of KV version 1 a key is the path below the mount
// and the value is the JSON object that was written. In one of version 2:
//
//	c                    the mount's configuration (JSON, kv2Config)
//	m/<path>             a key's metadata (JSON, kv2Meta)
//	v/<path>/<version>   a version's data, the JSON object as it came; the version is decimal and has no '/', so the last
//	                     '/' separates it from the path
//
// # Goroutines
//
// Run is the only one that is not a request: it removes expired tokens and wrapped answers. The server that calls it waits for it.
package vault
