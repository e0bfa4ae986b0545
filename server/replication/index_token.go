package replication

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// An index token names the state after a write, for whoever wants to read at least that: base64 of
//
//	v1:<set id>.<fork of the shared part>.<fork of the local part>:<local index>:<shared index>:<hex HMAC-SHA256 of the part before>
//
// Once somebody has been promoted the second field has a fourth part: the beginnings of the newest epochs of the shared part, and after a semicolon those of
// the local part where that is another log, each as
//
//	<ordinal>-<first index>-<fork that it left>-<its fork>-<1 in a copy of the same log, else 0>, forks in base64
//
// and separated by commas. So a primary that is shown a token of its successor sees that it has one. Stock clients look at the number of fields and at the
// indexes only.
//
// The shared part is a place in the log of the performance primary, the local part one in the log of the cluster that answered. Its key is derived from
// the digest secret, which the members of a set have in common: a token of one is good on all, and nobody else can make one.

// ErrIndexToken is given for a text that is no index token, or one that no member of this set made.
var ErrIndexToken = errors.New("malformed or forged index token")

// indexToken is a decoded one.
type indexToken struct {
	set           string
	shared, local wal.Position

	epochs, localEpochs []engine.Reign // beginnings
}

const (
	maxIndexToken  = 1536 // bytes
	indexTokenName = "lockstep index token v1"
)

func indexKey(digestSecret []byte) []byte {
	h := hmac.New(sha256.New, digestSecret)
	h.Write([]byte(indexTokenName))
	return h.Sum(nil)
}

func (t *indexToken) encode(key []byte) string {
	return t.minter(key).token(t.shared.Index, t.local.Index)
}

// minter makes what the token has in common with all of the same forks.
func (t *indexToken) minter(key []byte) *minter {
	beginnings := encodeEpochs(t.epochs)
	if len(t.localEpochs) > 0 {
		beginnings += ";" + encodeEpochs(t.localEpochs)
	}
	if beginnings != "" {
		beginnings = "." + beginnings
	}
	return &minter{
		before: fmt.Sprintf("v1:%s.%x.%x%s:", t.set, t.shared.Fork[:], t.local.Fork[:], beginnings),
		mac:    hmac.New(sha256.New, key).(hash.Cloner),
	}
}

// minter makes index tokens that differ in their indexes only: each write of a reign is answered with one.
type minter struct {
	made   madeOf
	before string      // of a token, up to its indexes
	mac    hash.Cloner // keyed, and never written to
}

// madeOf is what the part before the indexes depends on.
type madeOf struct {
	shared, local wal.Fork
	dr, perf      *setConfig
}

func (m *minter) token(shared, local uint64) string {
	state := append(make([]byte, 0, len(m.before)+2*20+2+2*sha256.Size), m.before...)
	state = strconv.AppendUint(state, local, 10)
	state = strconv.AppendUint(append(state, ':'), shared, 10)
	mac, err := m.mac.Clone()
	if err != nil {
		panic(err) // the standard library's own never fails
	}
	mac.Write(state)
	var sum [sha256.Size]byte
	return base64.StdEncoding.EncodeToString(hex.AppendEncode(append(state, ':'), mac.Sum(sum[:0])))
}

func decodeIndexToken(text string, key []byte) (*indexToken, error) {
	if len(text) > maxIndexToken || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("%w: longer than %d bytes, or of several lines", ErrIndexToken, maxIndexToken)
	}
	plain, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: not base64", ErrIndexToken)
	}
	at := strings.LastIndexByte(string(plain), ':')
	if at < 0 {
		return nil, ErrIndexToken
	}
	state := string(plain[:at])
	mac, err := hex.DecodeString(string(plain[at+1:]))
	if err != nil {
		return nil, ErrIndexToken
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(state))
	if !hmac.Equal(mac, h.Sum(nil)) {
		return nil, ErrIndexToken
	}
	return parseIndexState(state)
}

func parseIndexState(state string) (*indexToken, error) {
	fields := strings.Split(state, ":")
	if len(fields) != 4 || fields[0] != "v1" {
		return nil, ErrIndexToken
	}
	names := strings.Split(fields[1], ".")
	if len(names) != 3 && len(names) != 4 || names[0] == "" {
		return nil, ErrIndexToken
	}
	t := &indexToken{set: names[0]}
	for _, part := range []struct {
		p           *wal.Position
		fork, index string
	}{{&t.shared, names[1], fields[3]}, {&t.local, names[2], fields[2]}} {
		fork, err := hex.DecodeString(part.fork)
		if err != nil || len(fork) != len(part.p.Fork) {
			return nil, ErrIndexToken
		}
		copy(part.p.Fork[:], fork)
		if part.p.Index, err = strconv.ParseUint(part.index, 10, 64); err != nil {
			return nil, ErrIndexToken
		}
	}
	if len(names) == 3 {
		return t, nil
	}
	shared, local, _ := strings.Cut(names[3], ";")
	var err error
	if t.epochs, err = decodeEpochs(shared); err != nil {
		return nil, err
	}
	t.localEpochs, err = decodeEpochs(local)
	return t, err
}

// meetToken lets a token that names a newer history fence this primary. The error is an engine.Fence then.
func (n *Node) meetToken(t *indexToken) error {
	own := n.tokenSet()
	if t.set != own || len(t.epochs)+len(t.localEpochs) == 0 {
		return nil
	}
	log := n.engine.History()
	from := teller{How: "a client's index token"}
	if perf := n.set(Performance); perf != nil && perf.Mode == Primary {
		if err := n.meetEpochs(Performance, ownLineage(log, t.epochs), from); err != nil {
			return err
		}
	} else if perf == nil {
		if err := n.meetEpochs(DR, ownLineage(log, t.epochs), from); err != nil {
			return err
		}
	}
	return n.meetEpochs(DR, ownLineage(log, t.localEpochs), from)
}

// IndexToken returns the token of the state after a write of this cluster's own. It is asked for while HoldRole keeps the part in which that was written: after a
// demotion it would name a state of another primary.
func (n *Node) IndexToken(own wal.Position) string {
	shared := own
	if n.streamsFrom(Performance) {
		shared = n.engine.Cursor(engine.Performance)
	}
	return n.encodeIndex(shared, own)
}

// ForwardedIndexToken returns the token of the state after a write that the primary answered with a token of its own; empty when it gave none.
func (n *Node) ForwardedIndexToken(primary string) string {
	t, err := decodeIndexToken(primary, n.indexKey())
	if err != nil {
		return ""
	}
	return n.encodeIndex(t.shared, n.engine.Position())
}

// encodeIndex remembers the newest minter, except on a performance secondary: what that has seen of its primary's history changes by itself.
func (n *Node) encodeIndex(shared, local wal.Position) string {
	made := madeOf{shared.Fork, local.Fork, n.set(DR), n.set(Performance)}
	m := n.minter.Load()
	if m == nil || m.made != made || n.streamsFrom(Performance) {
		m = n.describe(shared, local).minter(n.indexKey())
		m.made = made
		n.minter.Store(m)
	}
	return m.token(shared.Index, local.Index)
}

// describe is the token of a state.
func (n *Node) describe(shared, local wal.Position) *indexToken {
	t := &indexToken{set: n.tokenSet(), shared: shared, local: local}
	log := n.engine.History()
	t.epochs = inTokens(upTo(log, shared.Fork))
	if n.streamsFrom(Performance) {
		seen, err := n.seen(Performance)
		if err == nil {
			t.epochs = inTokens(upTo(seen, shared.Fork))
		}
		t.localEpochs = inTokens(upTo(log, local.Fork))
	} else if set := n.set(Performance); set != nil {
		history, _ := n.setHistory(Performance, set, local.Index)
		t.epochs = inTokens(upTo(history, shared.Fork))
	}
	return t
}

// tokenSet is the set that index tokens name: the performance set when there is one.
func (n *Node) tokenSet() string {
	name := n.engine.Identity().ClusterID
	for _, k := range kinds {
		if set := n.set(k); set != nil {
			name = set.Set
		}
	}
	return name
}

func (n *Node) indexKey() []byte { return indexKey(n.engine.Identity().DigestSecret) }

func (n *Node) streamsFrom(k Kind) bool {
	set := n.set(k)
	return set != nil && set.Mode == Secondary
}

// Reach is how this cluster stands to a state that a token names.
type Reach int

const (
	Reached       Reach = iota // it has it
	NotYet                     // it is behind it, or cannot know it yet
	LostIndex                  // its history has gone on before that state: it will never have it
	maxIndexTexts = 16
)

// ReachedIndex says how this cluster stands to all of some tokens. With wait it waits for those that are ahead, Config.ForwardWait at most. With heed a token that
// shows that another cluster has taken this primary's place fences it: only for who has a right to ask, since index tokens are no secrets. An error is
// ErrIndexToken, or an *engine.Fence.
func (n *Node) ReachedIndex(ctx context.Context, texts []string, wait, heed bool) (Reach, error) {
	if len(texts) > maxIndexTexts {
		return NotYet, fmt.Errorf("%w: more than %d of them", ErrIndexToken, maxIndexTexts)
	}
	key := n.indexKey()
	tokens := make([]*indexToken, len(texts))
	for i, text := range texts {
		t, err := decodeIndexToken(text, key)
		if err != nil {
			return NotYet, err
		}
		if heed {
			if err := n.meetToken(t); err != nil {
				return NotYet, err
			}
		}
		tokens[i] = t
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.ForwardWait)
	defer cancel()
	for _, t := range tokens {
		r, err := n.reachedToken(ctx, t, wait)
		if err != nil || r != Reached {
			return r, err
		}
	}
	return Reached, nil
}

// reachedToken waits for the shared part, then for the local one.
func (n *Node) reachedToken(ctx context.Context, t *indexToken, wait bool) (Reach, error) {
	for _, part := range []struct {
		of     wal.Position
		shared bool
	}{{t.shared, true}, {t.local, false}} {
		for {
			r, sub, at, err := n.stand(part.of, part.shared)
			if err != nil || r != NotYet && r != Reached {
				return r, err
			}
			if r == Reached {
				break
			}
			if !wait || n.engine.Passed(ctx, sub, at+1) != nil {
				return NotYet, nil
			}
		}
	}
	return Reached, nil
}

// stand says how the own log, or for the shared part of a secondary the primary's, stands to a place; sub and at are what moves next.
func (n *Node) stand(p wal.Position, shared bool) (r Reach, sub string, at uint64, err error) {
	history, now := n.engine.History(), n.engine.Position()
	if shared && n.streamsFrom(Performance) {
		sub, now = engine.Performance, n.engine.Cursor(engine.Performance)
		if history, err = n.seen(Performance); err != nil {
			return NotYet, sub, now.Index, err
		}
	} else if set := n.set(Performance); shared && set != nil {
		history, _ = n.setHistory(Performance, set, now.Index)
	}
	r = compareIndex(history, now, p)
	if r == NotYet && !hasFork(history, p.Fork) && n.archivedIndex(p) {
		return LostIndex, sub, now.Index, nil // of a fork that was taken back
	}
	if !shared && r != Reached && !hasFork(history, p.Fork) {
		r = Reached // another cluster's own data: they are not looked for here
	}
	return r, sub, now.Index, nil
}

func hasFork(history []engine.Reign, fork wal.Fork) bool { return reignOf(history, fork).Fork == fork }

// compareIndex says how a log whose end, or how far it was followed, is now stands to a place.
func compareIndex(history []engine.Reign, now, p wal.Position) Reach {
	if p.Index == 0 {
		return Reached
	}
	i, j := -1, -1 // of a place before the feeder's reign, the history does not tell
	for x := range history {
		if history[x].Fork == p.Fork {
			i = x
		}
		if history[x].Fork == now.Fork {
			j = x
		}
	}
	if i < 0 {
		return NotYet // a fork that this cluster has not heard of
	}
	switch {
	case p.Index < history[i].Start, p.Index > endOf(history, i, ^uint64(0)):
		return LostIndex
	case i < j, i == j && p.Index <= now.Index:
		return Reached
	}
	return NotYet
}
