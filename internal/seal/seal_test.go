package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2031, 2, 3, 12, 0, 0, 0, time.UTC)

func fresh(t testing.TB, o Options) (*Opened, [][]byte, string) {
	t.Helper()
	op, shares, err := New(o, noon)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := op.Save(dir); err != nil {
		t.Fatal(err)
	}
	return op, shares, dir
}

func reread(t testing.TB, dir string) *Record {
	t.Helper()
	r, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// unlock gives shares to a ceremony and opens the file with what comes out.
func unlock(t testing.TB, dir string, shares ...[]byte) (*Opened, error) {
	t.Helper()
	r := reread(t, dir)
	c := NewCeremony(r.Threshold)
	for _, s := range shares {
		key, ok, err := c.Add(s)
		if err != nil {
			return nil, err
		}
		if ok {
			return r.Unlock(dir, key)
		}
	}
	return nil, errors.New("not enough")
}

func TestSealOpensWithEveryThresholdOfItsShares(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{1, 1}, {2, 2}, {5, 3}} {
		op, shares, dir := fresh(t, Options{Config: c})
		value := op.Keyring().Seal(nil, []byte("place"), []byte("planted"))
		eachSubset(c.Shares, func(subset []int) {
			if len(subset) > c.Threshold {
				return
			}
			again, err := unlock(t, dir, pick(shares, subset)...)
			if len(subset) < c.Threshold {
				if err == nil {
					t.Errorf("%d of %d shares open a seal of threshold %d", len(subset), c.Shares, c.Threshold)
				}
				return
			}
			if err != nil {
				t.Errorf("shares %v of %v: %v", subset, c, err)
				return
			}
			if got, err := again.Keyring().Open(nil, []byte("place"), value); err != nil || string(got) != "planted" {
				t.Errorf("shares %v of %v: value opens as %q, %v", subset, c, got, err)
			}
		})
	}
}

func TestWrongSharesAreRefusedAndProgressIsReset(t *testing.T) {
	t.Parallel()
	_, shares, dir := fresh(t, Options{Config: Config{5, 3}})
	_, foreign, _ := fresh(t, Options{Config: Config{5, 3}})
	r := reread(t, dir)
	c := NewCeremony(3)
	for _, s := range [][]byte{shares[0], foreign[1], shares[2]} {
		key, ok, err := c.Add(s)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			continue
		}
		if _, err := r.Unlock(dir, key); !errors.Is(err, ErrWrongShares) {
			t.Errorf("a foreign share among three: %v, want ErrWrongShares", err)
		}
	}
	if c.Progress() != 0 {
		t.Errorf("progress after wrong shares is %d, want 0", c.Progress())
	}
	// Two shares with one number cannot even be put together.
	c = NewCeremony(2)
	if _, _, err := c.Add(shares[0]); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Add(foreign[0]); !errors.Is(err, ErrWrongShares) || c.Progress() != 0 {
		t.Errorf("two shares with one number: %v, progress %d", err, c.Progress())
	}
}

func TestConfigLimits(t *testing.T) {
	t.Parallel()
	for c, ok := range map[Config]bool{
		{1, 1}: true, {2, 2}: true, {5, 3}: true, {255, 255}: true,
		{0, 0}: false, {5, 1}: false, {3, 5}: false, {256, 3}: false, {5, 0}: false, {-1, -1}: false,
	} {
		if err := c.Validate(); (err == nil) != ok {
			t.Errorf("%d shares, threshold %d: %v", c.Shares, c.Threshold, err)
		}
	}
}

func TestValuesOpenOnlyAtTheirPlaceAndUnchanged(t *testing.T) {
	t.Parallel()
	op, _, _ := fresh(t, Options{Config: Config{1, 1}})
	k := op.Keyring()
	for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("long "), 1000)} {
		prefix := []byte("before")
		sealed := k.Seal(bytes.Clone(prefix), []byte("here"), plain)
		sealed = sealed[len(prefix):]
		if len(sealed) != len(plain)+k.Overhead() {
			t.Errorf("%d bytes sealed take %d, want %d more", len(plain), len(sealed), k.Overhead())
		}
		if got, err := k.Open(bytes.Clone(prefix), []byte("here"), sealed); err != nil || !bytes.Equal(got, append(bytes.Clone(prefix), plain...)) {
			t.Errorf("%d bytes do not open: %v", len(plain), err)
		}
		if _, err := k.Open(nil, []byte("there"), sealed); !errors.Is(err, ErrTampered) {
			t.Errorf("at another place: %v, want ErrTampered", err)
		}
		for bit := 0; bit < 8*min(len(sealed), 200); bit++ {
			bad := bytes.Clone(sealed)
			bad[bit/8] ^= 1 << (bit % 8)
			if _, err := k.Open(nil, []byte("here"), bad); err == nil {
				t.Fatalf("bit %d turned: it opens", bit)
			}
		}
		for n := range len(sealed) {
			if _, err := k.Open(nil, []byte("here"), sealed[:n]); err == nil {
				t.Fatalf("cut to %d of %d bytes: it opens", n, len(sealed))
			}
		}
	}
	if len(k.derived) != 1 {
		t.Errorf("%d derived keys are kept after damage, want the one in use", len(k.derived))
	}
}

func TestNoNonceIsUsedTwice(t *testing.T) {
	t.Parallel()
	op, shares, dir := fresh(t, Options{Config: Config{1, 1}})
	seen := map[string]bool{}
	for range 20 {
		again, err := unlock(t, dir, shares[0])
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			again.Keyring().now.Load().used.Store(valuesPerKey - 5) // the derived key is used up amid the loop
			for range 10 {
				head := string(again.Keyring().Seal(nil, nil, nil)[:headSize+8])
				if seen[head] {
					t.Fatalf("key and nonce %x come twice", head)
				}
				seen[head] = true
			}
		}
	}
	_ = op
}

func TestRotateKeepsOldKeysAndSealsWithTheNewOne(t *testing.T) {
	t.Parallel()
	op, shares, dir := fresh(t, Options{Config: Config{1, 1}})
	before := op.Keyring().Seal(nil, []byte("p"), []byte("old"))
	term, err := op.Rotate(noon.Add(time.Hour))
	if err != nil || term.Number != 2 {
		t.Fatalf("rotate: %+v, %v", term, err)
	}
	after := op.Keyring().Seal(nil, []byte("p"), []byte("new"))
	if bytes.Equal(before[:headSize], after[:headSize]) {
		t.Error("after a rotation the old key seals")
	}
	again, err := unlock(t, dir, shares[0])
	if err != nil {
		t.Fatal(err)
	}
	for want, sealed := range map[string][]byte{"old": before, "new": after} {
		if got, err := again.Keyring().Open(nil, []byte("p"), sealed); err != nil || string(got) != want {
			t.Errorf("%s value after reopening: %q, %v", want, got, err)
		}
	}
	if again.Keyring().Newest().ID != term.ID {
		t.Error("the file does not hold the new term")
	}
}

func TestAFailedWriteOfTheFileChangesNothing(t *testing.T) {
	t.Parallel()
	op, shares, dir := fresh(t, Options{Config: Config{1, 1}})
	newest := op.Keyring().Newest().ID
	next, err := op.Rekey(Config{3, 2})
	if err != nil {
		t.Fatal(err)
	}
	gone := filepath.Join(dir, "gone")
	op.MovedTo(gone)
	if _, err := op.Rotate(noon); err == nil {
		t.Error("rotate without a place for the file: no error")
	}
	if err := op.Adopt(next); err == nil {
		t.Error("rekey without a place for the file: no error")
	}
	op.MovedTo(dir)
	if op.Keyring().Newest().ID != newest {
		t.Error("a term is used that no file holds")
	}
	if _, err := unlock(t, dir, shares[0]); err != nil {
		t.Errorf("the old share after a rekey that failed: %v", err)
	}
}

func TestRekeyPutsNewSharesInForceWhenAdopted(t *testing.T) {
	t.Parallel()
	op, old, dir := fresh(t, Options{Config: Config{5, 3}})
	n, err := op.Rekey(Config{3, 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unlock(t, dir, old[:3]...); err != nil {
		t.Errorf("the old shares before the new ones are in force: %v", err)
	}
	key, err := shareKey(n.Shares[:2])
	if err != nil || n.Check(key) != nil {
		t.Errorf("the new shares do not check: %v, %v", err, n.Check(key))
	}
	if err := op.Adopt(n); err != nil {
		t.Fatal(err)
	}
	if _, err := unlock(t, dir, old[:3]...); err == nil {
		t.Error("the old shares open the seal after a rekey")
	}
	if _, err := unlock(t, dir, n.Shares[1:]...); err != nil {
		t.Errorf("the new shares: %v", err)
	}
	if op.Verify(key) != nil || op.Verify(NewKey()) == nil {
		t.Error("Verify does not tell the share key from another")
	}
}

func TestASecondaryOpensWithItsPrimarysSharesAndFollows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		auto *Auto
	}{{"a secondary of shares", nil}, {"a secondary with a key file of its own", keyFile(t)}} {
		t.Run(c.name, func(t *testing.T) {
			primary, shares, _ := fresh(t, Options{Config: Config{3, 2}})
			sec, err := Import(primary.Export(), c.auto)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := sec.Save(dir); err != nil {
				t.Fatal(err)
			}
			if again, err := unlock(t, dir, shares[:2]...); err != nil || again.root != primary.root {
				t.Fatalf("the primary's shares do not open it: %v", err)
			}
			if changed, err := sec.Follow(primary.Share(), true); changed || err != nil {
				t.Errorf("following what it has: %v, %v", changed, err)
			}
			term, err := primary.Rotate(noon)
			if err != nil {
				t.Fatal(err)
			}
			next, err := primary.Rekey(Config{1, 1})
			if err != nil {
				t.Fatal(err)
			}
			if err := primary.Adopt(next); err != nil {
				t.Fatal(err)
			}
			own, err := sec.Rotate(noon.Add(time.Hour)) // as a cluster does that was promoted meanwhile
			if err != nil {
				t.Fatal(err)
			}
			if changed, err := sec.Follow(primary.Share(), true); !changed || err != nil {
				t.Fatalf("following a rotate and a rekey: %v, %v", changed, err)
			}
			again, err := unlock(t, dir, next.Shares[0])
			if err != nil {
				t.Fatalf("the primary's new share: %v", err)
			}
			have := map[KeyID]bool{}
			for _, x := range again.Keyring().Terms() {
				have[x.ID] = true
			}
			if !have[term.ID] || !have[own.ID] {
				t.Error("following lost a term")
			}
		})
	}
	primary, _, _ := fresh(t, Options{Config: Config{1, 1}})
	stranger, _, _ := fresh(t, Options{Config: Config{1, 1}})
	if _, err := stranger.Follow(primary.Share(), true); err == nil {
		t.Error("a keyring of another root key is taken over")
	}
}

func TestAutoSealOpensWithItsKeyAndWithItsRecoveryShares(t *testing.T) {
	t.Parallel()
	a := keyFile(t)
	op, shares, dir := fresh(t, Options{Config: Config{3, 2}, Auto: a})
	if got := reread(t, dir).Auto(); *got != *a {
		t.Errorf("the file says its key is in %v, want %v", got, a)
	}
	for what, open := range map[string]func() (*Opened, error){
		"key file":        func() (*Opened, error) { return reread(t, dir).UnlockAuto(dir, a) },
		"recovery shares": func() (*Opened, error) { return unlock(t, dir, shares[1:]...) },
	} {
		if again, err := open(); err != nil || again.root != op.root {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, wrong := range map[string]*Auto{"another key": keyFile(t), "a variable": {Type: Env, Name: "LOCKSTEP_NONE"}} {
		if _, err := reread(t, dir).UnlockAuto(dir, wrong); err == nil {
			t.Errorf("%s opens the seal", what)
		}
	}
}

func keyFile(t testing.TB) *Auto {
	t.Helper()
	a, made, err := MakeKeyFile(filepath.Join(t.TempDir(), "key"))
	if err != nil || !made {
		t.Fatalf("make key file: %v, %v", made, err)
	}
	if again, made, err := MakeKeyFile(a.Path); err != nil || made || *again != *a {
		t.Fatalf("a key file that is there: %v, %v, %v", again, made, err)
	}
	return a
}

func TestKeySources(t *testing.T) {
	dir := t.TempDir()
	good := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	file := func(name, text string, mode os.FileMode) *Auto {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return &Auto{Type: File, Path: path}
	}
	t.Setenv("SEAL_TEST_KEY", good)
	t.Setenv("SEAL_TEST_SHORT", "c2hvcnQ=")
	for _, c := range []struct {
		name string
		a    *Auto
		want string
	}{
		{"a file with a key", file("good", good+"\n", 0o600), ""},
		{"a variable with a key", &Auto{Type: Env, Name: "SEAL_TEST_KEY"}, ""},
		{"a file that others may read", file("open", good, 0o644), "chmod 600"},
		{"a file with too short a key", file("short", "c2hvcnQ=", 0o600), "no key of 256 bit"},
		{"a file that is no base64", file("text", "not base64!", 0o600), "no key of 256 bit"},
		{"a file that is not there", &Auto{Type: File, Path: filepath.Join(dir, "none")}, "missing"},
		{"a variable that is not set", &Auto{Type: Env, Name: "SEAL_TEST_NONE"}, "not set"},
		{"a variable with too short a key", &Auto{Type: Env, Name: "SEAL_TEST_SHORT"}, "no key of 256 bit"},
	} {
		_, err := c.a.Key()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.want)
		case err != nil && strings.Contains(err.Error(), "c2hvcnQ"):
			t.Errorf("%s: the error shows what was read: %v", c.name, err)
		}
	}
}

func TestATamperedSealFileIsRefusedByName(t *testing.T) {
	t.Parallel()
	_, shares, dir := fresh(t, Options{Config: Config{3, 2}})
	path := filepath.Join(dir, FileName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the seal file: %v, %v", info.Mode(), err)
	}
	edit := func(change func(r *Record)) []byte {
		r := reread(t, dir)
		change(r)
		return r.Encode() // with a right sum: somebody did it on purpose
	}
	for name, text := range map[string][]byte{
		"a turned bit":          bytes.Replace(whole, []byte(`"threshold": 2`), []byte(`"threshold": 3`), 1),
		"cut":                   whole[:len(whole)/2],
		"empty":                 {},
		"a second object":       append(bytes.Clone(whole), whole...),
		"a newer format":        bytes.Replace(whole, []byte(`"format": 1`), []byte(`"format": 2`), 1),
		"an unknown field":      bytes.Replace(whole, []byte(`"format": 1`), []byte(`"format": 1, "x": 1`), 1),
		"a lower threshold":     edit(func(r *Record) { r.Threshold = 1 }),
		"another type":          edit(func(r *Record) { r.Type = File }),
		"no keyring":            edit(func(r *Record) { r.Keyring = nil }),
		"a type that is a lie":  edit(func(r *Record) { r.Type, r.AutoRoot = "magic", []byte("x") }),
		"a root key beside one": edit(func(r *Record) { r.AutoRoot = []byte("x") }),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		var d *Damaged
		if _, err := Read(dir); !errors.As(err, &d) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want a *Damaged that names %s", name, err, path)
		}
	}
	for name, text := range map[string][]byte{
		"another keyring":  edit2(whole, func(r *Record) { r.Keyring[20] ^= 1 }),
		"another root key": edit2(whole, func(r *Record) { r.SealedRoot[20] ^= 1 }),
		"more shares":      edit2(whole, func(r *Record) { r.Shares = 9 }),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := unlock(t, dir, shares[:2]...); err == nil {
			t.Errorf("%s, with a right checksum: it opens", name)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); !errors.Is(err, ErrMissing) {
		t.Errorf("no seal file: %v", err)
	}
}

func edit2(whole []byte, change func(r *Record)) []byte {
	r, err := Decode(whole)
	if err != nil {
		panic(err)
	}
	change(r)
	return r.Encode()
}

func TestNothingSecretStandsInTheFile(t *testing.T) {
	t.Parallel()
	a := keyFile(t)
	key, err := a.Key()
	if err != nil {
		t.Fatal(err)
	}
	op, shares, dir := fresh(t, Options{Config: Config{2, 2}, Auto: a})
	text, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	secrets := [][]byte{key[:], op.root[:], op.keyring.Newest().key[:], shares[0][:32], shares[1][:32]}
	for i, s := range secrets {
		b64, _ := json.Marshal(s)
		if bytes.Contains(text, s) || bytes.Contains(text, bytes.Trim(b64, `"=`)) {
			t.Errorf("secret %d stands in the seal file", i)
		}
	}
}

func FuzzDecode(f *testing.F) {
	op, _, err := New(Options{Config: Config{3, 2}}, noon)
	if err != nil {
		f.Fatal(err)
	}
	r := op.Record()
	f.Add(r.Encode())
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(r.Encode())
		if err != nil || again.Sum != r.Sum {
			t.Fatalf("what was read does not read again: %v", err)
		}
		if _, err := r.Unlock("dir", Key{}); err == nil {
			t.Fatal("the zero key opens it")
		}
	})
}

func FuzzOpen(f *testing.F) {
	k, err := newKeyring(newTerm(1, noon))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.Seal(nil, []byte("p"), []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := k.Open(nil, []byte("p"), b); err == nil && string(got) != "x" {
			t.Fatalf("%x opens as %x", b, got)
		}
	})
}

func BenchmarkSeal1KiB(b *testing.B) {
	k, err := newKeyring(newTerm(1, noon))
	if err != nil {
		b.Fatal(err)
	}
	plain, place := make([]byte, 1024), []byte("a place of 24 bytes or so")
	dst := make([]byte, 0, 2048)
	b.SetBytes(1024)
	b.ReportAllocs()
	for b.Loop() {
		dst = k.Seal(dst[:0], place, plain)
	}
}
