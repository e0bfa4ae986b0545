package engine

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Names in a store's directory.
const (
	logDir       = "log"
	newLogDir    = "log.new"
	stateFile    = "state.db"
	spoolDir     = "spool"
	reserveFile  = "reserve"
	setAsideName = "log-damaged-"
	stateAside   = "state-damaged-"
	metaFile     = "meta.db"
)

// Names of notes in the log's metadata.
const (
	noteIdentity = "identity"
	noteHistory  = "history"
	noteRepair   = "repair"
	noteRewind   = "rewind"
	noteRebuild  = "rebuild"
	noteNode     = "node/"
	noteTotals   = "totals/"
)

const digestSecretSize = 32

// Create makes a new, empty store in dir (which must be empty or missing). A zero Lineage in id
// mints one; a Verbatim store takes its primary's with BeginSync. A missing cluster id or digest secret is minted too. notes are
// node-scope records, as NodeSet takes them. When it returns nil the store is durable; after an error dir may hold a part of one.
// Nothing in it is sealed.
func Create(dir string, id Identity, notes map[string][]byte) error {
	return CreateSealed(dir, id, notes, nil)
}

// CreateSealed is Create for a store that is sealed from its first byte on.
func CreateSealed(dir string, id Identity, notes map[string][]byte, with wal.Sealer) error {
	if err := emptyDir(dir); err != nil {
		return fmt.Errorf("create a store: %w", err)
	}
	if err := id.complete(); err != nil {
		return fmt.Errorf("create a store in %s: %w", dir, err)
	}
	if err := storage.CreateSealed(filepath.Join(dir, stateFile), with); err != nil {
		return fmt.Errorf("create a store in %s: %w", dir, err)
	}
	all := map[string][]byte{noteIdentity: mustJSON(id)}
	for k, v := range notes {
		all[noteNode+k] = v
	}
	// The log comes last: a store is one when its log has an identity.
	if err := createLog(filepath.Join(dir, logDir), with, func(l *wal.Log) error { return l.SetNotes(all) }); err != nil {
		return fmt.Errorf("create a store in %s: %w", dir, err)
	}
	return syncDirs(dir, filepath.Dir(dir))
}

func createLog(dir string, with wal.Sealer, fill func(*wal.Log) error) error {
	l, _, err := wal.Open(wal.Config{Dir: dir, Sealer: with})
	if err != nil {
		return err
	}
	err = fill(l)
	return errors.Join(err, l.Close())
}

func emptyDir(dir string) error {
	switch entries, err := os.ReadDir(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return os.MkdirAll(dir, 0o700)
	case err != nil:
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty: it holds %s", dir, entries[0].Name())
	}
	return nil
}

// complete mints what an identity lacks.
func (id *Identity) complete() error {
	if id.ClusterID == "" {
		u, err := uuid.NewRandom()
		if err != nil {
			return err
		}
		id.ClusterID = u.String()
	}
	if id.Lineage == (wal.Lineage{}) {
		if _, err := rand.Read(id.Lineage[:]); err != nil {
			return err
		}
	}
	if len(id.DigestSecret) == 0 {
		id.DigestSecret = make([]byte, digestSecretSize)
		if _, err := rand.Read(id.DigestSecret); err != nil {
			return err
		}
	}
	if len(id.DigestSecret) != digestSecretSize {
		return fmt.Errorf("a digest secret of %d bytes, not %d", len(id.DigestSecret), digestSecretSize)
	}
	return nil
}

func newFork() (wal.Fork, error) {
	var f wal.Fork
	_, err := rand.Read(f[:])
	return f, err
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("internal error: " + err.Error()) // our own types always marshal
	}
	return b
}

func readIdentity(b []byte, log string) (*Identity, error) {
	if b == nil {
		return nil, fmt.Errorf("%s holds no identity: no store was created here, or not to the end", log)
	}
	id := new(Identity)
	if err := json.Unmarshal(b, id); err != nil {
		return nil, &boltfile.CorruptError{File: filepath.Join(log, metaFile), What: "the note of the cluster's identity", Err: err}
	}
	if len(id.DigestSecret) != digestSecretSize {
		return nil, &boltfile.CorruptError{File: filepath.Join(log, metaFile), What: "the digest secret in the note of the cluster's identity"}
	}
	return id, nil
}

// syncDirs makes names in directories durable.
func syncDirs(dirs ...string) error {
	for _, dir := range dirs {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		err = errors.Join(d.Sync(), d.Close())
		if err != nil {
			return fmt.Errorf("sync directory %s: %w", dir, err)
		}
	}
	return nil
}
