package wal

// FormatVersion is the version of the segment and frame formats. A newer one
// is refused by name.
const FormatVersion = 1

// Hash is a SHA-256 sum.
type Hash [32]byte

// Flags say how a frame's entries are stored. None is in use yet; a frame
// with a flag that this program does not know is refused.
type Flags uint16

const (
	FlagCompressed Flags = 1 << iota // reserved
	FlagSealed                       // reserved
)

// Header opens a frame.
type Header struct {
	Version uint16
	Flags   Flags
	Lineage Lineage
	Ordinal uint64 // of the epoch
	Fork    Fork
	First   uint64 // index of the first entry
	Count   uint32 // number of entries, at least 1
	Time    int64  // writer's clock at the commit, Unix nanoseconds; for people and lag, never for decisions
	Totals  []byte // opaque here: what the writer's state hashes to after this frame (storage.EncodeTotals)
	Length  uint64 // bytes of all entries
	Prev    Hash   // chain hash of the frame before
	Chain   Hash   // SHA-256 over Prev, the other fields and all entries
	Sum     uint32 // CRC-32C over the encoded header and all entries
}

// Frame is the entries of one group commit of the cluster that first wrote
// them: the unit of the log, the wire and an archive. It is never split,
// merged or re-encoded. Its byte slices must not be changed once it was sealed.
type Frame struct {
	Header
	Entries [][]byte
}

// Last returns the index of the frame's last entry.
func (f *Frame) Last() uint64 { return f.First + uint64(f.Count) - 1 }

// Position returns the place at the end of the frame.
func (f *Frame) Position() Position { return Position{f.Fork, f.Last()} }

// Seal fills Version, Count, Length, Prev, Chain and Sum; what else stands in
// the header must be set before.
func (f *Frame) Seal(prev Hash) { panic("wal helper") }

// Verify checks checksum and chain hash against what the frame holds.
// It does not know which frame came before: compare Prev for that.
func (f *Frame) Verify() error { panic("wal helper") }

// EncodeHeader returns the header's bytes: as stored and as sent.
func (f *Frame) EncodeHeader() []byte { panic("wal helper") }

// DecodeHeader reads what EncodeHeader wrote. A newer version is a
// *VersionError.
func DecodeHeader(b []byte) (Header, error) { panic("wal helper") }

// VersionError names a format version that this program does not read.
type VersionError struct {
	What      string // "frame", "segment", …
	Got, Have uint16
}

func (e *VersionError) Error() string { panic("wal helper") }
