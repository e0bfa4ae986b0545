// Package archive keeps what a rewind or a repair takes back: entries of a log's lost tail, and records that a sync overwrote or
// deleted. It knows no roles and no network, removes nothing by itself and logs nothing.
//
// # What is promised
//
//   - What Flush or Commit returned nil for is durable and listed. A crash before the first of them leaves nothing but a directory
//     that Open removes.
//   - One write stands in one archive: an entry at a position that any archive holds already is not taken a second time. Where that
//     holds only what is shared of it, as after the rewind of a performance cluster, the rest of it is taken.
//   - Damage is named: an archive that cannot be read is listed with its Problem, and Read returns an error behind which nothing was
//     left out. No archive is removed but by Discard.
//   - With a Sealer neither keys nor values can be read on the disk.
//   - The number of archives and their bytes are bounded: what does not fit is refused with ErrNoRoom before anything is taken back.
//
// # What is not
//
// One archive is written at a time by one goroutine; it cannot be read before its writer was closed. An archive that was sealed with
// keys that are not in the keyring any more (of a store that secondary/enable replaced) is listed with that as its Problem.
//
// # Archives
//
// A directory holds one directory for each archive, named by its id: the set's kind, the index of the first entry that was taken
// back, 8 hexadecimal digits. It is a log of package wal, sealed as that says, of items instead of a store's entries. A name with
// the suffix ".gone" is an archive that is being discarded.
//
// # Archive's note, versions 1 and 2
//
// The log's note "archive" is JSON, the Meta with a field "format". An archive without it was never complete, and is removed by
// Open. It does not grow with the archive: 4,096 spans say where its entries stood (in "rest" those of entries of which another
// archive holds what is shared), 1,000 lines what took rights away, and the others are counted. Where there are more spans the last
// is sparse, and only the items tell what is in it: such a note has version 2, any other version 1.
//
// # Archived item, version 1
//
// Integers are big endian; a length is an unsigned varint.
//
//	 1  version
//	 1  kind: 1 entry, 2 record
//	 1  flags: 1 lost, of an entry that has no source, or one beyond the set's common point; 2 removed, of a record that was
//	    deleted and not overwritten
//	16  fork; zeros for a record
//	 8  index: of the entry; of the record's last change here
//	entry:
//	    its bytes, to the end (package storage)
//	record:
//	16  keyspace
//	 1  scope
//	    length, key; value, to the end
package archive
