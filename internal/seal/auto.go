package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
)

// Auto is where a seal's auto key comes from: a file or an environment variable.
type Auto struct {
	Type string // File or Env
	Path string // of the file
	Name string // of the variable
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Validate says what is wrong with a source.
func (a *Auto) Validate() error {
	switch {
	case a.Type == File && a.Path == "":
		return errors.New("the path of the key file is missing")
	case a.Type == Env && !variableName.MatchString(a.Name):
		return errors.New("the name of the environment variable is missing, or is none")
	}
	return nil
}

func (a *Auto) String() string {
	if a.Type == File {
		return "key file " + a.Path
	}
	return "environment variable " + a.Name
}

func (a *Auto) source() string {
	if a.Type == File {
		return a.Path
	}
	return a.Name
}

// Auto returns where the auto key was when the file was made; nil for a seal of shares.
func (r *Record) Auto() *Auto {
	switch r.Type {
	case File:
		return &Auto{Type: File, Path: r.Source}
	case Env:
		return &Auto{Type: Env, Name: r.Source}
	}
	return nil
}

// maxKeyText is the longest key file that is read.
const maxKeyText = 4096

const howToKey = "write 32 random bytes in base64 there: openssl rand -base64 32"

// Key reads the auto key. No part of what was read is in an error.
func (a *Auto) Key() (Key, error) {
	text, err := a.text()
	if err != nil {
		return Key{}, err
	}
	b, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(b) != keySize {
		return Key{}, fmt.Errorf("%s holds no key of 256 bit: %s", a, howToKey)
	}
	return keyOf(b)
}

func (a *Auto) text() ([]byte, error) {
	if a.Type == Env {
		text := os.Getenv(a.Name)
		if text == "" {
			return nil, fmt.Errorf("%s is not set: %s", a, howToKey)
		}
		return []byte(text), nil
	}
	f, err := os.Open(a.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: restore it; for a new cluster, %s, mode 0600", a, howToKey)
	}
	if err != nil {
		return nil, fmt.Errorf("open the key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at the key file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %#o): chmod 600 it", a, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyText))
	if err != nil {
		return nil, fmt.Errorf("read the key file: %w", err)
	}
	return b, nil
}

// MakeKeyFile returns the source of a key file, which is made when it is missing.
func MakeKeyFile(path string) (*Auto, bool, error) {
	a := &Auto{Type: File, Path: path}
	if _, err := os.Lstat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return a, false, err
	}
	k := NewKey()
	if err := writeSynced(path+tempSuffix, []byte(base64.StdEncoding.EncodeToString(k[:])+"\n")); err != nil {
		return nil, false, fmt.Errorf("make the key file: %w", err)
	}
	if err := os.Rename(path+tempSuffix, path); err != nil {
		return nil, false, fmt.Errorf("make the key file: %w", err)
	}
	return a, true, nil
}

// Lengths of a share: a key alone, or with its x coordinate.
const (
	minShare = keySize
	maxShare = keySize + 1
)

// ParseShare reads a share as people type it: hex or base64.
func ParseShare(text string) ([]byte, error) {
	b, err := hex.DecodeString(text)
	if err != nil {
		if b, err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, errors.New("'key' must be a valid hex or base64 string")
		}
	}
	switch {
	case len(b) < minShare:
		return nil, fmt.Errorf("key is shorter than minimum %d bytes", minShare)
	case len(b) > maxShare:
		return nil, fmt.Errorf("key is longer than maximum %d bytes", maxShare)
	}
	return b, nil
}
