package replication

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/token"
	"github.com/lockstepdb/lockstep/wal"
)

// notValid begins the answer to every token that cannot be used. Only of one that this set signed is said why; the log has the reason in any case.
const notValid = "wrapping token is not valid or does not exist"

// errOtherRequest means that a redeemed token came again with another certificate request.
var errOtherRequest = errors.New("the token was redeemed with another certificate request")

// IsActivation reports whether a text is an activation token by its shape.
func IsActivation(text string) bool {
	_, err := token.Peek(text)
	return err == nil
}

// verified checks a token against the set whose primary this cluster is.
func (n *Node) verified(text string) (Kind, *setConfig, token.Claims, error) {
	c, err := token.Peek(text)
	if err != nil {
		return "", nil, token.Claims{}, err
	}
	k := Kind(c.Kind)
	if !k.valid() {
		return "", nil, c, errors.New("it is for another kind of set")
	}
	set := n.set(k)
	if set == nil || set.Mode != Primary {
		return "", nil, c, fmt.Errorf("this cluster is no %s primary", k)
	}
	key, err := n.tokenKey(k)
	if err != nil {
		return "", nil, c, err
	}
	verified, err := token.Verify(text, publicKey(key), set.Set, c.Kind, n.now())
	if errors.Is(err, token.ErrExpired) { // it was this set's once?
		if ended, then := token.Verify(text, publicKey(key), set.Set, c.Kind, c.Expires.Add(-time.Second)); then == nil {
			return k, set, ended, err
		}
	}
	return k, set, verified, err
}

// unusable is the answer to a token that verified refused with err, or that is of this set and spent.
func (n *Node) unusable(k Kind, set *setConfig, c token.Claims, err error) *Refused {
	if err != nil && (!errors.Is(err, token.ErrExpired) || c.ID == "") {
		return refuse(notValid)
	}
	act, readErr := getActivation(n.engine, recordActivation(k, c.ID))
	switch {
	case readErr == nil && act != nil && act.Set == set.Set && act.Request != "":
		return act.spent(k)
	case err != nil:
		return refuse(notValid+": it ended on %s: make a new one on the primary (%s)", c.Expires.UTC().Format(time.RFC3339), creationPath(k))
	}
	return refuse(notValid)
}

// spent is the answer to a token that was redeemed.
func (a *activationRecord) spent(k Kind) *Refused {
	return refuse(notValid+": it was used already on %s by secondary %q: make a new one on the primary (%s)",
		time.Unix(a.Redeemed, 0).UTC().Format(time.RFC3339), a.ID, creationPath(k))
}

// LookupActivation answers sys/wrapping/lookup for an activation token, without spending it.
func (n *Node) LookupActivation(text string) (*Activation, error) {
	k, set, c, err := n.verified(text)
	if err != nil {
		n.log.Warn("lookup of an activation token refused", "error", err)
		return nil, n.unusable(k, set, c, err)
	}
	act, err := getActivation(n.engine, recordActivation(k, c.ID))
	if err != nil {
		return nil, fmt.Errorf("reading the activation: %w", err)
	}
	rec, err := n.readSecondary(k, c.Secondary)
	if err != nil {
		return nil, fmt.Errorf("reading secondary %q: %w", c.Secondary, err)
	}
	if act == nil || act.Set != set.Set || act.Request != "" || rec == nil || rec.JTI != c.ID || rec.State != secondaryIssued {
		n.log.Warn("lookup of an activation token refused", "secondary", c.Secondary, "error", "it was redeemed or revoked")
		return nil, n.unusable(k, set, c, nil)
	}
	a := activationOf(k, c)
	records, bytes := n.size(k)
	a.Lookup = map[string]any{
		"cluster_addrs":   n.clusterAddrs(k),
		"cluster_id":      set.Set,
		"kind":            string(k),
		"secondary_id":    c.Secondary,
		"primary_version": n.cfg.Version,
		"primary_records": records,
		"primary_bytes":   bytes,
	}
	return a, nil
}

// size returns how many records a new secondary will receive, and about how many bytes they take on disk.
func (n *Node) size(k Kind) (records uint64, bytes int64) {
	totals, _ := n.engine.Totals()
	var all uint64
	for _, t := range totals {
		all += t.Count
		if k == DR || t.Scope == storage.Replicated {
			records += t.Count
		}
	}
	bytes = n.engine.Stats().StateBytes
	if all > 0 {
		bytes = int64(float64(bytes) * float64(records) / float64(all))
	}
	return records, bytes
}

// Redeem spends an activation token with a certificate request (PEM): the answer is what sys/wrapping/unwrap returns as data. Without a request it
// is a *Refused and the token stays unspent. The same token with the same request gets the same certificate for five minutes (the reply was lost).
//
// The answer holds the set's digest secret: the caller serves it only over TLS, or on a listener whose operator chose to do without.
func (n *Node) Redeem(ctx context.Context, text, requestPEM, remote string) (map[string]any, error) {
	log := n.log.With("remote", remote)
	if requestPEM == "" {
		return nil, refuse("this token activates a replication secondary: give it to sys/replication/<dr or performance>/secondary/enable there. It was not used")
	}
	request, err := parseRequest([]byte(requestPEM))
	if err != nil {
		log.Warn("activation refused", "error", err)
		return nil, refuse("%v; the token was not used", err)
	}
	k, set, c, err := n.verified(text)
	if err != nil {
		log.Warn("activation refused", "error", err)
		return nil, n.unusable(k, set, c, err)
	}
	log = log.With("set", string(k), "secondary", c.Secondary)
	ca, err := n.authority(k, set)
	if err != nil {
		return nil, err
	}
	now := n.now()
	der, err := ca.signSecondary(request.PublicKey, peer{ID: c.Secondary, Kind: k, Set: set.Set, JTI: c.ID}, now)
	if err != nil {
		return nil, err
	}
	keys, err := n.keysFor(request.PublicKey, c)
	if err != nil {
		return nil, err
	}
	certificate, done, err := n.spend(ctx, k, set, c, requestHash(request), encodeCertificate(der), now.Add(ca.secondaryLife()))
	switch {
	case errors.Is(err, errOtherRequest):
		log.Error("activation refused: the token is in a second hand; revoke the secondary unless you know why", "error", err)
		n.countRefused(ctx, k, c, remote)
		return nil, n.unusable(k, set, c, nil)
	case isOutcome(err):
		log.Warn("activation refused", "error", "the token was redeemed before, or the secondary was revoked")
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("redeeming the activation token of secondary %q: %w", c.Secondary, err)
	}
	n.awaitDR(ctx, done.Index, "activation")
	log.Info("secondary activated")
	answer := n.welcome(k, set, c, certificate)
	if keys != nil {
		answer["keys"] = base64.StdEncoding.EncodeToString(keys)
	}
	return answer, nil
}

// spend redeems the token and registers the secondary's request in one transaction: of two that come at once one wins. It returns the certificate that
// counts: the given one, or that of the first time.
func (n *Node) spend(ctx context.Context, k Kind, set *setConfig, c token.Claims, hash, certificate string, until time.Time) (string, wal.Position, error) {
	secKey, actKey := recordSecondary(k, c.Secondary), recordActivation(k, c.ID)
	now := n.now()
	result := certificate
	done, err := n.engine.Do(ctx, &engine.Tx{
		Reads: []engine.Key{{Keyspace: storage.SystemLocal, Key: secKey}, {Keyspace: storage.SystemLocal, Key: actKey}},
		Exec: func(r engine.Reader) ([]engine.Write, error) {
			rec, err := getSecondary(r, secKey)
			if err != nil {
				return nil, err
			}
			act, err := getActivation(r, actKey)
			if err != nil {
				return nil, err
			}
			switch {
			case act == nil || rec == nil || act.Set != set.Set || rec.Set != set.Set || rec.JTI != c.ID || rec.State == secondaryRevoked:
				return nil, refuse(notValid)
			case act.Request != "" && act.Request != hash:
				return nil, errOtherRequest
			case act.Request != "" && now.Unix()-act.Redeemed > int64(retryTime.Seconds()):
				return nil, act.spent(k)
			case act.Request != "":
				result = act.Certificate
				return nil, nil
			}
			act.Request, act.Redeemed, act.Certificate = hash, now.Unix(), certificate
			rec.State, rec.Changed, rec.CertificateUntil = secondaryActive, now.Unix(), until.Unix()
			return []engine.Write{put(string(actKey), mustJSON(act)), put(string(secKey), mustJSON(rec))}, nil
		},
	})
	return result, done.Position, err
}

// countRefused notes in the secondary's record that somebody else tried to use its token; seldom, so that it cannot be made to fill the log.
func (n *Node) countRefused(ctx context.Context, k Kind, c token.Claims, remote string) {
	key, now := recordSecondary(k, c.Secondary), n.now()
	_, err := n.engine.Do(ctx, &engine.Tx{
		Reads: []engine.Key{{Keyspace: storage.SystemLocal, Key: key}},
		Exec: func(r engine.Reader) ([]engine.Write, error) {
			rec, err := getSecondary(r, key)
			if err != nil || rec == nil {
				return nil, err
			}
			if rec.Refused == nil {
				rec.Refused = &refusedActivation{}
			} else if now.Unix()-rec.Refused.At < int64(refusalEvery.Seconds()) {
				return nil, nil
			}
			rec.Refused.Count++
			rec.Refused.At, rec.Refused.Remote = now.Unix(), remote
			return []engine.Write{put(string(key), mustJSON(rec))}, nil
		},
	})
	if err != nil {
		n.log.Error("noting a refused activation", "secondary", c.Secondary, "error", err)
	}
}

// historyFor is a set's history as a new secondary is told it.
func (n *Node) historyFor(k Kind, set *setConfig) []engine.Reign {
	h, _ := n.setHistory(k, set, n.engine.Position().Index)
	return h
}

// welcome is the answer to an activation. It must encode as JSON: readWelcome reads it.
func (n *Node) welcome(k Kind, set *setConfig, c token.Claims, certificate string) map[string]any {
	records, bytes := n.size(k)
	id := n.engine.Identity()
	return map[string]any{
		"certificate":          certificate,
		"ca":                   set.CA,
		"bundle":               set.Bundle + set.NextCA,
		"cluster_addrs":        n.clusterAddrs(k),
		"cluster_id":           set.Set,
		"kind":                 string(k),
		"secondary_id":         c.Secondary,
		"history":              n.historyFor(k, set),
		"digest_secret":        base64.StdEncoding.EncodeToString(id.DigestSecret),
		"primary_cluster_id":   id.ClusterID,
		"primary_cluster_name": id.ClusterName,
		"primary_version":      n.cfg.Version,
		"primary_records":      records,
		"primary_bytes":        bytes,
		"server_time_utc":      n.now().Unix(),
	}
}
