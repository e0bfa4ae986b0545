package wal

import "encoding/hex"

// Lineage names one log: minted when the log begins, shared by a cluster and
// its DR secondaries, unchanged by promotion.
type Lineage [16]byte

// Fork names one opening of a log for writing. No two entries in the world
// share (Fork, index).
type Fork [16]byte

func (l Lineage) String() string { return hex.EncodeToString(l[:]) }
func (f Fork) String() string    { return hex.EncodeToString(f[:4]) }

// Position is a place in a log: always the end of a frame.
type Position struct {
	Fork  Fork
	Index uint64
}

// IsZero reports whether p is the place before the first entry of no log.
func (p Position) IsZero() bool { return p == Position{} }
