package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// FileName is what the seal file is called in a generation's directory.
const FileName = "seal.json"

const (
	fileFormat  = 1
	maxFileSize = 8 << 20

	tempSuffix = ".tmp"
)

// Types of a seal: what opens it at a start.
const (
	Shamir = "shamir"
	File   = "file"
	Env    = "env"
)

// Errors that name their file.
var (
	ErrMissing = errors.New("the store has no seal file: it cannot be opened without the keys in it; restore it from a backup of this generation")
)

// Damaged says that a seal file cannot be used.
type Damaged struct {
	Path string
	Why  string
}

func (d *Damaged) Error() string {
	return fmt.Sprintf("%s: %s: without it nothing of this store can be read; restore it from a backup, or take the cluster's data from another one of its set", d.Path, d.Why)
}

// Record is what a seal file holds. Nothing in it is readable without a share key or an auto key.
type Record struct {
	Format     int    `json:"format"`
	Type       string `json:"type"`
	Shares     int    `json:"shares"`
	Threshold  int    `json:"threshold"`
	SealedRoot []byte `json:"sealed_root"`
	AutoRoot   []byte `json:"auto_root,omitempty"`
	Source     string `json:"source,omitempty"`
	Keyring    []byte `json:"keyring"`
	Sum        string `json:"sum"`
}

func (r *Record) sum() string {
	c := *r
	c.Sum = ""
	b, err := json.Marshal(&c)
	if err != nil {
		panic("internal error: " + err.Error()) // our own type always marshals
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// Encode gives the file's bytes.
func (r *Record) Encode() []byte {
	r.Sum = r.sum()
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		panic("internal error: " + err.Error()) // our own type always marshals
	}
	return append(b, '\n')
}

// Decode reads a seal file's bytes.
func Decode(b []byte) (*Record, error) {
	if len(b) > maxFileSize {
		return nil, fmt.Errorf("it is longer than %d bytes", maxFileSize)
	}
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, errors.New("it is no JSON object")
	}
	switch {
	case version.Format > fileFormat:
		return nil, fmt.Errorf("its format version %d is newer than this program's, %d: use the release that wrote it, or a newer one", version.Format, fileFormat)
	case version.Format < 1:
		return nil, errors.New("it has no format version")
	}
	r := new(Record)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, errors.New("its fields are not those of a seal file")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something stands behind its end")
	}
	if r.Sum != r.sum() {
		return nil, errors.New("it does not match its checksum")
	}
	return r, r.validate()
}

func (r *Record) validate() error {
	if err := (Config{r.Shares, r.Threshold}).Validate(); err != nil {
		return err
	}
	auto := len(r.AutoRoot) > 0
	switch r.Type {
	case Shamir:
		if auto || r.Source != "" {
			return errors.New("it is of type shamir and holds a root key of another seal")
		}
	case File, Env:
		if !auto {
			return fmt.Errorf("it is of type %s and holds no root key for it", r.Type)
		}
	default:
		return fmt.Errorf("its type %q is unknown", r.Type)
	}
	if len(r.SealedRoot) == 0 || len(r.Keyring) == 0 {
		return errors.New("its root key or keyring is missing")
	}
	return nil
}

// Config is how many shares there are, and how many of them open a seal.
type Config struct {
	Shares, Threshold int
}

// Validate refuses what Shamir's scheme cannot do, or what would be no protection.
func (c Config) Validate() error {
	switch {
	case c.Shares < 1 || c.Shares > maxShares:
		return fmt.Errorf("the number of shares must be from 1 to %d", maxShares)
	case c.Threshold < 1:
		return errors.New("the threshold must be at least 1")
	case c.Threshold > c.Shares:
		return errors.New("the threshold cannot be larger than the number of shares")
	case c.Shares > 1 && c.Threshold == 1:
		return errors.New("the threshold must be greater than 1 for more than one share: any one would be the key")
	}
	return nil
}

// Read reads the seal file of a generation's directory. A missing one is ErrMissing, any other fault a *Damaged.
func Read(dir string) (*Record, error) {
	path := filepath.Join(dir, FileName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("read the seal file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read the seal file: %w", err)
	}
	r, err := Decode(b)
	if err != nil {
		return nil, &Damaged{Path: path, Why: err.Error()}
	}
	return r, nil
}

// write replaces the seal file of a directory: once it returns nil, the new one is there whatever happens; until then,
// the old one.
func (r *Record) write(dir string) error {
	path := filepath.Join(dir, FileName)
	if err := writeSynced(path+tempSuffix, r.Encode()); err != nil {
		return fmt.Errorf("write the seal file: %w", err)
	}
	if err := os.Rename(path+tempSuffix, path); err != nil {
		return fmt.Errorf("write the seal file: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write the seal file: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("write the seal file: sync %s: %w", dir, err)
	}
	return nil
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
