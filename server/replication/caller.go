package replication

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/lockstepdb/lockstep/storage"
)

// peer is an authenticated caller on the cluster port.
type peer struct {
	ID      string // the id that the operator gave it
	Kind    Kind
	Set     string
	JTI     string // enrolment that its certificate belongs to
	Purpose string // of the connection: purposeStream, purposeBulk, purposeForward
	Remote  string // address, for logs
}

func (p peer) key() string { return string(p.Kind) + "/" + p.ID }

// caller returns who calls: id and kind from the client certificate. An unknown or revoked one is answered with gRPC's PermissionDenied.
func (n *Node) caller(ctx context.Context) (peer, error) {
	gp, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return peer{}, status.Error(codes.Unauthenticated, "the call has no connection")
	}
	info, ok := gp.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return peer{}, status.Error(codes.Unauthenticated, "the connection has no client certificate")
	}
	k, purpose, ok := parseProtocol(info.State.NegotiatedProtocol)
	if !ok {
		return peer{}, status.Error(codes.PermissionDenied, "the connection was made for another purpose")
	}
	p, err := peerOf(info.State.PeerCertificates[0])
	if err != nil || p.Kind != k {
		return peer{}, status.Error(codes.PermissionDenied, "the client certificate names no secondary of this set")
	}
	p.Purpose, p.Remote = purpose, gp.Addr.String()
	if !n.vouched(k, &info.State) {
		return peer{}, errCAReplaced
	}
	return p, n.enrolled(p)
}

// enrolled checks that a secondary is known, not revoked, and enrolled by the token that its certificate belongs to.
func (n *Node) enrolled(p peer) error {
	set := n.set(p.Kind)
	switch {
	case set == nil || set.Mode != Primary:
		return errLeft(p.Kind) // it asks again: a successor may answer
	case set.Set != p.Set:
		return status.Errorf(codes.PermissionDenied, "this cluster is not the primary of %s set %s", p.Kind, p.Set)
	}
	r, err := n.readSecondary(p.Kind, p.ID)
	if err != nil {
		return status.Errorf(codes.Unavailable, "the record of secondary %q cannot be read", p.ID)
	}
	switch {
	case r == nil || r.Set != p.Set:
		return status.Errorf(codes.PermissionDenied, "secondary %q is not known here: it needs an activation token", p.ID)
	case r.State == secondaryRevoked || r.JTI != p.JTI:
		return revokedStatus(p.ID)
	case r.State == secondaryIssued && r.KeyUntil > n.now().Unix(): // its token was the certificate itself
	case r.State != secondaryActive:
		return status.Errorf(codes.PermissionDenied, "secondary %q has not been activated", p.ID)
	}
	return nil
}

// peerOf reads a client certificate that was verified against the set's CA.
func peerOf(c *x509.Certificate) (peer, error) {
	if len(c.URIs) != 1 {
		return peer{}, errors.New("the certificate has no single URI")
	}
	set, k, id, err := parseMember(c.URIs[0])
	if err != nil {
		return peer{}, err
	}
	if id == "" || c.Subject.SerialNumber == "" {
		return peer{}, errors.New("the certificate is not one of a secondary")
	}
	return peer{ID: id, Kind: k, Set: set, JTI: c.Subject.SerialNumber}, nil
}

// States of a secondary's record.
const (
	secondaryIssued  = "issued"  // a token was minted, not yet redeemed
	secondaryActive  = "active"  // the token was redeemed
	secondaryRevoked = "revoked" // kept so that its certificates stay refused
)

// secondaryRecord is what a primary's set knows of one secondary: a record of storage.SystemLocal, so that a promoted DR secondary has it.
type secondaryRecord struct {
	Version  int    `json:"version"`
	Set      string `json:"set"`
	ID       string `json:"id"`
	State    string `json:"state"`
	JTI      string `json:"jti"`       // of its newest token
	IssuedAt uint64 `json:"issued_at"` // own index when the token was minted: log is held from there until it first connects
	Added    int64  `json:"added"`     // Unix seconds
	Changed  int64  `json:"changed"`
	Acked    uint64 `json:"acked,omitempty"`     // last acknowledged index, stored now and then
	KeyUntil int64  `json:"key_until,omitempty"` // issued for a public key: Unix seconds until which it may come for the first time

	TokenUntil       int64 `json:"token_until,omitempty"`       // Unix seconds at which its newest token ends
	CertificateUntil int64 `json:"certificate_until,omitempty"` // and its newest certificate; 0: none yet, or an earlier version issued it

	Trusts    string `json:"trusts,omitempty"`    // hash of the newest CA that it confirmed to trust
	Authority string `json:"authority,omitempty"` // hash of the CA whose certificate it confirmed to have

	APIAddr     string `json:"api_addr,omitempty"` // as told at activation
	ClusterAddr string `json:"cluster_addr,omitempty"`

	Refused *refusedActivation `json:"refused,omitempty"` // somebody else tried to use its token
}

// refusedActivation tells of a token that came a second time with another certificate request.
type refusedActivation struct {
	Count  uint64 `json:"count"`
	At     int64  `json:"at"` // Unix seconds, of the last
	Remote string `json:"remote"`
}

const secondaryRecordVersion = 1

func decodeSecondary(b []byte) (*secondaryRecord, error) {
	var r secondaryRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("a secondary's record does not decode: %w", err)
	}
	if r.Version > secondaryRecordVersion {
		return nil, fmt.Errorf("the record of secondary %q has version %d, this program reads up to %d", r.ID, r.Version, secondaryRecordVersion)
	}
	return &r, nil
}

// readSecondary returns a secondary's record, nil when there is none.
func (n *Node) readSecondary(k Kind, id string) (*secondaryRecord, error) {
	r, err := n.engine.Get(storage.SystemLocal, recordSecondary(k, id))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeSecondary(r.Value)
}

// secondaries returns the records of a set's secondaries, revoked ones left out unless all is set, in order of id.
func (n *Node) secondaries(k Kind, all bool) ([]*secondaryRecord, error) {
	set := n.set(k)
	if set == nil || set.Mode != Primary {
		return nil, nil
	}
	return n.listSecondaries(k, set, all)
}

// listSecondaries is secondaries whatever this cluster's part in the set is: a DR secondary has its primary's records, a demoted primary those that it had.
func (n *Node) listSecondaries(k Kind, set *setConfig, all bool) ([]*secondaryRecord, error) {
	v := n.engine.Snapshot()
	defer v.Release()
	prefix := recordPrefix(k)
	var out []*secondaryRecord
	var bad error
	err := v.Scan(storage.SystemLocal, []byte(prefix), prefixEnd(prefix), func(rec storage.Record) bool {
		r, err := decodeSecondary(rec.Value)
		if err != nil {
			bad = err
			return false
		}
		if r.Set == set.Set && (all || r.State != secondaryRevoked) {
			out = append(out, r)
		}
		return true
	})
	if err := errors.Join(err, bad); err != nil {
		return nil, fmt.Errorf("reading the %s secondaries: %w", k, err)
	}
	return out, nil
}

// prefixEnd returns the first key after all that begin with prefix, which must not end in 0xff.
func prefixEnd(prefix string) []byte {
	b := []byte(prefix)
	b[len(b)-1]++
	return b
}
