package cluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	bolt "go.etcd.io/bbolt"
)

// Store returns the directory of the stopped node's live store.
func (n *Node) Store() string {
	n.t.Helper()
	name, err := os.ReadFile(filepath.Join(n.Data, "CURRENT"))
	if err != nil {
		n.t.Fatalf("live store of %s: %v", n.Name, err)
	}
	return filepath.Join(n.Data, string(bytes.TrimSpace(name)))
}

// Segments returns the files of the live store's log, oldest first.
func (n *Node) Segments() []string {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.Store(), "log", "*.wal"))
	if err != nil {
		n.t.Fatal(err)
	}
	slices.Sort(files) // a name begins with the first index, in twenty digits
	return files
}

// FirstIndex returns the first index that the node's log holds, by the names
// of its segments: what retention dropped, by a witness outside the product.
func (n *Node) FirstIndex() uint64 {
	n.t.Helper()
	files := n.Segments()
	if len(files) == 0 {
		n.t.Fatalf("%s has no segment in %s", n.Name, n.Store())
	}
	first, _, _ := strings.Cut(filepath.Base(files[0]), "-")
	index, err := strconv.ParseUint(first, 10, 64)
	if err != nil {
		n.t.Fatalf("segment %s: %v", files[0], err)
	}
	return index
}

// Offset finds where in a bbolt file a value lies: pick is asked about each
// value with the names of its buckets and its key, and returns the offset
// within the value, or -1 for "go on".
func Offset(t testing.TB, file string, pick func(buckets []string, key, value []byte) int) (int64, bool) {
	t.Helper()
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatalf("look into %s: %v", file, err)
	}
	defer db.Close()
	at, found := int64(0), false
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			return walk(b, []string{string(name)}, func(buckets []string, key, value []byte) bool {
				within := pick(buckets, key, value)
				if within < 0 || found {
					return found
				}
				// Values point into the file's map: their address less its beginning is the place in the file.
				at = int64(uintptr(unsafe.Pointer(&value[within])) - db.Info().Data)
				found = true
				return true
			})
		})
	})
	if err != nil {
		t.Fatalf("look into %s: %v", file, err)
	}
	return at, found
}

// walk calls fn for every value of a bucket and those inside until it returns true.
func walk(b *bolt.Bucket, path []string, fn func([]string, []byte, []byte) bool) error {
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if v == nil {
			if err := walk(b.Bucket(k), append(path[:len(path):len(path)], string(k)), fn); err != nil {
				return err
			}
			continue
		}
		if len(v) > 0 && fn(path, k, v) {
			return nil
		}
	}
	return nil
}

// FlipByte changes one byte of a file, and nothing of its times' meaning: as rot does.
func FlipByte(t testing.TB, file string, at int64, mask byte) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatalf("read byte %d of %s: %v", at, file, err)
	}
	b[0] ^= mask
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatalf("write byte %d of %s: %v", at, file, err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// CopyDir copies a directory of plain files.
func CopyDir(t testing.TB, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(fmt.Errorf("copy %s: %w", from, err))
	}
}
