package wal

import (
	"errors"
	"fmt"
)

// FormatVersion is the version of the segment and frame formats. A newer one
// is refused by name.
const FormatVersion = 1

// Limits on a frame. Seal's caller keeps to them; Append and DecodeHeader refuse what does not.
const (
	MaxFrameEntries = 65_536   // entries of a frame
	MaxEntryBytes   = 64 << 20 // bytes of one entry
	MaxTotalsBytes  = 1 << 20  // bytes of Header.Totals
	MaxFrameBytes   = 1 << 30  // bytes of all entries of a frame
)

// Hash is a SHA-256 sum.
type Hash [32]byte

// Flags say how a frame's entries are stored. None is in use yet; a frame
// with a flag that this program does not know is refused.
type Flags uint16

const (
	FlagCompressed Flags = 1 << iota // reserved
	FlagSealed                       // reserved
)

// knownFlags are those that this program can read.
const knownFlags Flags = 0

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

// Last returns the index of the frame's last entry.
func (h *Header) Last() uint64 { return h.First + uint64(h.Count) - 1 }

// Position returns the place at the end of the frame.
func (h *Header) Position() Position { return Position{h.Fork, h.Last()} }

// Frame is the entries of one group commit of the cluster that first wrote
// them: the unit of the log, the wire and an archive. It is never split,
// merged or re-encoded. Its byte slices must not be changed once it was sealed.
type Frame struct {
	Header
	Entries [][]byte
}

// Seal fills Version, Count, Length, Prev, Chain and Sum; what else stands in
// the header must be set before.
func (f *Frame) Seal(prev Hash) {
	f.Version = FormatVersion
	f.Count = uint32(len(f.Entries))
	f.Length = entryBytes(f.Entries)
	f.Prev = prev
	head := appendHashed(make([]byte, 0, headerSize(len(f.Totals))), &f.Header)
	f.Chain = chainHash(head, f.Entries)
	f.Sum = checksum(append(head, f.Chain[:]...), f.Entries)
}

// Verify checks checksum and chain hash against what the frame holds.
// It does not know which frame came before: compare Prev for that. Its errors do not name the frame: callers do.
func (f *Frame) Verify() error {
	if err := f.verifySum(); err != nil {
		return err
	}
	head := appendHashed(make([]byte, 0, headerSize(len(f.Totals))), &f.Header)
	if chainHash(head, f.Entries) != f.Chain {
		return errors.New("its chain hash does not match what it holds")
	}
	return nil
}

// verifySum checks shape and checksum, which is enough to notice a buffer
// that was changed after it was sealed.
func (f *Frame) verifySum() error {
	if err := f.validate(); err != nil {
		return err
	}
	switch {
	case len(f.Entries) != int(f.Count):
		return fmt.Errorf("it holds %d entries and its header says %d", len(f.Entries), f.Count)
	case entryBytes(f.Entries) != f.Length:
		return fmt.Errorf("it holds %d bytes and its header says %d", entryBytes(f.Entries), f.Length)
	}
	head := appendHashed(make([]byte, 0, headerSize(len(f.Totals))), &f.Header)
	if checksum(append(head, f.Chain[:]...), f.Entries) != f.Sum {
		return errors.New("its checksum does not match what it holds")
	}
	return nil
}

// EncodeHeader returns the header's bytes: as stored and as sent.
func (f *Frame) EncodeHeader() []byte { return encodeHeader(&f.Header) }

// DecodeHeader reads what EncodeHeader wrote; the result shares nothing with
// b. A newer version is a *VersionError.
func DecodeHeader(b []byte) (Header, error) { return decodeHeader(b) }

// VersionError names a format version that this program does not read.
type VersionError struct {
	What      string // "frame", "segment", …
	Got, Have uint16
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s has format version %d; this program reads version %d: use the release that wrote it, or a newer one", e.What, e.Got, e.Have)
}

// Errors of DecodeHeader, one for each check.
var (
	ErrNoFrame    = errors.New("not a frame header: wrong magic")
	ErrFlags      = errors.New("frame header has a flag that this program does not know")
	ErrHeaderSize = errors.New("frame header has a wrong length")
	ErrLimits     = errors.New("frame header is outside the limits")
)
