// Package boltfile opens bbolt files the way Lockstep needs them: with a
// commit seam for fault tests, and with bbolt's panics and memory faults
// turned into errors that name the file.
//
// bbolt checks only its meta pages. A damaged page below them makes it panic,
// read beyond the end of its map, or follow a ring of pages until the stack is
// used up; none of this may end the process. Therefore every call into bbolt
// goes through View, Update or Guard, and Open looks at the tree of pages
// itself, before bbolt does, under the file's lock.
//
// # What is promised
//
// A file that is missing, truncated, empty or damaged anywhere gives an error
// that names it, a *CorruptError, never a panic, a signal or an endless loop.
// A stored free list never names a page that is in use, so that no commit overwrites one because of it.
// Both meta pages must be whole: bbolt would go back to the older one without a
// word, and a commit that was acknowledged would be gone.
// Close never waits for a transaction that bbolt lost in a panic.
// A new file appears under its name whole, and durably, or not at all.
//
// # What is not
//
// What the pages hold is not checked: a flipped byte in a key or value is for
// the owner's own checksums. Of buckets, those in the root are looked at; keep no
// buckets inside buckets. Of a file above 16 MiB only the pages above the leaves are read at Open, so
// that opening a large one stays quick (a leaf that a damaged branch names and that is an old, unused branch page is then
// met under the guard), and the headers of those leaves that might go on in a page that the free list names. Any other
// leaf of such a file may say of itself that it has more pages than it has: rewriting that leaf would free
// them, and the one behind it would be overwritten later. A file that is damaged while it is open is read under
// the guard only, which turns faults into errors but cannot stop a ring of pages
// that appears after Open.
//
// # Tied commits
//
// With Options.Tie every commit writes its transaction number into the sequence
// of an empty root bucket named "commit", and Open compares it with the meta page: a
// disk that kept a commit's meta page and lost its root page would otherwise show
// an older state, whole and wrong.
package boltfile
