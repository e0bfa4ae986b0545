// Package vault is the Vault-compatible face of one cluster: the HTTP API under /v1/ with its envelope and errors, tokens,
// ACL policies, auth methods, mounts, KV version 1 and 2, cubbyholes, response wrapping, and the calls of sys/replication.
//
// What it promises:
//
//   - A request either changes nothing or is one entry of the log (revoking a tree of tokens and sweeping expired ones
//     take several, each of which leaves a store that means the same to whoever asks).
//   - An answer is given after its entry is durable.
//   - A token is looked at before a body is read, policies before anything is done or forwarded; the primary judges once more.
//   - Tokens and secret ids are kept as keyed hashes only, passwords by bcrypt, batch tokens not at all. No token, secret, value
//     or request body is ever logged or quoted in an error.
//   - A stranger's request writes nothing, whatever it asks for, and takes as long for an account that exists as for one that does
//     not. The lock of an account after repeated failures is written by Run.
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
//	mounts/<path>        a mount table entry (JSON, mountRecord); <path> ends with '/'; an auth method's begins with auth/
//	core/keyring         the keys that other clusters of the sets follow, all of them sealed (JSON, seal.Shared)
//	policy/<name>        an ACL policy's text, HCL or JSON, as it was written
//	token/role/<name>    a token role (JSON, tokenRole)
//
// In the system's local keyspace:
//
//	mounts/<path>                        a local mount
//	token/salt                           32 random bytes: the key of the hashes below
//	token/id/<hash>                      a token (JSON, tokenEntry); <hash> is the hex HMAC-SHA256 of its text
//	token/accessor/<accessor>            the hash of the accessor's token
//	token/parent/<hash>/<child's hash>   "1": the child dies with its parent
//	token/batch-seed                     32 random bytes: the Ed25519 key that signs batch tokens
//
// In keyspaces of local scope with fixed ids, which are no system keyspaces, so that writing to them makes nobody forget mounts
// and policies:
//
//	0…10 (cubbyholes)   <token's hash>/<path>            what a token keeps for itself, the JSON object as it came
//	0…11 (answers)      <hash>                           a wrapped answer (JSON, wrapped), until it is unwrapped or has expired
//	0…12 (counters)     lock/<method's uuid>/<account>   until when an account is locked (JSON, lockRecord)
//	                    uses/<method's uuid>/<role's id>/<hash>   how often a secret id was used here (a number)
//
// A batch token is no record: it is "hvb." and a JWT (alg EdDSA) with iss, iat, exp, jti, type "batch" and, under tok, what a
// token's record says.
//
// A mount is a keyspace of its own, named by the record's uuid. In one of KV version 1 a key is the path below the mount
// and the value is the JSON object that was written, with its number behind it where the keyspace is numbered (package engine). In one of version 2:
//
//	c                    the mount's configuration (JSON, kv2Config)
//	m/<path>             a key's metadata (JSON, kv2Meta)
//	v/<path>/<version>   a version's data, the JSON object as it came; the version is decimal and has no '/', so the last
//	                     '/' separates it from the path
//
// An auth method is a mount too. Its keyspace:
//
//	secret                             64 hex digits: the key of the hashes below
//	user/<name>                        a userpass account (JSON, user)
//	role/<name>                        an approle role (JSON, appRole), with an id of its own
//	roleid/<role id>                   the name of the role
//	secretid/<role's id>/<hash>        a secret id (JSON, secretID)
//	accessor/<role's id>/<accessor>    the hash of the accessor's secret id
//
// # Goroutines
//
// Run is the only one that is not a request: it removes what has expired and keeps lockouts. The server that calls it waits for it.
package vault
