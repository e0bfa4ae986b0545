// Package opensearch is the OpenSearch-compatible face of one cluster: indices, documents, cluster calls and its security, over the same mounts, keyspaces and
// log that package vault serves under /v1/.
//
// An index is a KV v1 mount with a path of one part, and the other way round: mount orders/ is index orders, and its record a/1 is document a/1. What a mount
// lacks to be an index, settings, mappings and aliases, is one record of its keyspace (see Records), so that it travels, rewinds and is dropped with it.
//
// What it promises:
//
//   - Whoever writes, through /v1/ or here, versions and operation numbers are gapless: the engine gives them (engine.Number).
//   - What is not offered is refused with a sentence that says so. No parameter, body field or query is ignored that could change a result.
//   - A request is let in, authenticated, recorded, committed, confirmed and, on a performance secondary, sent on by the code that does so for /v1/ (vault.Call).
//   - Without a credential nothing is answered, except on a development server and on a listener whose security is "none".
//   - Memory and time of a search are bounded whatever is asked.
//
// What it does not know: replication. Calls below /_plugins/_replication are not routed yet.
//
// # Records
//
// In the keyspace of an index, under keys that no path can have:
//
//	<0>index        settings, mappings, aliases, when it was created, whether it is closed (JSON, description)
//	<0>numbers      what makes it numbered (package engine)
//
// In the system's replicated keyspace:
//
//	opensearch/settings             persistent cluster settings (JSON, flat names)
//	opensearch/user/<name>          an internal user (JSON, user); its password as a bcrypt hash
//	opensearch/role/<name>          a role (JSON, role)
//	opensearch/rolesmapping/<name>  who has it (JSON, roleMapping)
//
// Transient cluster settings are kept in memory and are gone after a restart, as OpenSearch's are.
package opensearch
