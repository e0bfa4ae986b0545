// Package storage is the state of a cluster: keyspaces and their records, as
// of the newest applied entry, in ordered tables in memory over one bbolt file,
// with the range index that a diff needs. It also owns the bytes of an entry
// and of a frame's totals. It imports merkle and boltfile; of wal it uses the
// types of places only. It knows no mounts, no roles, no network, and logs nothing.
//
// # What is promised
//
//   - What Apply was given is readable when it returns. It is durable only once
//     a checkpoint has finished; until then the log holds it.
//   - A value read was written: every value from the file is hashed and compared
//     with the digest stored beside it. ErrNotFound from the file means that the
//     leaf which would hold the key was added up and is complete. Otherwise the answer is a
//     *Damage or a *boltfile.CorruptError, both naming the file.
//   - After a crash at any moment, Open and applying again from Mark().Applied+1
//     give the same state. Applying an entry twice is harmless.
//   - With Options.Sealer no value can be read in the file, and none opens under another key or as another version. A file
//     that is not sealed is not opened with one.
//   - The file's leaves and totals are those of exactly what it holds, in every
//     transaction.
//   - A View is one moment; nothing changes in it.
//
// # What is not
//
//   - One goroutine applies; Checkpoint, SetSync, ReplaceRange, StartAfter, Sweep
//     and Reindex wait for each other and for nobody else.
//   - After a failed commit the state refuses further changes to the file until it is
//     opened again; reading goes on.
//   - Apply judges nothing: an entry that breaks the limits must not be given to it
//     (DecodeEntry and Entry.Validate refuse such entries).
//   - A View holds pages of the file: it must not outlive two checkpoints. Close waits
//     for all of them.
//
// # Entry, versions 1 and 2
//
// Integers are big endian; a length is an unsigned varint in its shortest form.
//
//	 1  version
//	 1  flags: 1 housekeeping, 2 request id, 4 source, 8 sync mark
//	 8  index
//	 8  time
//	    request id: length (1), text
//	    source: fork (16), index (8)
//	    sync mark: kind (1), from (24), until (24), keyspace (16), low, high (length, bytes)
//	then for each block, to the end
//	16  keyspace
//	 1  scope
//	 4  length of the changes in bytes
//	    changes: operation (1); put, delete: length, key; put: length, value
//
// Operations are 1 put, 2 delete, 3 drop of the keyspace, and in version 2, which is that of entries with such a change and of no
// others, 4: the keyspace is attached again, with the records that it still has.
//
// # Totals, version 1
//
//	 1  version
//	then for each keyspace, in order of id
//	16  keyspace
//	 1  scope
//	 8  count
//	32  sum
//
// # State file, version 1
//
// A bbolt file, free list synced, commits tied (package boltfile). Each value
// ends, or begins, with a CRC-32C over its key and itself, because bbolt
// checks only its meta pages.
//
//	bucket       key            value
//	meta         "format"       version (2)
//	             "sealed"       1, in a file whose values are sealed
//	             "mark"         mark, below; sealed in such a file, for the place "m"
//	keyspaces    id (16)        scope (1), detached at (8), floor (8), count (8), sum (32), crc (4)
//	"r" + id     record's key   crc (4) over key, flags, index and digest; flags (1), index (8), digest (32), value
//	"l" + id     0, low key     level (1), count (8), sum (32), crc (4)
//
// flags of a record: 1 compressed, reserved; 2 sealed: its value is what Sealer.Seal made for the place "r", keyspace (16),
// index (8), key. A record with a flag that this program does not know is refused. Keys, counts and keyed digests are
// never sealed. The first leaf has the empty low key.
// detached at: own index of the drop, 0 when attached. A keyspace is never forgotten: when
// the records of a detached one are gone, its entry says that the id was used.
//
// The mark is written by every transaction:
//
//	 1  flags: 1 a sync follows, 2 the range index must be rebuilt, 4 a rebuild has begun
//	24  applied: fork, index
//	32  chain hash of the frame there
//	 8  consistent at
//	    number of cursors (length); each: name (length, text), fork (16), index (8)
//	    sync: set (length, text), from (24), chain (32), until (24), keyspace (16), done (length, bytes), complete (1)
//	40  number and sum of SHA-256 over id and value of all entries of the bucket keyspaces,
//	    so that none disappears
//	 4  crc
//
// # Checkpoints
//
// The active table is frozen and a new one takes its place. The frozen one
// is written in order of keyspace and key, in transactions of bounded size.
// The first sets "consistent at" to the index of the last frozen entry: from then on the file
// holds parts of the future, and nothing may be served until replay has reached
// it. The last moves "applied", and sets the totals to those of
// that entry, after comparing them with the sum of the leaves. A difference is damage found (Options.Found) and
// the mark tells it from then on: the records are right, the index must be rebuilt. During a sync, and
// before replay has reached "consistent at", they are not compared: the file then is no single moment.
//
// Readers see tables, then file: the file is one read transaction, shared and
// counted, replaced in the same moment in which the frozen table goes.
package storage
