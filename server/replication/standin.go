package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/storage"
)

// The DR secondary of a performance secondary stands in for it once it is promoted: the same member of the set, at the same primary, without an operator's
// token. The record that comes with the log says which member that is; the certificate it needs for a key of its own, which the performance primary
// signs for whoever renews the member's, and its own primary passes the request on. Revoking the member ends both certificates.

// noteStandIn keeps that key and certificate (node scope).
const noteStandIn = "replication/performance/stand-in"

// standIn is a certificate of the primary's membership for a key of this cluster's own, as stored (JSON).
type standIn struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// formerRecord reads what the former primary is, or was, in a performance set as a secondary; nil when it is none.
func (n *Node) formerRecord() (*memberRecord, error) {
	r, err := n.engine.Get(storage.SystemLocal, []byte(recordMember))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the primary's part in the performance set: %w", err)
	}
	var m memberRecord
	if err := json.Unmarshal(r.Value, &m); err != nil {
		return nil, fmt.Errorf("the primary's part in the performance set does not decode: %w", err)
	}
	if m.Version > memberVersion {
		return nil, fmt.Errorf("the primary's part in the performance set has version %d, this program reads up to %d", m.Version, memberVersion)
	}
	return &m, nil
}

// member is the configuration of who stands in, with a certificate still to come.
func (m *memberRecord) member() *setConfig {
	return &setConfig{
		Kind: Performance, Set: m.Set, CA: m.CA, Bundle: m.Bundle,
		Secondary: m.Secondary, JTI: m.JTI, Primaries: m.Primaries, Failover: m.Failover, PrimaryAPIAddr: m.PrimaryAPIAddr,
	}
}

// standsIn returns the stored certificate if it is good for a membership, nil when there is none, and when the next is to be had.
func (n *Node) standsIn(m *memberRecord) (s *standIn, renew time.Time) {
	b := n.engine.NodeGet(noteStandIn)
	if b == nil || m.Secondary == "" {
		return nil, time.Time{}
	}
	s = new(standIn)
	if json.Unmarshal(b, s) != nil || checkOwnCertificate(m.member(), []byte(s.Certificate), []byte(s.Key), n.now()) != nil {
		return nil, time.Time{}
	}
	pair, err := keyPair([]byte(s.Certificate), []byte(s.Key))
	if err != nil || n.now().After(pair.Leaf.NotAfter) {
		return nil, time.Time{}
	}
	begin := pair.Leaf.NotBefore.Add(backdate)
	return s, begin.Add(pair.Leaf.NotAfter.Sub(begin) * 2 / 3)
}

// standInLook is how often a DR secondary looks, in heartbeats, whether it needs a certificate to stand in with.
const standInLook = 10

// keepStandIn has, until ctx ends, the certificate by which this DR secondary would stand in for its primary. send asks that for it.
func (n *Node) keepStandIn(ctx context.Context, send func(ctx context.Context, requestPEM []byte) (certificatePEM []byte, err error)) {
	failing := false
	for {
		err := n.renewStandIn(ctx, send)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			n.log.Warn("this DR secondary has no certificate to take its primary's place in the performance set; promoted now, it would need update-primary", "error", plain(err))
		}
		failing = err != nil
		if !sleep(ctx, standInLook*n.cfg.HeartbeatInterval) {
			return
		}
	}
}

func (n *Node) renewStandIn(ctx context.Context, send func(context.Context, []byte) ([]byte, error)) error {
	m, err := n.formerRecord()
	if err != nil || m == nil || m.Secondary == "" {
		return err
	}
	if s, renew := n.standsIn(m); s != nil && n.now().Before(renew) {
		return nil
	}
	key, request, err := newRequest()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cert, err := send(ctx, request)
	if err != nil {
		return err
	}
	if err := checkOwnCertificate(m.member(), cert, key, n.now()); err != nil {
		return fmt.Errorf("the primary's answer: %w", err)
	}
	note := mustJSON(&standIn{Certificate: string(cert), Key: string(key)})
	if err := n.engine.NodeSet(map[string][]byte{noteStandIn: note}); err != nil {
		return fmt.Errorf("storing the certificate: %w", err)
	}
	n.log.Info("this cluster can take its primary's place in the performance set", "cluster_id", m.Set, "secondary", m.Secondary)
	return nil
}

// certifyStandIn passes the request of a DR secondary on to the performance primary, which certifies its key for this cluster's membership.
func (n *Node) certifyStandIn(ctx context.Context, p peer, request []byte) ([]byte, error) {
	set := n.set(Performance)
	if set == nil || set.Mode != Secondary || n.fenceOf(DR) != nil || n.demoting(DR) {
		return nil, status.Error(codes.FailedPrecondition, "this cluster is no performance secondary")
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := n.dial(ctx, Performance, purposeStream)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "the performance primary cannot be asked: %s", plain(err))
	}
	defer conn.Close()
	out, err := pb.NewReplicationClient(conn).Renew(ctx, &pb.RenewRequest{Kind: string(Performance), Request: request})
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "the performance primary certified nothing: %s", plain(err))
	}
	n.log.Info("a DR secondary can take this cluster's place in the performance set", "secondary", p.ID)
	return out.GetCertificate(), nil
}
