// Package wal keeps a numbered, durable sequence of frames of opaque entries,
// in bbolt files. It knows no keys, no roles and no network, and logs nothing.
//
// # What is promised
//
//   - Append returning nil means that all its frames are durable. They become
//     visible to readers after that and never before. A crash at any moment leaves
//     all of an Append or nothing of it.
//   - After a failed commit, of a segment or of meta.db, the log is poisoned: what
//     reached the disk is unknown, so everything that would change the log is refused with
//     ErrPoisoned until it is opened again. Open then finds all of that commit
//     or nothing, and says how far the log goes.
//   - A frame that is returned was verified: checksum, chain hash, and at Open its
//     place after the frame before it. Damage is a *boltfile.CorruptError that
//     names the file and the index.
//   - Recovery knows three outcomes: clean; a torn tail (cut, and reported); damage (refused, and nothing changed).
//     Only Config.ReadOnly opens a log with damaged segments, for those who look into it: it gives frames up to the
//     damage and behind it, and Verify names each place.
//   - Nothing is ever appended to a file that a crash may have left: Open seals
//     the segment that was taking frames, and the next Append begins another.
//   - Frames keep their bytes: EncodeHeader and the entries give the same ones in every copy of the log and on the
//     wire, whatever they are sealed with on a disk (Config.Sealer). Checksum and chain hash are of these bytes.
//   - With a Sealer nothing stored can be read but keys (indexes, names of notes), and no value opens at another place:
//     what was changed or moved is damage, named like any other. A log that is not sealed is not opened with one.
//
// # What is not
//
//   - A sealed segment is verified when it is read, or by Verify; Open looks at its
//     end only.
//   - A disk that reports a sync and does not keep it may lose whole commits without
//     a trace, when it loses all pages of a commit. Any other subset of its pages is
//     noticed: each commit's number stands in its meta page and in its root page, and the
//     tail record, stored in the root page, names the end of the log with its chain hash.
//   - A segment is checked against bbolt's own format only for what would crash the process (package boltfile).
//   - An entry that rots in the last frame is damage, not a torn tail: all of its keys
//     are there. Only a last commit of which keys are missing, with nothing
//     behind the hole, is cut, and then as a whole. With an honest disk this does not happen at all.
//
// # Files
//
// A directory holds meta.db and one file for each segment,
//
//	<index of the first entry, 20 digits>-<random id, 16 hexadecimal digits>.wal
//
// Both are bbolt files with tied commits (package boltfile), which adds a root
// bucket "commit". A file whose name has this form and which meta.db does not list is left over
// from a crash, and removed by Open. A listed file that is missing is damage, and so is a missing meta.db beside segments.
//
// All numbers are big endian. A place is: fork (16), index (8), chain hash (32).
//
// # Frame header, version 1
//
//	offset  bytes  what
//	     0      4  magic "LSF\n"
//	     4      2  version
//	     6      2  flags: 1 compressed, 2 sealed, both reserved; a header with any flag is refused
//	     8     16  lineage
//	    24      8  ordinal of the epoch
//	    32     16  fork
//	    48      8  index of the first entry, at least 1
//	    56      4  number of entries, 1 to 65,536
//	    60      8  time, Unix nanoseconds
//	    68      8  bytes of all entries, at most 1 GiB, each at most 64 MiB
//	    76     32  chain hash of the frame before; zeros for the first of a log
//	   108      4  length of totals, t, at most 1 MiB
//	   112      t  totals
//	 112+t     32  chain hash
//	 144+t      4  checksum
//
// The chain hash is SHA-256 over the header up to it and, for each entry, its
// length (4) and bytes. The checksum is CRC-32C over the header up to it and
// all entries. Magic and version are looked at first, so that a newer version
// is recognised whatever follows.
//
// # Segment, version 1
//
//	bucket    key                     value
//	segment   "header"                magic "LSSEGMNT" (8), version (2), id (8)
//	          "tail"                  tail record, below
//	frames    first index (8), 0      frame header
//	          index (8), 1            entry
//
// Header and entries of a frame are neighbours, and frames follow each other in
// the order of keys. A frame lies in one segment and in one transaction, which may
// hold several frames. The tail record is written by every transaction:
//
//	offset  bytes  what
//	     0      8  index of the last entry
//	     8      8  index of the first entry of this transaction
//	    16      8  bytes of headers and entries of this transaction
//	    24      8  number of entries in the segment
//	    32      8  bytes of headers and entries in the segment
//	    40     16  fork of the last frame
//	    56     32  chain hash of the last frame
//	    88      4  CRC-32C of the bytes before
//
// The free list is not stored: the file is written front to back once, and dropped whole.
//
// # meta.db, version 1
//
//	bucket    key                      value
//	log       "format"                 magic "LSLOGMET" (8), version (2)
//	          "base"                   place before the first entry held
//	          "sum"                    SHA-256, below
//	segments  first index (8), id (8)  flags (1): 1 sealed, 2 cut; chain hash before the first frame (32); place at the end (56); bytes (8)
//	notes     the note's key           the note
//
// Segments follow each other without a gap from base on; only the last may be
// unsealed, and its end is then where it began. A cut segment's file holds behind its end
// what is not part of the log: a torn tail, or frames that Cut took back.
//
// The sum covers, each with its length (8) before it: base; key and value of each segment; key and
// value of each note, all in the order of keys.
//
// # Sealed logs
//
// meta.db holds the key "sealed" in the bucket log. Every value of meta.db but "format" and "sealed", and in segments the
// tail record, headers and entries, are what Sealer.Seal made of the bytes above, for the place
//
//	in meta.db      bucket, 0, key
//	in a segment    kind (1): 0 header, 1 entry, 2 tail record; segment id (8); index (8), 0 for the tail record
//
// Sizes and numbers of bytes are those of the plain values.
//
// # Order of changes
//
// A new segment: file, synced, with its name; then one commit of meta.db that
// lists it and seals the one before; then the first frames. Truncate, Reset and Cut: one commit of meta.db, then
// the files are unlinked.
package wal
