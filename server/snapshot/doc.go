// Package snapshot writes a live cluster's data to a file and makes a store of
// such a file again.
//
// # What is promised
//
//   - A snapshot is one moment, that of the last frame in it: what is restored has exactly the digests that the cluster had then.
//   - Taking one stops no write and holds no view of the state file longer than it takes to read one piece; log is held
//     from what was written last, within the limits of retention.
//   - Every record is verified by its digest as it is read; every piece is authenticated, and bound to this snapshot and to its place in it.
//   - Without the store's keys nothing but counts, sizes, ids and the time can be read in a file.
//   - A file that was cut, changed, put together of two, or made by a newer program is refused by name before the store
//     that it would have become is live.
//
// # How
//
// What the state holds is read by ranges, each from the newest finished checkpoint, while the frames of the log since the first of
// them are written beside. So the records are of several moments, and the frames lead all of them to the last: it is what a new DR
// secondary is filled with, and restoring is what it does (engine.BeginSync and what follows).
//
// # File, version 1
//
// A gzip stream of a tar archive, nothing compressed, whose members come in this order:
//
//	snapshot.json       Header
//	seal.json           the store's seal file (package seal)
//	identity.sealed     identity, JSON
//	data/NNNNNNNNNN     pieces, numbered from 1, sealed
//	footer.sealed       footer, JSON
//	summary.json        Summary
//	SHA256SUMS          a line for each member before: its SHA-256 in hex, two blanks, its name
//	SHA256SUMS.sealed   the SHA-256 of the member SHA256SUMS
//
// Sealed members are what the store's keyring sealed for the place "lockstep snapshot 1", id (16), name of the member.
// A piece, opened; numbers are big endian, a length has 4 bytes:
//
//	records  1: keyspace (16), scope (1), low, high (length, bytes), read at: fork (16), index (8); then to the end
//	            each: key (length, bytes), value (length, bytes)
//	frames   2: to the end each: header (length, bytes), then its entries (length, bytes)
//
// The last two names are those that Vault's client looks for at the end of what it saves.
package snapshot
