package wal

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// Byte table of a frame header: doc.go. All numbers are big endian.
const (
	frameMagic = "LSF\n"

	offVersion = 4
	offFlags   = 6
	offLineage = 8
	offOrdinal = 24
	offFork    = 32
	offFirst   = 48
	offCount   = 56
	offTime    = 60
	offLength  = 68
	offPrev    = 76
	offTotals  = 108 // length of totals, then totals, chain hash, checksum

	fixedHeader   = offTotals + 4
	headerTrailer = 32 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func headerSize(totals int) int { return fixedHeader + totals + headerTrailer }

// appendHashed appends the part of the header that the chain hash covers: all but chain hash and checksum.
func appendHashed(b []byte, h *Header) []byte {
	b = append(b, frameMagic...)
	b = binary.BigEndian.AppendUint16(b, h.Version)
	b = binary.BigEndian.AppendUint16(b, uint16(h.Flags))
	b = append(b, h.Lineage[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Ordinal)
	b = append(b, h.Fork[:]...)
	b = binary.BigEndian.AppendUint64(b, h.First)
	b = binary.BigEndian.AppendUint32(b, h.Count)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Time))
	b = binary.BigEndian.AppendUint64(b, h.Length)
	b = append(b, h.Prev[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(h.Totals)))
	return append(b, h.Totals...)
}

func encodeHeader(h *Header) []byte {
	b := appendHashed(make([]byte, 0, headerSize(len(h.Totals))), h)
	b = append(b, h.Chain[:]...)
	return binary.BigEndian.AppendUint32(b, h.Sum)
}

func decodeHeader(b []byte) (Header, error) {
	switch {
	case len(b) < offFlags:
		return Header{}, fmt.Errorf("%w: %d bytes", ErrHeaderSize, len(b))
	case string(b[:offVersion]) != frameMagic:
		return Header{}, ErrNoFrame
	}
	if v := binary.BigEndian.Uint16(b[offVersion:]); v != FormatVersion {
		return Header{}, &VersionError{What: "frame", Got: v, Have: FormatVersion}
	}
	if len(b) < headerSize(0) {
		return Header{}, fmt.Errorf("%w: %d bytes", ErrHeaderSize, len(b))
	}
	totals := uint64(binary.BigEndian.Uint32(b[offTotals:]))
	switch {
	case totals > MaxTotalsBytes:
		return Header{}, fmt.Errorf("%w: totals of %d bytes", ErrLimits, totals)
	case len(b) != headerSize(int(totals)):
		return Header{}, fmt.Errorf("%w: %d bytes with totals of %d", ErrHeaderSize, len(b), totals)
	}
	h := Header{
		Version: FormatVersion,
		Flags:   Flags(binary.BigEndian.Uint16(b[offFlags:])),
		Lineage: Lineage(b[offLineage:]),
		Ordinal: binary.BigEndian.Uint64(b[offOrdinal:]),
		Fork:    Fork(b[offFork:]),
		First:   binary.BigEndian.Uint64(b[offFirst:]),
		Count:   binary.BigEndian.Uint32(b[offCount:]),
		Time:    int64(binary.BigEndian.Uint64(b[offTime:])),
		Length:  binary.BigEndian.Uint64(b[offLength:]),
		Prev:    Hash(b[offPrev:]),
	}
	rest := b[fixedHeader:]
	if totals > 0 {
		h.Totals = append([]byte(nil), rest[:totals]...)
	}
	h.Chain = Hash(rest[totals:])
	h.Sum = binary.BigEndian.Uint32(rest[totals+32:])
	return h, h.validate()
}

// validate checks flags and limits.
func (h *Header) validate() error {
	switch {
	case h.Version != FormatVersion:
		return &VersionError{What: "frame", Got: h.Version, Have: FormatVersion}
	case h.Flags&^knownFlags != 0:
		return fmt.Errorf("%w: %#x", ErrFlags, uint16(h.Flags&^knownFlags))
	case h.Count == 0 || h.Count > MaxFrameEntries:
		return fmt.Errorf("%w: %d entries", ErrLimits, h.Count)
	case h.First == 0 || h.First > math.MaxUint64-MaxFrameEntries:
		return fmt.Errorf("%w: first index %d", ErrLimits, h.First)
	case h.Length > MaxFrameBytes || h.Length > uint64(h.Count)*MaxEntryBytes:
		return fmt.Errorf("%w: %d bytes in %d entries", ErrLimits, h.Length, h.Count)
	case len(h.Totals) > MaxTotalsBytes:
		return fmt.Errorf("%w: totals of %d bytes", ErrLimits, len(h.Totals))
	}
	return nil
}

// chainHash covers each entry with its length, so that no other cut of the
// same bytes has the same hash.
func chainHash(head []byte, entries [][]byte) (sum Hash) {
	h := sha256.New()
	h.Write(head)
	var n [4]byte
	for _, e := range entries {
		binary.BigEndian.PutUint32(n[:], uint32(len(e)))
		h.Write(n[:])
		h.Write(e)
	}
	h.Sum(sum[:0])
	return sum
}

func checksum(head []byte, entries [][]byte) uint32 {
	sum := crc32.Update(0, castagnoli, head)
	for _, e := range entries {
		sum = crc32.Update(sum, castagnoli, e)
	}
	return sum
}

func entryBytes(entries [][]byte) (n uint64) {
	for _, e := range entries {
		n += uint64(len(e))
	}
	return n
}
