package vault_test

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/vault"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// keeper is a node that has archives.
type keeper struct {
	*part
	kept *archive.Store
}

func (k *keeper) Archives() []archive.Meta                { return k.kept.List() }
func (k *keeper) Archive(id string) (archive.Meta, error) { return k.kept.Get(id) }
func (k *keeper) DiscardArchive(id string) error          { return k.kept.Discard(id) }
func (k *keeper) ReadArchive(id string, from uint64, fn func(uint64, *archive.Item) (bool, error)) error {
	return k.kept.Read(id, from, fn)
}

// archiveOf makes an archive of puts into a keyspace, one an entry, and one into the system's.
func archiveOf(t *testing.T, ks storage.KeyspaceID, n int) (*archive.Store, string) {
	t.Helper()
	s, err := archive.Open(archive.Options{Dir: filepath.Join(t.TempDir(), "archive"), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	fork := wal.Fork{7}
	w, err := s.Create(archive.Meta{Source: archive.FromRewind, Kind: "dr", Set: "set", Common: wal.Position{Fork: fork, Index: 100}, Reason: "a test"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		e := &storage.Entry{Index: uint64(101 + i), Time: 1, Blocks: []storage.Block{
			{Keyspace: ks, Scope: storage.Replicated, Changes: []storage.Change{{Op: storage.Put, Key: fmt.Append(nil, "key ", i), Value: []byte("secret value")}}},
			{Keyspace: storage.SystemLocal, Scope: storage.Local, Changes: []storage.Change{{Op: storage.Put, Key: []byte("signing"), Value: []byte("signing key")}}},
		}}
		if err := w.AddEntry(wal.Position{Fork: fork, Index: e.Index}, storage.EncodeEntry(nil, e), true); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return s, ids[0]
}

func TestWhatDivergedIsListedShownExportedAndDiscarded(t *testing.T) {
	t.Parallel()
	w := ready(t)
	w.must(204, "PUT", "sys/mounts/lost", `{"type":"kv"}`)
	id, err := uuid.Parse(w.must(200, "GET", "sys/mounts", "").text("data.lost/.uuid"))
	if err != nil {
		t.Fatal(err)
	}
	kept, name := archiveOf(t, storage.KeyspaceID(id), 5)
	w.must(204, "PUT", "sys/policies/acl/reader", `{"policy":"path \"sys/replication/divergence/*\" { capabilities = [\"read\"] }"}`)
	reader := w.token(`{"policies":["reader"]}`)
	vault.SetNode(w.core, &keeper{part: &part{performance: replication.Primary}, kept: kept})
	const path = "sys/replication/divergence"

	list := w.must(200, "LIST", path, "")
	if !strings.Contains(string(list.raw), `"keys":["`+name+`"]`) || !strings.Contains(string(list.raw), `"lost_entries":5`) {
		t.Errorf("listed: %s", list.raw)
	}
	value := base64.StdEncoding.EncodeToString([]byte("secret value"))
	signing := base64.StdEncoding.EncodeToString([]byte("signing key"))
	for _, tt := range []struct {
		name, method, path, token string
		status                    int
		with, without             []string
	}{
		{"shown to a reader", "GET", path + "/" + name, reader, 200, []string{`"mount":"lost/"`, `"key":"key 4"`, `"op":"put"`}, []string{value, signing, "secret value"}},
		{"values, to a reader", "GET", path + "/" + name + "?show_values=true", reader, 403, nil, []string{value}},
		{"values, with sudo", "GET", path + "/" + name + "?show_values=true", w.root, 200, []string{value}, []string{signing}},
		{"exported to a reader", "GET", path + "/" + name + "/export", reader, 403, nil, []string{value}},
		{"exported", "GET", path + "/" + name + "/export", w.root, 200, []string{value, `"fork":"07000000`}, []string{signing, `"next"`}},
		{"a page", "GET", path + "/" + name + "?from=1&limit=2", w.root, 200, []string{`"key":"key 1"`, `"next":2`}, []string{"key 0", "key 3"}},
		{"a page that is too long", "GET", path + "/" + name + "?limit=100000", w.root, 400, []string{"limit"}, nil},
		{"another archive", "GET", path + "/dr-1-00000000", w.root, 404, nil, nil},
		{"discarded without a word", "DELETE", path + "/" + name, w.root, 400, []string{"confirm=true"}, nil},
		{"discarded by a reader", "DELETE", path + "/" + name + "?confirm=true", reader, 403, nil, nil},
		{"discarded", "DELETE", path + "/" + name + "?confirm=true", w.root, 204, nil, nil},
		{"discarded again", "DELETE", path + "/" + name + "?confirm=true", w.root, 404, nil, nil},
	} {
		g := w.call(tt.method, tt.path, tt.token, "")
		if g.status != tt.status {
			t.Errorf("%s: got %v, want %d", tt.name, g, tt.status)
		}
		for _, text := range tt.with {
			if !strings.Contains(string(g.raw), text) {
				t.Errorf("%s: %q is missing in %s", tt.name, text, g.raw)
			}
		}
		for _, text := range tt.without {
			if strings.Contains(string(g.raw), text) {
				t.Errorf("%s: %q is in %s", tt.name, text, g.raw)
			}
		}
	}
}
