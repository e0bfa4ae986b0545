package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/wal"
)

// ReadRaw calls fn for each record of a state file, using no digest and no index: what is there, is there. For checks that must not
// trust what they check. Records of detached keyspaces are among them. with opens the values of a sealed file;
// one that does not open is nil.
func ReadRaw(path string, with wal.Sealer, fn func(ks KeyspaceID, key, value []byte) error) error {
	f, err := boltfile.Open(path, boltfile.Options{ReadOnly: true, Tie: true})
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	return f.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			if len(name) != 1+idSize || name[0] != prefixRows {
				return nil
			}
			id := KeyspaceID(name[1:])
			return b.ForEach(func(k, v []byte) error {
				if len(v) < rowHeader {
					return &Damage{File: path, Keyspace: id, Key: bytes.Clone(k), What: fmt.Sprintf("a row of %d bytes is too short", len(v))}
				}
				if len(k) > MaxKey {
					return &Damage{File: path, Keyspace: id, Key: bytes.Clone(k[:MaxKey]), What: fmt.Sprintf("a key of %d bytes is longer than any", len(k))}
				}
				value, _ := sealing{with}.value(id, k, &row{flags: v[rowCRC] & rowSealed, index: binary.BigEndian.Uint64(v[rowCRC+1:]), value: v[rowHeader:]})
				return fn(id, bytes.Clone(k), bytes.Clone(value))
			})
		})
	})
}
