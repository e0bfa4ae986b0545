// Package conformance walks a table of HTTP requests against real servers.
//
// The table is testdata/*.table, a file for each section of the reference of
// Vault's API that the project keeps, so that both can be read side by side. A
// row begins with the ids of what it shows: section and line of that reference,
// or 002 and 003 for the two pages that the product was first described by;
// "ours" where neither has a line; an id that begins with os is a line of the reference of OpenSearch's API.
// testdata/reference.ids lists all ids; a test demands that each has a row.
//
//	node fresh                        a server of this file's own, initialised
//	node held shares                  the same without a key file: it starts sealed; "unauthenticated": its ceremonies need no token
//	row 1.1:67 -- both sets at once   ids, and what is shown
//	at primary by nobody              whom the requests below go to, with whose token
//	with X-Vault-Wrap-TTL: 60         a header of the next request
//	guarded                           the next request is refused to whoever may not make it; "guarded sudo": not without sudo either
//	GET sys/replication/status        method, path, body; a path that begins with '/' is not below /v1/, and ⏎ ends a line of a body
//	200                               status; 200|204 where either will do
//	data.dr.mode  = "primary"         what the answer's body must hold there
//	2.2:255 data.mode  string         the same, with an id of its own
//	until GET sys/…                   repeat the request until all that is said of its answer holds
//	keep token wrap_info.token        ${token} stands for that value from here on
//	decode t encoded_token otp        ${t} is the token there, which the one-time password ${otp} hides
//	run kill | start | stop           something done to the node instead of a request
//	run launch                        start, without waiting: a sealed node answers no health check
//	run mint                          a root token, made offline
//	run rot                           a byte of the stopped node's index is changed
//	differs: why                      the answer is another than Vault's on purpose
//	pending roles: what               not built yet, and which part brings it; the test fails when such a row passes
//
// An expectation names a place in the body, members joined by dots (an element
// of an array is named by its number, or as node_id=dr-1 by what it has), and then one of: string, number, bool, object, array, null, absent, any, uuid, hex40,
// time, epoch, base64, = JSON, != JSON, > number, has JSON (an element of the
// array), ~ text (part of the string, or of one of the array's). "empty" alone
// demands an answer without a body. "(pending part)" behind an expectation is
// that mark for it alone.
package conformance
