package replication

import (
	"context"
	"encoding/base64"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

var tokenKeyOfTest = indexKey([]byte("a digest secret of 32 bytes......"))

func TestIndexTokensReadBackAndNothingElseDoes(t *testing.T) {
	want := indexToken{set: "7d0e-set", shared: wal.Position{Fork: wal.Fork{1}, Index: 12}, local: wal.Position{Fork: wal.Fork{2}, Index: 1 << 63}}
	text := want.encode(tokenKeyOfTest)
	if got, err := decodeIndexToken(text, tokenKeyOfTest); err != nil || !reflect.DeepEqual(*got, want) {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
	plain, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	// What the stock client's helper demands: five fields, the second not empty, two numbers.
	fields := strings.Split(string(plain), ":")
	if len(fields) != 5 || fields[0] != "v1" || fields[1] == "" || fields[2] != "9223372036854775808" || fields[3] != "12" || len(fields[4]) != 64 {
		t.Errorf("a client reads the fields %q", fields)
	}
	again := func(state string) string {
		return base64.StdEncoding.EncodeToString([]byte(state))
	}
	for name, bad := range map[string]string{
		"nothing":            "",
		"no base64":          "v1:x",
		"another key's":      want.encode(indexKey([]byte("another"))),
		"a number changed":   again(strings.Replace(string(plain), ":12:", ":13:", 1)),
		"the set changed":    again(strings.Replace(string(plain), "7d0e", "7d0f", 1)),
		"no signature":       again(string(plain[:len(plain)-65])),
		"half a signature":   again(string(plain[:len(plain)-32])),
		"too long":           strings.Repeat("A", maxIndexToken+4),
		"a line break in it": text[:8] + "\n" + text[8:],
	} {
		if _, err := decodeIndexToken(bad, tokenKeyOfTest); !errors.Is(err, ErrIndexToken) {
			t.Errorf("%s: got %v, want ErrIndexToken", name, err)
		}
	}
}

func FuzzIndexState(f *testing.F) {
	f.Add("v1:set.00000000000000000000000000000000.00000000000000000000000000000001:5:6")
	f.Add("v1::1:2")
	f.Add("v1:set.00000000000000000000000000000000.00000000000000000000000000000001.2-91-AQAAAAAAAAAAAAAAAAAAAA-AgAAAAAAAAAAAAAAAAAAAA-1;3-5-AQAAAAAAAAAAAAAAAAAAAA-AgAAAAAAAAAAAAAAAAAAAA-0:5:6")
	f.Fuzz(func(t *testing.T, state string) {
		got, err := parseIndexState(state)
		if err != nil {
			return
		}
		back, err := decodeIndexToken(got.encode(tokenKeyOfTest), tokenKeyOfTest)
		if len(got.set) < 64 && (err != nil || !reflect.DeepEqual(*back, *got)) {
			t.Fatalf("%q is read as %+v, which reads back as %+v, %v", state, got, back, err)
		}
	})
}

func TestAPlaceIsComparedByItsHistory(t *testing.T) {
	a, b, c := wal.Fork{1}, wal.Fork{2}, wal.Fork{3}
	one, other := wal.Lineage{1}, wal.Lineage{2}
	history := []engine.Reign{{Fork: a, Lineage: one, Start: 1}, {Fork: b, Lineage: one, Start: 96}, {Fork: c, Lineage: other, Start: 40, ParentEnd: 100}}
	at := func(f wal.Fork, index uint64) wal.Position { return wal.Position{Fork: f, Index: index} }
	for _, tt := range []struct {
		name string
		last int // reigns of history that count
		now  wal.Position
		of   wal.Position
		want Reach
	}{
		{"before everything", 1, wal.Position{}, wal.Position{}, Reached},
		{"passed on the running fork", 1, at(a, 50), at(a, 50), Reached},
		{"ahead on the running fork", 1, at(a, 50), at(a, 51), NotYet},
		{"on a fork before", 2, at(b, 100), at(a, 95), Reached},
		{"beyond the end of a fork before: the same number, another fork", 2, at(b, 100), at(a, 96), LostIndex},
		{"on a later fork than the follower has come to", 2, at(a, 90), at(b, 96), NotYet},
		{"on the fork that the follower is on, and a later one is known", 2, at(a, 90), at(a, 91), NotYet},
		{"before its fork began", 2, at(b, 100), at(b, 95), LostIndex},
		{"of a fork that nobody has heard of", 2, at(b, 100), at(wal.Fork{9}, 1), NotYet},
		{"of a former primary's log, which this one had", 3, at(c, 41), at(b, 100), Reached},
		{"of a former primary's log, which this one never had", 3, at(c, 41), at(b, 101), LostIndex},
		{"of a former primary's log, while its successor's log is followed before its reign", 3, at(wal.Fork{8}, 20), at(b, 100), NotYet},
		{"of a log before that one", 3, at(c, 41), at(a, 10), Reached},
		{"of that log, while it is still being followed", 3, at(b, 99), at(b, 99), Reached},
	} {
		if got := compareIndex(history[:tt.last], tt.now, tt.of); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestIndexTokensBetweenTheMembersOfASet(t *testing.T) {
	t.Parallel()
	p, px := newPrimary(t)
	s := p.follow(Performance, "s")
	p.caughtUp(Performance, s)
	ctx := enginetest.Context(t)
	reached := func(c *cluster, wait bool, tokens ...string) Reach {
		t.Helper()
		r, err := c.n.ReachedIndex(ctx, tokens, wait, true)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	wrote := p.n.IndexToken(enginetest.MustPut(t, p.e, shared, storage.Replicated, "k", "v").Position)
	if got := reached(s, true, wrote); got != Reached {
		t.Errorf("a write on the primary, waited for on the secondary: %d", got)
	}
	if _, err := s.e.Get(shared, []byte("k")); err != nil {
		t.Errorf("what was waited for is not here: %v", err)
	}
	own := s.n.IndexToken(enginetest.MustPut(t, s.e, local, storage.Local, "k", "v").Position)
	for name, c := range map[string]*cluster{"where it was written": s, "on the primary, which has not that log": p} {
		if got := reached(c, false, own, wrote); got != Reached {
			t.Errorf("a local write of the secondary, %s: %d", name, got)
		}
	}
	px.freeze()
	ahead := p.n.IndexToken(enginetest.MustPut(t, p.e, shared, storage.Replicated, "k", "w").Position)
	s.n.cfg.ForwardWait = 20 * time.Millisecond
	if got := reached(s, true, wrote, ahead); got != NotYet {
		t.Errorf("a state that has not come: %d, want not yet", got)
	}
	if got := reached(p, false, ahead); got != Reached {
		t.Errorf("that state where it was written: %d", got)
	}
	s.n.cfg.ForwardWait = patience
	came := make(chan Reach, 1)
	go func() { r, _ := s.n.ReachedIndex(context.WithoutCancel(ctx), []string{ahead}, true, true); came <- r }()
	px.thaw()
	if got := <-came; got != Reached {
		t.Errorf("after the link came back: %d", got)
	}
	if token := s.n.ForwardedIndexToken(ahead); reached(p, false, token) != Reached || reached(s, true, token) != Reached {
		t.Error("the token of a forwarded write is not good on both")
	}
	if got := s.n.ForwardedIndexToken("nonsense"); got != "" {
		t.Errorf("made of nonsense: %q", got)
	}
	stranger, _ := newPrimary(t)
	if _, err := p.n.ReachedIndex(ctx, []string{stranger.n.IndexToken(stranger.e.Position())}, false, true); !errors.Is(err, ErrIndexToken) {
		t.Errorf("a token of another set: %v", err)
	}
	if _, err := p.n.ReachedIndex(ctx, make([]string, maxIndexTexts+1), false, true); !errors.Is(err, ErrIndexToken) {
		t.Errorf("too many tokens: %v", err)
	}
}
