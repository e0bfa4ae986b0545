// Package engine is one cluster's log and state: the one commit path of client
// writes, streamed entries and restart.
//
// # What is promised
//
// A write is answered, readable or streamed only after the log's sync
// returned. A refusal that depends on writes not yet durable is held back
// until they are. When a commit fails, in the log, the state file or the
// metadata file, Run returns an error that names the file, every waiter gets
// ErrPoisoned, and nothing is acknowledged any more: the process opens the
// store again, which recovers it.
//
// A batch of a feeder is verified before its commit: the digests that it would
// give are computed from memory and compared with the feeder's; a batch that
// differs leaves no trace (*Diverged).
//
// Open finds one of three: a clean log, a torn tail that was never
// acknowledged (cut, and reported), or damage (refused with file and place;
// a secondary opened as Repairable sets the log aside instead and asks for a
// sync, see NeedsRepair).
//
// # What is not promised
//
// The outcome of a transaction whose context ended first, or that was under
// way when a commit failed, is unknown until the store is opened again.
// A secondary during a sync is not consistent, says so (SyncState), and shows
// what it holds. Nothing here knows mounts, policies or peers.
//
// # Goroutines
//
// Run starts three and waits for them: the sequencer (checks and orders
// transactions, keeps what is not yet durable), the committer (seals a group
// as one frame, appends it, applies it, wakes the waiters) and the
// checkpointer (the state file's only writer but for the exclusive steps of a
// sync, which run on the sequencer while the others rest). A replay, by Open and at the end of a DR
// secondary's sync, starts one that reads the log ahead and as many that decode and hash as there are processors, and waits for
// them. Open and Create leave none behind.
//
// # Files of a store
//
//	log/           package wal: meta.db (segments and notes) and the segments
//	state.db       package storage
//	spool/         package wal again: a performance secondary's spool during a sync
//	reserve        64 MiB given up when the disk is too full to open the store
//	log-damaged-T    a damaged log set aside at time T (secondaries only)
//	state-damaged-T  a state file that could not be read (DR secondaries only)
//	log.new        a log being built to take the place of a damaged one
//
// With Config.Sealer log, state and spool are sealed as wal and storage describe; nothing but names, counts and keyed digests
// can then be read in these files.
//
// # Notes kept in the log's metadata
//
//	identity          Identity, JSON
//	history           []Reign, JSON, oldest first
//	node/KEY          node-scope records
//	repair            why a sync is needed; absent when none is
//	rewind            Rewind, JSON: the rewind that the sync under way belongs to; absent when there is none
//	scrub             how far a scrub is and what the last found, JSON (of package server)
//	rebuild           why the state file must begin empty (DR secondaries); absent when it need not
//	totals/INDEX      storage.EncodeTotals of all keyspaces after that index (16 hex
//	                  digits), written whenever a segment begins after it
//
// # Frames
//
// A frame's Totals are those of the keyspaces that its entries touched, as
// they are after it (a dropped one with count 0). The first frame of a segment
// lists all. A batch kept in the spool is a frame of the spool's own log; its
// first entry is the batch's header, each further one an entry's place and bytes.
//
// # Numbered keyspaces
//
// The record NumbersKey (its key begins with a zero byte, which no path has) makes a keyspace numbered. Its value:
//
//	next operation   8 bytes, big endian
//	newest term      8
//	tag              1 byte, 1
//
// A value of such a keyspace is what was put, and behind it:
//
//	version          8 bytes, big endian
//	operation        8
//	term             8
//	tag              1 byte, 1; no text ends in it
//
// The sequencer writes both, in the entry of the change itself. Values without a tag are from before the keyspace was numbered: version 1, operation 0.
package engine
