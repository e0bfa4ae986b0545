package server

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

var makeDataDir = flag.String("make-datadir", "", "write a data directory of the present format to this file in testdata, for the release that brings it")

// releasedDataDirs are data directories as each release left them, by the version that wrote them.
var releasedDataDirs = []string{"datadir-0.1.tar.gz"}

// fillDataDir writes what a data directory of testdata holds: records of both versions of KV, a policy, a checkpoint, several segments and a tail of
// the log behind the checkpoint.
func fillDataDir(r *running) {
	r.t.Helper()
	r.mustDo("PUT", "sys/policies/acl/kept", `{"policy":"path \"one/*\" { capabilities = [\"read\"] }"}`, 204)
	r.mustDo("PUT", "sys/mounts/one", `{"type":"kv"}`, 204)
	r.mustDo("PUT", "sys/mounts/mine", `{"type":"kv","local":true}`, 204)
	for i := range 40 {
		r.mustDo("PUT", fmt.Sprintf("one/k%02d", i), fmt.Sprintf(`{"n":%d}`, i), 204)
	}
	r.mustDo("DELETE", "one/k07", "", 204)
	r.mustDo("PUT", "secret/data/a", `{"data":{"v":1}}`, 200)
	r.mustDo("PUT", "secret/data/a", `{"data":{"v":2}}`, 200)
	r.mustDo("PUT", "mine/a", `{"whose":"local"}`, 204)
}

func checkDataDir(r *running) {
	r.t.Helper()
	for path, want := range map[string]string{
		"one/k00": `"n":0`, "one/k39": `"n":39`, "secret/data/a": `"v":2`, "secret/data/a?version=1": `"v":1`, "mine/a": `"whose":"local"`, "sys/policies/acl/kept": `one/*`,
	} {
		if text := r.mustDo("GET", path, "", 200); !strings.Contains(text, want) {
			r.t.Errorf("%s: got %s, want %s in it", path, text, want)
		}
	}
	r.mustDo("GET", "one/k07", "", 404)
	if text := r.mustDo("POST", "sys/replication/merkle-check", "", 200); !strings.Contains(text, `"corrupted_root":false`) {
		r.t.Errorf("merkle-check: %s", text)
	}
	r.mustDo("PUT", "one/new", `{"n":-1}`, 204)
}

func smallSegments(cfg *Config) *Config {
	cfg.Replication.SegmentEntries, cfg.Replication.SegmentBytes, cfg.Replication.CheckpointInterval = 16, 64<<10, time.Hour
	return cfg
}

func TestDataDirectoriesOfEveryReleaseOpen(t *testing.T) {
	if *makeDataDir != "" {
		cfg := smallSegments(testConfig(t))
		r := runServer(t, cfg)
		fillDataDir(r)
		r.stop()
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
		pack(t, cfg.DataDir, filepath.Join("testdata", *makeDataDir))
	}
	for _, name := range releasedDataDirs {
		cfg := smallSegments(testConfig(t))
		unpack(t, filepath.Join("testdata", name), cfg.DataDir)
		checkDataDir(runServer(t, cfg))
	}
}

func TestADataDirectoryOfANewerFormatIsRefusedUntouched(t *testing.T) {
	for _, c := range []struct{ what, file, bucket, key, at string }{
		{"the log's list", "meta.db", "log", "format", "LSLOGMET"},
		{"the state", "state.db", "meta", "format", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			cfg := smallSegments(testConfig(t))
			unpack(t, filepath.Join("testdata", releasedDataDirs[len(releasedDataDirs)-1]), cfg.DataDir)
			raise(t, find(t, cfg.DataDir, c.file), c.bucket, c.key, len(c.at))
			before := digests(t, cfg.DataDir)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			err := Run(ctx, cfg)
			if err == nil || !strings.Contains(err.Error(), "version") || !strings.Contains(err.Error(), "9") {
				t.Errorf("got %v, want both versions named", err)
			}
			after := digests(t, cfg.DataDir)
			for name, sum := range before {
				if after[name] != sum {
					t.Errorf("%s was changed", name)
				}
			}
			if len(after) != len(before) {
				t.Errorf("%d files before, %d after", len(before), len(after))
			}
		})
	}
}

// raise sets a version, which stands at a place of a value, to 9.
func raise(t *testing.T, path, bucket, key string, at int) {
	t.Helper()
	db, err := boltfile.Open(path, boltfile.Options{Tie: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil || b.Get([]byte(key)) == nil {
			return fmt.Errorf("%s has no %s in %s", path, key, bucket)
		}
		v := append([]byte(nil), b.Get([]byte(key))...)
		binary.BigEndian.PutUint16(v[at:], 9)
		return b.Put([]byte(key), v)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, dir, name string) (path string) {
	t.Helper()
	eachFile(t, dir, func(file string, _ fs.FileInfo) {
		if filepath.Base(file) == name {
			path = file
		}
	})
	if path == "" {
		t.Fatalf("no %s in %s", name, dir)
	}
	return path
}

// eachFile calls fn for the files that hold data: not the lock, not the reserve of disk.
func eachFile(t *testing.T, dir string, fn func(path string, info fs.FileInfo)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == lockName || d.Name() == "reserve" {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fn(path, info)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func digests(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	eachFile(t, dir, func(path string, _ fs.FileInfo) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[path] = sha256.Sum256(text)
	})
	return out
}

func pack(t *testing.T, dir, to string) {
	t.Helper()
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	eachFile(t, dir, func(path string, info fs.FileInfo) {
		name, err := filepath.Rel(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		err = w.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o600, Size: int64(len(text)), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = w.Write(text)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if err := errors.Join(w.Close(), z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func unpack(t *testing.T, from, dir string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(out, r)
		if err := errors.Join(err, out.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
