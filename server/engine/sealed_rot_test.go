package engine_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstepdb/lockstep/internal/seal/sealtest"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// keyIDBehind is where, behind a record's key in a state file, its value names what it is sealed with: after the record's
// header and the format.
const keyIDBehind = 45 + 1

func TestARecordThatNamesAnUnknownKeyIsMendedBySync(t *testing.T) {
	t.Parallel()
	for name, role := range bothRoles {
		t.Run(name, func(t *testing.T) {
			const rotten = "rotten-key-of-the-test"
			p := fill(t, rand.New(rand.NewPCG(17, 18)))
			enginetest.MustDo(t, p, put(rotten, "value"))
			if err := p.Checkpoint(enginetest.Context(t)); err != nil {
				t.Fatal(err)
			}
			keys := sealtest.New(t)
			dir := filepath.Join(t.TempDir(), "store")
			if err := engine.CreateSealed(dir, enginetest.Secondary(p, role), nil, keys.Keyring()); err != nil {
				t.Fatal(err)
			}
			secondary := func(c *engine.Config) { c.Repairable, c.Sealer = true, keys.Keyring() }
			e := enginetest.Open(t, dir, role, small, secondary)
			if err := (&syncing{t: t, feeder: p, e: e}).run(); err != nil {
				t.Fatal(err)
			}
			enginetest.Stop(t, e)
			flipBehind(t, filepath.Join(dir, "state.db"), rotten)

			e = enginetest.Open(t, dir, role, small, secondary)
			defer enginetest.Stop(t, e)
			var d *storage.Damage
			if _, err := e.Get(shared, []byte(rotten)); !errors.As(err, &d) {
				t.Errorf("reading: got %v, want *Damage", err)
			}
			if len(e.Damaged()) == 0 {
				t.Error("nothing was told by Damaged")
			}
			if wrong, err := e.Reindex(enginetest.Context(t), nil); err != nil || wrong != 1 {
				t.Fatalf("reindex: got %d, %v, want 1 record", wrong, err)
			}
			s := &syncing{t: t, feeder: p, e: e, partial: true}
			if err := s.run(); err != nil {
				t.Fatalf("syncing: %v", err)
			}
			s.mustEqual()
			enginetest.Check(t, e)
		})
	}
}

// flipBehind flips a bit of the key id in every copy of a sealed record.
func flipBehind(t *testing.T, file, key string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for at := 0; ; {
		i := bytes.Index(b[at:], []byte(key))
		if i < 0 {
			break
		}
		at += i + len(key)
		// The key may also part two pages or two leaves; behind it another begins then, not a row: checksum, the flag of what is sealed, an index of few bytes.
		if row := b[at:]; row[4] == 2 && [4]byte(row[5:9]) == [4]byte{} {
			row[keyIDBehind] ^= 1
			found++
		}
	}
	if found == 0 {
		t.Fatalf("%s does not hold %q", file, key)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
