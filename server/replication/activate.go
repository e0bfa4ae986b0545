package replication

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/token"
)

// unwrapAttempts is how often the call that spends the token is tried when its reply is lost.
const unwrapAttempts = 3

// SecondaryEnable are the parameters of secondary/enable.
type SecondaryEnable struct {
	Token, PrimaryAPIAddr, CAFile, CAPath string
}

// EnableSecondary checks first (the primary's API address, its CA, clock, version, cluster port, disk; the first that fails is named, with what to do),
// then spends the token, then switches to a new empty store. Nothing is cleared before the primary accepted. Repeated with the same token it goes on
// where it was, or answers with a warning. A secondary that was revoked is enrolled again so, with a new token.
func (n *Node) EnableSecondary(ctx context.Context, k Kind, p SecondaryEnable) (warning string, err error) {
	n.admin.Lock()
	defer n.admin.Unlock()
	if in := n.underWay(); in != nil {
		return "", in.inTheWay()
	}
	if isKeyToken(p.Token) {
		return n.enableByKey(k, p.Token)
	}
	claims, err := token.Peek(p.Token)
	if err != nil {
		return "", refuse("token: %v", err)
	}
	if Kind(claims.Kind) != k {
		return "", refuse("the token activates a %s secondary: use sys/replication/%s/secondary/enable", claims.Kind, claims.Kind)
	}
	if set := n.set(k); set != nil && set.Mode == Secondary && set.JTI == claims.ID && !n.Revoked(k) {
		return "This cluster was activated by this token already; nothing was changed.", nil
	}
	if err := n.mayBecomeSecondary(k); err != nil {
		return "", err
	}
	if err := n.mayBeFilledBy(k, claims); err != nil {
		return "", err
	}
	api, err := newPrimaryAPI(p, claims, n.now)
	if err != nil {
		return "", err
	}
	w, key, err := n.activate(ctx, k, api, p.Token)
	if err != nil {
		return "", err
	}
	if err := n.become(k, claims, api.base.String(), w, key); err != nil {
		return "", err
	}
	warning = becomesWarning
	if api.base.Scheme == "http" {
		warning += " The primary's API address is plain http: token and answer crossed the network unprotected."
	}
	return warning, nil
}

const becomesWarning = "This cluster has found the primary and becomes its secondary: it will not answer for a short while, and is complete after the first synchronisation."

// enableByKey is EnableSecondary with a token for this cluster's public key: the primary's API is not called.
func (n *Node) enableByKey(k Kind, text string) (string, error) {
	w, claims, key, err := n.openKeyToken(k, text)
	if err != nil {
		return "", err
	}
	if err := n.mayBecomeSecondary(k); err != nil {
		return "", err
	}
	if err := n.mayBeFilledBy(k, claims); err != nil {
		return "", err
	}
	if err := n.become(k, claims, "", w, key); err != nil {
		return "", err
	}
	return becomesWarning, nil
}

// mayBecomeSecondary checks the allowed combinations (DESIGN 8).
func (n *Node) mayBecomeSecondary(k Kind) error {
	for _, other := range kinds {
		set := n.set(other)
		switch {
		case set == nil || other == k && n.Revoked(k):
		case other == k && set.Mode == Secondary:
			return refuse("this cluster is a %s secondary already: %s/secondary/update-primary gives it another primary and keeps its data; to begin from empty, disable it first (%s/secondary/disable)", k, k, k)
		default:
			return refuse("this cluster is a %s %s, and enabling a secondary begins with an empty store: disable that first (%s/%s/disable)", other, set.Mode, other, set.Mode)
		}
	}
	return nil
}

// mayBeFilledBy lets a secondary that was revoked before its first answer begin anew. It holds no tokens of clients yet that could
// authorise the call, so it takes none but an activation token of the very primary that it was enabled for.
func (n *Node) mayBeFilledBy(k Kind, c token.Claims) error {
	set := n.set(k)
	if set == nil || n.Mode(k) != Bootstrapping {
		return nil
	}
	ca, err := parseCertificates([]byte(set.CA))
	if err != nil {
		return fmt.Errorf("the stored CA of the %s set: %w", k, err)
	}
	if c.Set != set.Set || c.CAHash != sha256Sum(ca[0].Raw) {
		return refuse("this cluster is still empty and belongs to %s set %s: give it an activation token of the same primary", k, set.Set)
	}
	return nil
}

// pendingActivation is kept (node scope) from before the token is sent until the switch: a repeated call sends the same request.
type pendingActivation struct {
	Key     string    `json:"key"`
	Request string    `json:"request"`
	Lookup  *lookedUp `json:"lookup"`
}

// activate makes the key pair and spends the token.
func (n *Node) activate(ctx context.Context, k Kind, api *primaryAPI, text string) (*welcome, []byte, error) {
	note := notePending(api.claims.ID)
	var pending pendingActivation
	if b := n.engine.NodeGet(note); b == nil || json.Unmarshal(b, &pending) != nil || pending.Request == "" {
		l, err := n.preflight(ctx, k, api, text)
		if err != nil {
			return nil, nil, err
		}
		key, request, err := newRequest()
		if err != nil {
			return nil, nil, err
		}
		pending = pendingActivation{Key: string(key), Request: string(request), Lookup: l}
		if err := n.engine.NodeSet(map[string][]byte{note: mustJSON(&pending)}); err != nil {
			return nil, nil, fmt.Errorf("storing the new key pair: %w", err)
		}
	} else if err := n.preflightAgain(ctx, api, pending.Lookup); err != nil {
		return nil, nil, err
	}
	w, err := n.unwrap(ctx, api, text, pending.Request)
	if err != nil {
		var s *statusError
		if errors.As(err, &s) && s.code/100 == 4 { // a definite no: the next call begins anew
			err = errors.Join(err, n.engine.NodeSet(map[string][]byte{note: nil}))
		}
		return nil, nil, err
	}
	if err := w.check(k, api.claims, []byte(pending.Key), n.now()); err != nil {
		return nil, nil, unreachablef("error unwrapping secondary token: the primary's answer: %w", err)
	}
	if err := n.importKeys(w, api.claims, []byte(pending.Key)); err != nil {
		return nil, nil, unreachablef("error unwrapping secondary token: the primary's answer: %w", err)
	}
	return w, []byte(pending.Key), nil
}

// preflightAgain repeats what needs no unspent token.
func (n *Node) preflightAgain(ctx context.Context, api *primaryAPI, l *lookedUp) error {
	if err := api.reach(ctx); err != nil {
		return err
	}
	if l == nil {
		return nil
	}
	return n.roomFor(l)
}

// unwrap sends token and request; a reply that is lost is asked for again with the same request, which the primary answers the same.
func (n *Node) unwrap(ctx context.Context, api *primaryAPI, text, request string) (*welcome, error) {
	for attempt := 1; ; attempt++ {
		var w welcome
		err := api.post(ctx, "/v1/sys/wrapping/unwrap", map[string]string{"token": text, "csr": request}, &w)
		if err == nil {
			return &w, nil
		}
		var s *statusError
		answered := errors.As(err, &s)
		if answered && s.code < 500 {
			return nil, &unreachable{err}
		}
		if attempt == unwrapAttempts || ctx.Err() != nil {
			if answered {
				return nil, &unreachable{err}
			}
			return nil, unreachablef("error unwrapping secondary token: %w", err)
		}
		n.log.Warn("no answer to the activation, asking again", "attempt", attempt, "error", err)
		t := time.NewTimer(Delay(attempt, 0))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// welcome is the primary's answer to an activation, as Node.welcome makes it.
type welcome struct {
	Certificate  string         `json:"certificate"`
	CA           string         `json:"ca"`
	Bundle       string         `json:"bundle"`
	ClusterAddrs []string       `json:"cluster_addrs"`
	Set          string         `json:"cluster_id"`
	Kind         Kind           `json:"kind"`
	Secondary    string         `json:"secondary_id"`
	History      []engine.Reign `json:"history"`
	DigestSecret string         `json:"digest_secret"`
	Keys         string         `json:"keys"` // encrypted to the key of the certificate request
	secret       []byte
}

// check sees that the answer is for this token and this key, from the CA that the token names.
func (w *welcome) check(k Kind, c token.Claims, key []byte, now time.Time) error {
	if len(w.CA)+len(w.Bundle) > 16*maxPEM {
		return errors.New("the trust bundle is too large")
	}
	ca, err := parseCertificates([]byte(w.CA))
	if err != nil {
		return fmt.Errorf("the set's CA: %w", err)
	}
	if sha256Sum(ca[0].Raw) != c.CAHash {
		return errors.New("its CA is not the one that the activation token names")
	}
	if w.Set != c.Set || w.Kind != k || w.Secondary != c.Secondary {
		return errors.New("it is for another set, kind or secondary than the activation token")
	}
	w.secret, err = base64.StdEncoding.DecodeString(w.DigestSecret)
	if err != nil || len(w.secret) != 32 {
		return errors.New("its digest secret is not of 256 bits")
	}
	w.ClusterAddrs = cleanAddrs(w.ClusterAddrs)
	return checkOwnCertificate(w.set(c, ""), []byte(w.Certificate), key, now)
}

// set is the configuration that the answer makes.
func (w *welcome) set(c token.Claims, apiAddr string) *setConfig {
	return &setConfig{
		Version: setConfigVersion, Kind: w.Kind, Mode: Secondary, Set: w.Set, CA: w.CA, Bundle: w.Bundle,
		Secondary: w.Secondary, JTI: c.ID, Primaries: w.ClusterAddrs, PrimaryAPIAddr: apiAddr, Certificate: w.Certificate,
	}
}

// become switches to a new, empty store as the secondary that the primary accepted.
func (n *Node) become(k Kind, c token.Claims, apiAddr string, w *welcome, key []byte) error {
	set := w.set(c, apiAddr)
	set.Generation = n.now().UnixNano()
	if len(set.Primaries) > 0 {
		set.ClusterAddr = set.Primaries[0]
	}
	notes := map[string][]byte{noteSet(k): mustJSON(set), noteTLSKey(k): key, noteSeen(k): mustJSON(w.History)}
	id := engine.Identity{ClusterID: uuid.NewString(), ClusterName: n.engine.Identity().ClusterName, DigestSecret: w.secret}
	role := engine.Writer
	if k == DR {
		role = engine.Verbatim
	}
	n.log.Info("activated; switching to an empty store", "set", string(k), "cluster_id", set.Set, "secondary", set.Secondary)
	if err := n.cfg.Switch(id, role, notes); err != nil {
		return fmt.Errorf("switching to an empty store (repeat the call within five minutes: the token is spent, the same call goes on with it): %w", err)
	}
	return nil
}
