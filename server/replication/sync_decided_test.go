package replication

import (
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

func TestOnlyWhatWasHereIsDecidedForThePrimary(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	for _, k := range []string{"a", "b", "c", "d"} {
		enginetest.MustPut(t, e, shared, storage.Replicated, k, "ours")
	}
	if err := e.Checkpoint(enginetest.Context(t)); err != nil {
		t.Fatal(err)
	}
	rec := func(key, value string) storage.Record { return storage.Record{Key: []byte(key), Value: []byte(value)} }
	keys := func(names ...string) (out [][]byte) {
		for _, n := range names {
			out = append(out, []byte(n))
		}
		return out
	}
	for _, tt := range []struct {
		name string
		r    engine.SyncRange
		want decided
	}{
		{"a whole range that is new", engine.SyncRange{Low: []byte("e"), Records: []storage.Record{rec("e", "1"), rec("f", "1")}}, decided{}},
		{"a keyspace that is new", engine.SyncRange{Keyspace: second, Records: []storage.Record{rec("a", "1")}}, decided{}},
		{"a whole range without records", engine.SyncRange{Low: []byte("b"), High: []byte("d")}, decided{removed: 2}},
		{"a whole range in which one is equal, one differs, one is new and two are missing",
			engine.SyncRange{Records: []storage.Record{rec("a", "ours"), rec("aa", "new"), rec("c", "theirs")}}, decided{overwritten: 1, removed: 2}},
		{"single records, one of them new", engine.SyncRange{Partial: true, Records: []storage.Record{rec("a", "theirs"), rec("x", "new")}}, decided{overwritten: 1}},
		{"keys to delete, one of which is not here", engine.SyncRange{Partial: true, Gone: keys("b", "x")}, decided{removed: 1}},
	} {
		if tt.r.Keyspace == (storage.KeyspaceID{}) {
			tt.r.Keyspace = shared
		}
		v := e.Finished()
		var kept decided
		got, err := decides(v, &tt.r, func(rec *storage.Record, removed bool) error {
			if removed {
				kept.removed++
			} else {
				kept.overwritten++
			}
			if string(rec.Value) != "ours" || rec.Index == 0 {
				t.Errorf("%s: kept %q with value %q of index %d", tt.name, rec.Key, rec.Value, rec.Index)
			}
			return nil
		})
		v.Release()
		if kept != got {
			t.Errorf("%s: kept %+v of %+v", tt.name, kept, got)
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
}
