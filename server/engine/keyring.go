package engine

import (
	"crypto/hmac"
	"crypto/sha256"
	"sync"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
)

// keyring derives keyspaces' digest keys from the set's secret: HMAC-SHA256(secret, keyspace id). So
// applying needs no mount table.
type keyring struct {
	secret []byte
	known  sync.Map // storage.KeyspaceID → *merkle.Key
}

func (k *keyring) key(ks storage.KeyspaceID) *merkle.Key {
	if v, ok := k.known.Load(ks); ok {
		return v.(*merkle.Key)
	}
	mac := hmac.New(sha256.New, k.secret)
	mac.Write(ks[:])
	key := new(merkle.Key)
	mac.Sum(key[:0])
	v, _ := k.known.LoadOrStore(ks, key)
	return v.(*merkle.Key)
}

func (k *keyring) value(ks storage.KeyspaceID) merkle.Key { return *k.key(ks) }
