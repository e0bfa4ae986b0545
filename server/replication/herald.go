package replication

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
)

// A promoted cluster tells its former primary, by a hello with the newer history, at the addresses and with the certificate that it had as its secondary. So
// does a secondary that was given another primary. Until the former primary has heard, both take writes: the sooner the better. It goes on seldom after
// that, as long as the certificate lives: both sides learn from it of a third cluster that was promoted meanwhile, or of a recover.

const (
	heraldAgain   = 10 * time.Second // after an answer, and after many failures
	heraldPatient = 60               // failures in a row after which it is no hurry any more
)

// noteHerald keeps what it takes to reach the former primary (node scope).
func noteHerald(k Kind) string { return "replication/" + string(k) + "/herald" }

// heraldRecord is a secondary's access to a primary that it has left, as stored (JSON).
type heraldRecord struct {
	Version     int      `json:"version"`
	Set         string   `json:"set"`
	Trusted     string   `json:"trusted"` // PEM
	Certificate string   `json:"certificate"`
	Key         string   `json:"key"`
	Addrs       []string `json:"addrs"`
}

const heraldVersion = 1

// heraldOf is what a secondary must keep to reach its primary when it has left it, nil when it has none.
func (n *Node) heraldOf(k Kind, set *setConfig) *heraldRecord {
	addrs := cleanAddrs(append(slices.Clone(set.Primaries), set.Former...))
	if bye, err := n.farewell(k); err == nil && bye != nil { // it knows
		return nil
	}
	if len(addrs) == 0 || set.Certificate == "" {
		return nil
	}
	return &heraldRecord{
		Version: heraldVersion, Set: set.Set, Trusted: string(set.trusted()), Certificate: set.Certificate, Key: string(n.engine.NodeGet(noteTLSKey(k))), Addrs: addrs,
	}
}

// herald reads what is kept, nil when there is nothing, and returns what to wait for.
func (n *Node) herald(k Kind) (*heraldRecord, <-chan struct{}) {
	n.mu.Lock()
	changed, set := n.lives.changed[k], n.sets[k]
	n.mu.Unlock()
	b := n.engine.NodeGet(noteHerald(k))
	if b == nil || set == nil {
		return nil, changed
	}
	var r heraldRecord
	if err := json.Unmarshal(b, &r); err != nil || r.Version > heraldVersion || r.Set != set.Set {
		return nil, changed
	}
	return &r, changed
}

// heralds tells the former primary of a set, until ctx ends.
func (n *Node) heralds(ctx context.Context, k Kind) {
	failures, told := 0, false
	for ctx.Err() == nil {
		r, changed := n.herald(k)
		if r == nil {
			failures, told = 0, false
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		again := heraldAgain
		switch d, err := n.tellFormer(ctx, k, r); {
		case ctx.Err() != nil:
			return
		case err != nil:
			if failures++; failures == 1 && n.Mode(k) == Primary {
				n.log.Warn("the former primary cannot be told that it is one; until it is, it may take writes that will be lost", "set", string(k), "error", err)
			}
			if failures < heraldPatient {
				again = Delay(min(failures, maxAttempt), rand.Float64())
			}
		default:
			if !told || failures > 0 {
				n.log.Info("the former primary has been told", "set", string(k), "answer", d.String())
			}
			failures, told = 0, true
		}
		t := time.NewTimer(again)
		select {
		case <-t.C:
		case <-changed:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// tellFormer says hello to the former primary and follows what its answer says about this cluster.
func (n *Node) tellFormer(ctx context.Context, k Kind, r *heraldRecord) (AnswerKind, error) {
	cfg, err := n.heraldTLS(k, r)
	if err != nil {
		return NoAnswer, err
	}
	for _, addr := range r.Addrs {
		if hp, ok := hostPort(addr); !ok || n.isPeer(k, hp) {
			continue
		}
		var conn *grpc.ClientConn
		if conn, err = n.dialWith(ctx, cfg, addr); err != nil {
			continue
		}
		var a *answer
		a, err = n.heraldHello(ctx, k, conn)
		conn.Close()
		if err != nil {
			continue
		}
		_, err = n.meet(k, a.History, teller{How: "the former primary at " + addr, Cluster: a.ClusterID, ClusterAddr: addr})
		return answerKind(a.Kind), err
	}
	return NoAnswer, err
}

// isPeer reports whether a secondary of this cluster, or its primary, is at an address: then there is nobody to tell there.
func (n *Node) isPeer(k Kind, hp string) bool {
	peers, _ := n.peers.all(k)
	for _, p := range peers {
		if at, ok := hostPort(p.ClusterAddr); ok && at == hp && p.Streams > 0 {
			return true
		}
	}
	set := n.set(k)
	return set != nil && slices.ContainsFunc(set.Primaries, func(a string) bool { at, ok := hostPort(a); return ok && at == hp })
}

func (n *Node) heraldTLS(k Kind, r *heraldRecord) (*tls.Config, error) {
	pair, err := keyPair([]byte(r.Certificate), []byte(r.Key))
	if err != nil {
		return nil, err
	}
	if n.now().After(pair.Leaf.NotAfter) {
		return nil, errCertificateEnded
	}
	return n.memberTLS(k, r.Set, []byte(r.Trusted), purposeStream, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil })
}

// heraldHello exchanges one hello and its answer.
func (n *Node) heraldHello(ctx context.Context, k Kind, conn *grpc.ClientConn) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	h, err := n.newsOf(k)
	if err != nil {
		return nil, err
	}
	stream, err := pb.NewReplicationClient(conn).Stream(ctx, grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		return nil, fmt.Errorf("opening the stream: %w", err)
	}
	if err := stream.Send(&pb.FromSecondary{Message: &pb.FromSecondary_Hello{Hello: encodeHello(h)}}); err != nil {
		return nil, fmt.Errorf("saying hello: %w", err)
	}
	m, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("waiting for the answer to the hello: %w", err)
	}
	if m.GetAnswer() == nil {
		return nil, malformed("the first message is no answer")
	}
	return decodeAnswer(m.GetAnswer())
}

// newsOf is a hello that asks for nothing: it tells of a history.
func (n *Node) newsOf(k Kind) (*hello, error) {
	e, set := n.engine, n.set(k)
	if set == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "this cluster has no part in the %s set any more", k)
	}
	id := e.Identity()
	h := &hello{
		Kind: k, Set: set.Set, ClusterID: id.ClusterID, ClusterName: id.ClusterName, Software: n.cfg.Version, APIAddr: n.cfg.APIAddr,
		ClusterAddr: n.clusterAddr(set), History: e.History(), Window: limits{}.orDefault(),
	}
	h.Lineage, h.Position = id.Lineage, e.Position()
	if k == DR {
		h.Chain = e.Chain()
	}
	if set.Mode == Primary {
		h.Seen, _ = n.setHistory(k, set, e.Position().Index)
		if f := n.fenceOf(k); f != nil && f.Cause == fenceNewer && f.Whole {
			h.Seen = f.History
		}
		return h, nil
	}
	var err error
	if h.Seen, err = n.seen(k); err != nil {
		return nil, err
	}
	if k == Performance {
		h.Position = e.Cursor(engine.Performance)
	}
	return h, nil
}
