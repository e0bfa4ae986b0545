package snapshot

import (
	"errors"
	"fmt"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// FormatVersion is the version of the file. A newer one is refused by name.
const FormatVersion = 1

// Names of members.
const (
	nameHeader   = "snapshot.json"
	nameSeal     = "seal.json"
	nameIdentity = "identity.sealed"
	nameFooter   = "footer.sealed"
	nameSummary  = "summary.json"
	nameSums     = "SHA256SUMS"
	nameSealed   = "SHA256SUMS.sealed"
	dataPrefix   = "data/"
)

func dataName(n uint64) string { return fmt.Sprintf("%s%010d", dataPrefix, n) }

// Limits on what a file may make this program hold.
const (
	pieceBytes  = 4 << 20   // a piece is not filled further; one large record or frame goes alone
	maxPiece    = 160 << 20 // a frame may hold a full group and one entry of storage.MaxEntry, or what a primary's log has taken
	maxText     = 64 << 20  // identity (a history) and footer (totals)
	maxPlain    = 1 << 20   // snapshot.json and summary.json
	maxSealFile = 8 << 20
	maxPieces   = 1 << 22
	maxSums     = maxPieces * 96
)

// Header says, readable by everybody, what a file is.
type Header struct {
	Format      int       `json:"format"`
	ID          string    `json:"id"` // 32 hex digits, of this snapshot alone
	Taken       time.Time `json:"taken"`
	Version     string    `json:"version"` // of the program that wrote it
	ClusterID   string    `json:"cluster_id"`
	ClusterName string    `json:"cluster_name"`
	Log         string    `json:"log"`       // "writer" or "verbatim"
	Secondary   bool      `json:"secondary"` // it followed a primary
	From        uint64    `json:"from"`      // index of the checkpoint at which it was begun
	Records     uint64    `json:"records"`   // at that index
}

func (h *Header) validate() error {
	switch {
	case h.Format > FormatVersion:
		return fmt.Errorf("its format version %d is newer than this program's, %d: use the release that wrote it, or a newer one", h.Format, FormatVersion)
	case h.Format < 1:
		return errors.New("it has no format version")
	case len(h.ID) != 32 || h.ClusterID == "":
		return errors.New("its header names no snapshot or no cluster")
	}
	_, err := h.Role()
	return err
}

// Role says who may write to the log of the store that the snapshot is of.
func (h *Header) Role() (engine.Role, error) {
	switch h.Log {
	case engine.Writer.String():
		return engine.Writer, nil
	case engine.Verbatim.String():
		return engine.Verbatim, nil
	}
	return 0, fmt.Errorf("its header names an unknown kind of log, %.20q", h.Log)
}

// Summary says, readable by everybody, what is in a file.
type Summary struct {
	Index     uint64    `json:"index"` // of the last entry in it
	Finished  time.Time `json:"finished"`
	Keyspaces int       `json:"keyspaces"`
	Records   uint64    `json:"records"`
	Root      string    `json:"merkle_root"` // of all keyspaces
	Entries   uint64    `json:"entries"`     // of the log, written while the snapshot was taken
	Pieces    uint64    `json:"pieces"`
	Bytes     int64     `json:"bytes"` // of the pieces as sealed
}

// identity is what a store is, beside its records: sealed, it holds the digest secret.
type identity struct {
	Identity engine.Identity `json:"identity"`
	From     wal.Position    `json:"from"` // the log behind the records begins after it
	Chain    wal.Hash        `json:"chain"`
	Notes    notes           `json:"notes,omitempty"` // node scope
}

type notes map[string][]byte

// footer is where the snapshot ends.
type footer struct {
	At      wal.Position            `json:"at"`
	Chain   wal.Hash                `json:"chain"`
	Totals  []byte                  `json:"totals"` // storage.EncodeTotals
	Cursors map[string]wal.Position `json:"cursors,omitempty"`
	History []engine.Reign          `json:"history"`
	Entries uint64                  `json:"entries"`
	Pieces  uint64                  `json:"pieces"`
}

// place is what a sealed member is bound to.
func (h *Header) place(name string) []byte {
	return []byte("lockstep snapshot 1" + h.ID + name)
}

// records is a piece of a keyspace as one finished checkpoint had it, complete.
type records struct {
	keyspace  storage.KeyspaceID
	scope     storage.Scope
	low, high []byte // [low, high); an empty high: to the end
	readAt    wal.Position
	recs      []storage.Record
}

// Invalid says that a file is no snapshot, or not a whole one. Nothing was changed on its account.
type Invalid struct {
	Member string // "" when the archive itself is meant
	Why    string
}

func (e *Invalid) Error() string {
	if e.Member == "" {
		return "the snapshot cannot be used: " + e.Why
	}
	return "the snapshot cannot be used: " + e.Member + ": " + e.Why
}

// Refused says why a snapshot is not taken or not restored here, and what to do.
type Refused struct{ Why string }

func (e *Refused) Error() string { return e.Why }

// Refuse makes a Refused.
func Refuse(format string, args ...any) error { return &Refused{Why: fmt.Sprintf(format, args...)} }

func invalid(member, format string, args ...any) error {
	return &Invalid{Member: member, Why: fmt.Sprintf(format, args...)}
}
