package vault

import (
	"context"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
)

// SeedVersions gives a key of KV version 2 versions 1 to n, as if each had been written while max_versions was n.
func SeedVersions(t testing.TB, c *Core, path string, n uint64) {
	t.Helper()
	snap, err := c.current()
	if err != nil {
		t.Fatal(err)
	}
	m, key := snap.mounts.route(path)
	s, meta := m.space(), newMeta(time.Unix(0, 0).UTC())
	meta.Current, meta.Oldest, meta.MaxVersions = n, 1, int64(n)
	var writes []engine.Write
	flush := func() {
		if _, err := c.engine.Do(context.Background(), &engine.Tx{Writes: writes}); err != nil {
			t.Fatal(err)
		}
		writes = nil
	}
	for i := uint64(1); i <= n; i++ {
		meta.Versions[i] = &kv2Version{Created: meta.Created}
		if writes = append(writes, s.put(versionKey(key, i), []byte(`{"a":1}`))); len(writes) == 4000 {
			flush()
		}
	}
	more, err := putMeta(s, key, meta)
	if err != nil {
		t.Fatal(err)
	}
	writes = append(writes, more...)
	flush()
}
