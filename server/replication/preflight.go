package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// maxSkew is how far the clocks of primary and secondary may differ at activation: certificates and tokens have times in them, and lag is measured with clocks.
const maxSkew = 60 * time.Second

// diskReserve is what must be left beside the primary's data, for log and spool.
const diskReserve = 64 << 20

// lookedUp is what sys/wrapping/lookup of an activation token adds (Activation.Lookup).
type lookedUp struct {
	ClusterAddrs []string `json:"cluster_addrs"`
	Set          string   `json:"cluster_id"`
	Version      string   `json:"primary_version"`
	Records      uint64   `json:"primary_records"`
	Bytes        int64    `json:"primary_bytes"`
}

// preflight checks, before a token is spent, everything that would make its use fail, in the order in which an operator would. The first that
// fails is named in the error, with what to do.
func (n *Node) preflight(ctx context.Context, k Kind, a *primaryAPI, text string) (*lookedUp, error) {
	if err := a.reach(ctx); err != nil {
		return nil, err
	}
	h, err := a.trust(ctx)
	if err != nil {
		return nil, err
	}
	if skew := h.skew(); skew > maxSkew || skew < -maxSkew {
		return nil, refuse("check failed: clock. The primary's clock is %v off this server's, more than %v: set both by NTP. The token was not used", skew.Round(time.Second), maxSkew)
	}
	if reason := versionsFit(h.Version, n.cfg.Version); reason != "" {
		return nil, refuse("check failed: version. %s. The token was not used", reason)
	}
	var l lookedUp
	if err := a.post(ctx, "/v1/sys/wrapping/lookup", map[string]string{"token": text}, &l); err != nil {
		return nil, unreachablef("%w (looking the token up, which does not use it)", err)
	}
	if l.Set == "" {
		return nil, refuse("check failed: the primary. What answers at its API address tells neither its cluster address nor its size: it is no Lockstep primary, or something between changes its answers. Give the right primary_api_addr. The token was not used")
	}
	if err := n.reachCluster(ctx, k, a, &l); err != nil {
		return nil, err
	}
	return &l, n.roomFor(&l)
}

// reach checks the API address by a connection.
func (a *primaryAPI) reach(ctx context.Context) error {
	d := net.Dialer{Timeout: dialTime}
	c, err := d.DialContext(ctx, "tcp", a.hostPort())
	if err != nil {
		return unreachablef("error unwrapping secondary token: Post %q: %w (check failed: the primary's API address; see that it is right, or give primary_api_addr, and that a firewall lets it through. The token was not used)",
			a.base.String()+"/v1/sys/wrapping/unwrap", err)
	}
	c.Close()
	return nil
}

// trust checks the CA of the API address by a call.
func (a *primaryAPI) trust(ctx context.Context) (*health, error) {
	h, err := a.health(ctx)
	if err != nil {
		return nil, unreachablef("error unwrapping secondary token: %w (check failed: the CA of the primary's API address %s, or what answers there. The token was not used)", err, a.base)
	}
	return h, nil
}

// reachCluster dials the cluster addresses for real: TLS, protocol name and the CA's hash. One must do.
func (n *Node) reachCluster(ctx context.Context, k Kind, a *primaryAPI, l *lookedUp) error {
	l.ClusterAddrs = cleanAddrs(l.ClusterAddrs)
	if len(l.ClusterAddrs) == 0 {
		return refuse("check failed: cluster port. The primary tells no cluster address: set cluster_addr in its configuration and restart it. The token was not used")
	}
	var all error
	for _, addr := range l.ClusterAddrs {
		hp, ok := hostPort(addr)
		if !ok {
			continue
		}
		err := n.probe(ctx, k, a, hp)
		if err == nil {
			return nil
		}
		all = errors.Join(all, fmt.Errorf("%s: %w", addr, err))
	}
	return unreachablef("check failed: cluster port. %w; see that this server reaches it and that nothing in between ends TLS. The token was not used", all)
}

// probe makes a TLS connection to a cluster port as the subscription will, but without a certificate: the primary's part of the handshake ends before
// it asks for ours.
func (n *Node) probe(ctx context.Context, k Kind, a *primaryAPI, hp string) error {
	name, protocol := serverName(k, a.claims.Set), protocolName(k, purposeStream)
	c, err := handshake(ctx, hp, &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: name, NextProtos: []string{protocol},
		InsecureSkipVerify: true, // verified below: of the CA only the hash is known
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != protocol {
				return fmt.Errorf("the peer does not speak %s", protocol)
			}
			_, err := verifyPinned(cs.PeerCertificates, a.claims.CAHash, name, n.now())
			return err
		},
	})
	if err != nil {
		return err
	}
	return c.Close()
}

// roomFor checks free disk against the primary's size: state, and log and spool while it is filled.
func (n *Node) roomFor(l *lookedUp) error {
	if n.cfg.FreeDisk == nil {
		return nil
	}
	free, err := n.cfg.FreeDisk()
	if err != nil {
		return fmt.Errorf("reading how much disk is free: %w", err)
	}
	if need := l.Bytes + l.Bytes/2 + diskReserve; l.Bytes < 0 || free < need {
		return refuse("check failed: disk. %d bytes are free, the primary's data (%d records) need %d here: make room. The token was not used", free, l.Records, need)
	}
	return nil
}
