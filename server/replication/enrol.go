package replication

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/token"
)

// Limits of enrolment.
const (
	defaultTTL     = 30 * time.Minute
	maxTTL         = 24 * time.Hour
	maxSecondaries = 1000            // known ones of a set
	retryTime      = 5 * time.Minute // the same token with the same request gets the same answer for so long
	pruneAtOnce    = 64              // records of expired activations removed with a new one
	refusalEvery   = 10 * time.Second
)

// Activation is what secondary-token answers with.
type Activation struct {
	Token        string // secret: revealed to the caller only
	Accessor     string
	TTL          time.Duration
	CreationTime time.Time
	CreationPath string
	Warning      string
	// Lookup is what sys/wrapping/lookup of an activation token answers beside creation_time, creation_ttl and creation_path: what a secondary must
	// know before it spends the token. LookupActivation fills it.
	Lookup map[string]any
}

// activationRecord is the state of one token: issued, then redeemed. It is a record of storage.SystemLocal.
type activationRecord struct {
	Version     int    `json:"version"`
	Set         string `json:"set"`
	ID          string `json:"id"` // of the secondary
	Expires     int64  `json:"expires"`
	Request     string `json:"request,omitempty"`     // hash of the certificate request that redeemed it; empty: not redeemed
	Redeemed    int64  `json:"redeemed,omitempty"`    // Unix seconds
	Certificate string `json:"certificate,omitempty"` // the answer, for a reply that was lost
}

const activationRecordVersion = 1

func creationPath(k Kind) string { return "sys/replication/" + string(k) + "/primary/secondary-token" }

// SecondaryToken registers an id and mints its activation token. ttl 0 means 30 minutes, at most 24 hours.
func (n *Node) SecondaryToken(ctx context.Context, k Kind, id string, ttl time.Duration) (*Activation, error) {
	n.admin.Lock()
	defer n.admin.Unlock()
	set, err := n.primarySet(k)
	if err != nil {
		return nil, err
	}
	if ttl, err = checkEnrolment(id, ttl); err != nil {
		return nil, err
	}
	claims, text, err := n.mint(k, set, id, ttl)
	if err != nil {
		return nil, err
	}
	if err := n.issue(ctx, k, set, claims); err != nil {
		return nil, err
	}
	a := activationOf(k, claims)
	a.Token, a.Accessor = text.Reveal(), newID()
	if n.cfg.APIAddr == "" {
		a.Warning = "This cluster has no api_addr: give primary_api_addr to secondary/enable."
	}
	n.log.Info("activation token issued", "set", string(k), "secondary", id, "ttl", ttl.String())
	return a, nil
}

// checkEnrolment checks what an operator calls a secondary and for how long its token is to be good.
func checkEnrolment(id string, ttl time.Duration) (time.Duration, error) {
	if ttl == 0 {
		ttl = defaultTTL
	}
	switch {
	case !validID(id):
		return 0, refuse("id must be 1 to 63 letters, digits, dots, dashes or underscores, beginning with a letter or digit")
	case ttl < time.Second || ttl > maxTTL:
		return 0, refuse("ttl must be between 1s and %v", maxTTL)
	}
	return ttl, nil
}

func (n *Node) mint(k Kind, set *setConfig, id string, ttl time.Duration) (token.Claims, token.Activation, error) {
	key, err := n.tokenKey(k)
	if err != nil {
		return token.Claims{}, token.Activation{}, err
	}
	ca, err := parseCertificates([]byte(set.CA))
	if err != nil {
		return token.Claims{}, token.Activation{}, fmt.Errorf("the stored CA of the %s set: %w", k, err)
	}
	now := n.now().UTC().Truncate(time.Second)
	c := token.Claims{
		ID: newID(), Set: set.Set, Secondary: id, Kind: string(k), Addr: n.cfg.APIAddr, CAHash: sha256Sum(ca[0].Raw),
		IssuedAt: now, NotBefore: now.Add(-5 * time.Second), Expires: now.Add(ttl),
	}
	if h := n.engine.History(); len(h) > 0 {
		f := h[len(h)-1].Fork
		c.Epoch = hex.EncodeToString(f[:])
	}
	text, err := token.Mint(key, c)
	return c, text, err
}

// issue registers the secondary and its token in one entry.
func (n *Node) issue(ctx context.Context, k Kind, set *setConfig, c token.Claims) error {
	known, err := n.secondaries(k, false)
	if err != nil {
		return err
	}
	again := slices.ContainsFunc(known, func(r *secondaryRecord) bool { return r.ID == c.Secondary })
	if len(known) >= maxSecondaries && !again {
		return refuse("this set has %d secondaries, as many as it may have: revoke some first", len(known))
	}
	prune, err := n.expiredActivations(k)
	if err != nil {
		return err
	}
	secKey, actKey := recordSecondary(k, c.Secondary), recordActivation(k, c.ID)
	from, now := n.engine.Position().Index, n.now()
	rec := &secondaryRecord{
		Version: secondaryRecordVersion, Set: set.Set, ID: c.Secondary, State: secondaryIssued, JTI: c.ID,
		IssuedAt: from, Added: c.IssuedAt.Unix(), Changed: c.IssuedAt.Unix(), TokenUntil: c.Expires.Unix(),
	}
	act := &activationRecord{Version: activationRecordVersion, Set: set.Set, ID: c.Secondary, Expires: c.Expires.Unix()}
	_, err = n.engine.Do(ctx, &engine.Tx{
		Reads: []engine.Key{{Keyspace: storage.SystemLocal, Key: secKey}},
		Exec: func(r engine.Reader) ([]engine.Write, error) {
			old, err := getSecondary(r, secKey)
			if err != nil {
				return nil, err
			}
			if again = old != nil && old.Set == set.Set && old.State != secondaryRevoked; again {
				if err := old.mayHaveAnother(k, now); err != nil {
					return nil, err
				}
				rec.keepPlace(old)
			}
			writes := []engine.Write{put(string(secKey), mustJSON(rec)), put(string(actKey), mustJSON(act))}
			for _, key := range prune {
				writes = append(writes, remove(key))
			}
			return writes, nil
		},
	})
	if err != nil {
		if isOutcome(err) {
			return err
		}
		return fmt.Errorf("registering secondary %q: %w", c.Secondary, err)
	}
	if again {
		n.reissued(k, c.Secondary)
		return nil
	}
	n.peers.forget(k, c.Secondary)
	n.engine.Hold(holdName(k, c.Secondary), from+1)
	return nil
}

// expiredActivations lists keys of activations that no token can refer to any more.
func (n *Node) expiredActivations(k Kind) ([]string, error) {
	v := n.engine.Snapshot()
	defer v.Release()
	limit := n.now().Add(-time.Hour).Unix()
	var keys []string
	err := v.Scan(storage.SystemLocal, []byte(activationPrefix(k)), prefixEnd(activationPrefix(k)), func(r storage.Record) bool {
		var a activationRecord
		if json.Unmarshal(r.Value, &a) == nil && a.Version <= activationRecordVersion && a.Expires < limit {
			keys = append(keys, string(r.Key))
		}
		return len(keys) < pruneAtOnce
	})
	if err != nil {
		return nil, fmt.Errorf("reading activations: %w", err)
	}
	return keys, nil
}

// RevokeSecondary cuts the secondary's streams at once and refuses it until it uses a new token. What it has stays there.
func (n *Node) RevokeSecondary(ctx context.Context, k Kind, id string) error {
	n.admin.Lock()
	defer n.admin.Unlock()
	set, err := n.primarySet(k)
	if err != nil {
		return err
	}
	if !validID(id) {
		return refuse("id must name a secondary: see known_secondaries in sys/replication/%s/status", k)
	}
	key := recordSecondary(k, id)
	done, err := n.engine.Do(ctx, &engine.Tx{
		Reads: []engine.Key{{Keyspace: storage.SystemLocal, Key: key}},
		Exec: func(r engine.Reader) ([]engine.Write, error) {
			rec, err := getSecondary(r, key)
			switch {
			case err != nil:
				return nil, err
			case rec == nil || rec.Set != set.Set:
				return nil, refuse("no secondary %q is known here: see known_secondaries in sys/replication/%s/status", id, k)
			case rec.State == secondaryRevoked: // repeated
				return nil, nil
			}
			rec.State, rec.Changed = secondaryRevoked, n.now().Unix()
			return []engine.Write{put(string(key), mustJSON(rec))}, nil
		},
	})
	if err != nil {
		if isOutcome(err) {
			return err
		}
		return fmt.Errorf("revoking secondary %q: %w", id, err)
	}
	cut := n.streams.cut(peer{Kind: k, ID: id}.key(), revokedStatus(id))
	n.peers.forget(k, id)
	n.engine.Hold(holdName(k, id), 0)
	wake(n.rolling)       // a CA's replacement may have waited for it
	if k == Performance { // after its streams: nothing is sent under a filter that is no more
		if err := n.dropFilter(ctx, id); err != nil {
			return err
		}
	}
	n.log.Info("secondary revoked", "set", string(k), "secondary", id, "streams", cut)
	n.awaitDR(ctx, done.Position.Index, "revocation")
	return nil
}

// getSecondary reads a secondary's record inside a transaction, nil when there is none.
func getSecondary(r engine.Reader, key []byte) (*secondaryRecord, error) {
	rec, err := r.Get(storage.SystemLocal, key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeSecondary(rec.Value)
}

func getActivation(r engine.Reader, key []byte) (*activationRecord, error) {
	rec, err := r.Get(storage.SystemLocal, key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var a activationRecord
	if err := json.Unmarshal(rec.Value, &a); err != nil {
		return nil, fmt.Errorf("an activation's record does not decode: %w", err)
	}
	if a.Version > activationRecordVersion {
		return nil, fmt.Errorf("an activation's record has version %d, this program reads up to %d", a.Version, activationRecordVersion)
	}
	return &a, nil
}

func activationOf(k Kind, c token.Claims) *Activation {
	return &Activation{TTL: c.Expires.Sub(c.IssuedAt), CreationTime: c.IssuedAt, CreationPath: creationPath(k)}
}

// newID returns 128 random bits in hex.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// awaitDR waits until every connected DR secondary has an entry durably, 2 s at most: what takes a right away is then not undone by a failover.
func (n *Node) awaitDR(ctx context.Context, index uint64, what string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for index > 0 && n.Mode(DR) == Primary {
		behind, moved := n.peers.behind(DR, index, false)
		if behind == "" {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			n.log.Warn("answered before every DR secondary has it: a failover now would undo it", "what", what, "index", index, "secondary", behind)
			return
		}
	}
}
