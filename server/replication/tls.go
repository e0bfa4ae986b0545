package replication

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Purposes of connections on the cluster port. Each has a TLS protocol name (ALPN) of its own, a kind and a version in it, so that a
// connection made for one is never used for another.
const (
	purposeStream  = "stream"  // the subscription, and small calls
	purposeBulk    = "bulk"    // diff and sync
	purposeForward = "forward" // requests of a performance secondary's clients
)

const protocolVersion = "1"

func protocolName(k Kind, purpose string) string {
	return "lockstep-" + string(k) + "-" + purpose + "/" + protocolVersion
}

func parseProtocol(name string) (k Kind, purpose string, ok bool) {
	name, ok1 := strings.CutPrefix(name, "lockstep-")
	name, ok2 := strings.CutSuffix(name, "/"+protocolVersion)
	kind, purpose, ok3 := strings.Cut(name, "-")
	if !ok1 || !ok2 || !ok3 || !Kind(kind).valid() {
		return "", "", false
	}
	switch purpose {
	case purposeStream, purposeBulk:
	case purposeForward:
		if Kind(kind) != Performance { // a DR secondary forwards nothing
			return "", "", false
		}
	default:
		return "", "", false
	}
	return Kind(kind), purpose, true
}

// certificates keeps the primary's TLS certificates: made in memory at first use and again before they end, never stored.
type certificates struct {
	node *Node
	mu   sync.Mutex // guards made
	made map[Kind]*serverCertificate
}

type serverCertificate struct {
	cert  *tls.Certificate
	set   string
	ca    string // PEM: that signed it
	renew time.Time
}

// server returns the certificate of the set whose primary this cluster is.
func (c *certificates) server(k Kind) (*tls.Certificate, error) {
	set := c.node.set(k)
	if set == nil || set.Mode != Primary {
		return nil, fmt.Errorf("this cluster is no %s primary", k)
	}
	now := c.node.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.made[k]; m != nil && m.set == set.Set && m.ca == set.CA && now.Before(m.renew) {
		return m.cert, nil
	}
	ca, err := c.node.authority(k, set)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the cluster port's key: %w", err)
	}
	der, err := ca.signServer(key.Public(), k, set.Set, now)
	if err != nil {
		return nil, err
	}
	// The CA's certificate goes along: a secondary that knows only its hash, from the token, can check it.
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate just made: %w", err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}
	if c.made == nil {
		c.made = map[Kind]*serverCertificate{}
	}
	c.made[k] = &serverCertificate{cert: cert, set: set.Set, ca: set.CA, renew: now.Add(memberLife / 2)}
	return cert, nil
}

// forget drops what was made for a set whose primary this cluster was, or with another CA.
func (c *certificates) forget(k Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.made, k)
}

// authority returns the CA of a set whose primary this cluster is.
func (n *Node) authority(k Kind, set *setConfig) (*authority, error) {
	return n.authorityFor(k, set.CA)
}

// authorityFor returns the CA with a certificate, if its key is one of those on this node: while a CA is being replaced there are two.
func (n *Node) authorityFor(k Kind, certificate string) (*authority, error) {
	for _, note := range []string{noteCAKey(k), noteNextCAKey(k)} {
		key := n.engine.NodeGet(note)
		if key == nil {
			continue
		}
		ca, err := loadAuthority([]byte(certificate), key)
		if errors.Is(err, errNotItsKey) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ca.life = n.cfg.CertificateLife
		return ca, nil
	}
	return nil, fmt.Errorf("the CA key of the %s set is not on this node", k)
}

// serverTLS is the configuration of the cluster port: TLS 1.3 only, mutual, without session tickets; the set is chosen by the protocol name.
func (n *Node) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		GetConfigForClient:     n.configForClient,
	}
}

func (n *Node) configForClient(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	for _, name := range hello.SupportedProtos {
		k, _, ok := parseProtocol(name)
		if !ok {
			continue
		}
		set := n.set(k)
		cert, err := n.certs.server(k)
		if err != nil {
			return nil, err
		}
		roots, err := parseCertificates(set.trusted())
		if err != nil {
			return nil, fmt.Errorf("the trust bundle of the %s set: %w", k, err)
		}
		return &tls.Config{
			MinVersion:             tls.VersionTLS13,
			SessionTicketsDisabled: true,
			Certificates:           []tls.Certificate{*cert},
			NextProtos:             []string{name},
			ClientAuth:             tls.RequireAndVerifyClientCert,
			ClientCAs:              pool(roots),
			Time:                   n.now,
			// Runs on every connection, a resumed one included, which VerifyPeerCertificate would not.
			VerifyConnection: func(cs tls.ConnectionState) error { return n.verifyClient(cs, k, name) },
		}, nil
	}
	return nil, errors.New("the client offers no protocol of the cluster port")
}

func (n *Node) verifyClient(cs tls.ConnectionState, k Kind, protocol string) error {
	if cs.NegotiatedProtocol != protocol || len(cs.PeerCertificates) == 0 {
		return errors.New("the connection names no protocol of the cluster port")
	}
	p, err := peerOf(cs.PeerCertificates[0])
	if err != nil {
		return err
	}
	if p.Kind != k {
		return fmt.Errorf("a certificate of a %s secondary is not valid for the %s set", p.Kind, k)
	}
	if err := n.enrolled(p); status.Code(err) != codes.Unavailable {
		return err
	}
	return nil // not known at present: each call asks again
}

// clientTLS is a secondary's configuration towards its primary: mutual TLS 1.3, pinned to the set's trust bundle whatever the address.
func (n *Node) clientTLS(k Kind, purpose string) (*tls.Config, error) {
	set := n.set(k)
	if set == nil || set.Mode != Secondary {
		return nil, fmt.Errorf("this cluster is no %s secondary", k)
	}
	return n.memberTLS(k, set.Set, set.trusted(), purpose, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return n.clientCertificate(k)
	})
}

// memberTLS is the configuration of a member of a set towards its primary.
func (n *Node) memberTLS(k Kind, set string, trusted []byte, purpose string, own func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) (*tls.Config, error) {
	roots, err := parseCertificates(trusted)
	if err != nil {
		return nil, fmt.Errorf("the trust bundle of the %s set: %w", k, err)
	}
	protocol := protocolName(k, purpose)
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		ServerName:           serverName(k, set),
		RootCAs:              pool(roots),
		NextProtos:           []string{protocol},
		Time:                 n.now,
		GetClientCertificate: own,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != protocol {
				return fmt.Errorf("the peer does not speak %s", protocol)
			}
			return nil
		},
	}, nil
}

// clientCertificate returns the newest certificate of this secondary with its key.
func (n *Node) clientCertificate(k Kind) (*tls.Certificate, error) {
	set := n.set(k)
	if set == nil || set.Mode != Secondary {
		return nil, fmt.Errorf("this cluster is no %s secondary", k)
	}
	return keyPair([]byte(set.Certificate), n.engine.NodeGet(noteTLSKey(k)))
}

// keyPair puts certificate and key together and checks that they belong together. Its errors never quote the key.
func keyPair(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	certs, err := parseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("this secondary's certificate: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("this secondary's key: %w", err)
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(certs[0].PublicKey) {
		return nil, errors.New("this secondary's certificate is not for its key")
	}
	out := &tls.Certificate{PrivateKey: key, Leaf: certs[0]}
	for _, c := range certs {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out, nil
}

// verifyPinned checks a chain as a server sent it against the hash of a set's CA: what a token makes possible before anything else is known.
func verifyPinned(chain []*x509.Certificate, caHash [32]byte, name string, now time.Time) (*x509.Certificate, error) {
	if len(chain) < 2 {
		return nil, errors.New("the server does not show the CA of the set")
	}
	for _, ca := range chain[1:] {
		if sha256Sum(ca.Raw) != caHash {
			continue
		}
		_, err := chain[0].Verify(x509.VerifyOptions{
			DNSName: name, Roots: pool([]*x509.Certificate{ca}), CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		return ca, err
	}
	return nil, errors.New("the server's CA is not the one that the activation token names")
}

// APICertificate is for the API listener's tls.Config.GetCertificate: it answers a client that asks by the server name of a set whose primary this
// cluster is with a certificate of that set's CA, so that the fingerprint in an activation token vouches for the listener. For every other client it returns
// nil, nil: the listener's own certificate is meant.
func (n *Node) APICertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !strings.HasSuffix(hello.ServerName, ".lockstep") {
		return nil, nil
	}
	for _, k := range kinds {
		if set := n.set(k); set != nil && set.Mode == Primary && hello.ServerName == serverName(k, set.Set) {
			return n.certs.server(k)
		}
	}
	return nil, nil
}
