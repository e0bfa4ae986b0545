package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstepdb/lockstep/server"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Limits on a list of expected records, and on what is said about it.
const (
	maxListLine = 40 << 20
	maxFaults   = 20
)

// expected is one line of a list.
type expected struct {
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value"`
}

// checkAgainst looks each record of a list up in the state file. It uses no
// digest and no index: what it reads is what is there.
func checkAgainst(c *console, dataDir string, u server.Unsealer, list string) (err error) {
	want, err := readList(list)
	if err != nil {
		return err
	}
	dir, gen, err := server.OpenLive(dataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	keys, err := u.Unseal(gen)
	if err != nil {
		return err
	}
	file := filepath.Join(gen.Dir, stateFile)
	have, err := readValues(file, keys.Keyring(), want)
	if err != nil {
		return reportCorrupt(c.out, fmt.Errorf("read %s: %w", file, err))
	}
	return compareLists(c.out, file, want, have)
}

// sum stands for a value: the JSON it means, not the way it was written.
type sum [sha256.Size]byte

func sumOf(value []byte) (sum, error) {
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return sum{}, err
	}
	same, err := json.Marshal(v)
	return sha256.Sum256(same), err
}

func readList(file string) (map[string]sum, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the list: %w", err)
	}
	defer f.Close()
	return decodeList(file, f)
}

// decodeList reads a list; name stands in its errors.
func decodeList(name string, from io.Reader) (map[string]sum, error) {
	want := map[string]sum{}
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 64<<10), maxListLine)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var e expected
		err := json.Unmarshal(lines.Bytes(), &e)
		if err == nil && (e.Path == "" || len(e.Value) == 0) {
			err = errors.New(`want {"path":…,"value":…}`)
		}
		if err == nil {
			want[e.Path], err = sumOf(e.Value) // a later line replaces an earlier one
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the list %s: %w", name, err)
	}
	return want, nil
}

// readValues returns the values, by path, of the records that are wanted. The
// mount table stands in the system's keyspaces, whose ids are the lowest: it
// is read before any mount.
func readValues(file string, keys wal.Sealer, want map[string]sum) (map[string]sum, error) {
	mounts, have := mountTable{}, map[string]sum{}
	newest := map[string]int{}
	err := storage.ReadRaw(file, keys, func(ks storage.KeyspaceID, key, value []byte) error {
		if ks == storage.SystemReplicated || ks == storage.SystemLocal {
			mounts.add(key, value)
			return nil
		}
		m, ok := mounts[ks]
		if !ok {
			return nil
		}
		path, version, ok := m.recordPath(string(key))
		if _, wanted := want[path]; !ok || !wanted || version < newest[path] {
			return nil
		}
		s, err := sumOf(value)
		if err != nil {
			s = sum{} // no JSON: not what was written
		}
		have[path], newest[path] = s, version
		return nil
	})
	return have, err
}

// recordPath returns the path that a client knows a record by. Of a KV version
// 2 mount only versions' data have one.
func (m mount) recordPath(key string) (path string, version int, ok bool) {
	if !m.version2() {
		return m.Path + key, 0, true
	}
	key, ok = strings.CutPrefix(key, "v/")
	at := strings.LastIndexByte(key, '/')
	if !ok || at < 0 {
		return "", 0, false
	}
	version, err := strconv.Atoi(key[at+1:])
	return m.Path + key[:at], version, err == nil
}

func compareLists(w io.Writer, file string, want, have map[string]sum) error {
	missing, different := 0, 0
	tell := func(path, what string) {
		if missing+different <= maxFaults {
			fmt.Fprintf(w, "%s: %s\n", path, what)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		value := want[path]
		got, ok := have[path]
		switch {
		case !ok:
			missing++
			tell(path, "missing")
		case got != value:
			different++
			tell(path, "another value")
		}
	}
	if missing+different > 0 {
		fmt.Fprintf(w, "%s: of %d records %d are missing and %d have another value\n", file, len(want), missing, different)
		return errReported
	}
	fmt.Fprintf(w, "%s: all %d records are there with their values\n", file, len(want))
	return nil
}
