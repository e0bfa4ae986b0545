package replication

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

func publicKey(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// renew certifies a fresh key of an enrolled secondary. Its errors are gRPC statuses or sentences for the caller.
func (n *Node) renew(ctx context.Context, p peer, requestPEM []byte) (certificatePEM []byte, err error) {
	if err := n.enrolled(p); err != nil {
		return nil, err
	}
	request, err := parseRequest(requestPEM)
	if err != nil {
		return nil, refuse("%v", err)
	}
	set, err := n.primarySet(p.Kind)
	if err != nil {
		return nil, err
	}
	ca, err := n.authority(p.Kind, set)
	if err != nil {
		return nil, err
	}
	der, err := ca.signSecondary(request.PublicKey, p, n.now())
	if err != nil {
		return nil, err
	}
	n.log.Info("certificate renewed", "set", string(p.Kind), "secondary", p.ID)
	return []byte(encodeCertificate(der)), nil
}

// renewEvery bounds how often a failed renewal is tried again.
const renewEvery = time.Minute

// renewCertificate runs until ctx ends: at two thirds of the certificate's life it makes a fresh key and has it certified by send, which calls the
// primary's Renew on the live connection. New connections use the new certificate.
func (n *Node) renewCertificate(ctx context.Context, k Kind, send func(ctx context.Context, requestPEM []byte) (certificatePEM []byte, err error)) {
	log := n.log.With("set", string(k))
	for {
		at, end, err := n.renewalDue(k)
		if err != nil {
			log.Error("this secondary's certificate cannot be read: it needs a new activation token when its connections end", "error", err)
			return
		}
		wait := at.Sub(n.now())
		if wait <= 0 {
			if err = n.renewOnce(ctx, k, send); err == nil {
				log.Info("certificate renewed")
				continue
			}
			if ctx.Err() != nil {
				return
			}
			log.Warn("certificate not renewed, trying again", "error", plain(err), "ends", end.UTC().Format(time.RFC3339))
			wait = renewEvery
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// renewalDue returns when the certificate is to be renewed, and when it ends.
func (n *Node) renewalDue(k Kind) (at, end time.Time, err error) {
	cert, err := n.clientCertificate(k)
	if err != nil {
		return at, end, err
	}
	begin := cert.Leaf.NotBefore.Add(backdate)
	end = cert.Leaf.NotAfter
	return begin.Add(end.Sub(begin) * 2 / 3), end, nil
}

func (n *Node) renewOnce(ctx context.Context, k Kind, send func(context.Context, []byte) ([]byte, error)) error {
	set := n.set(k)
	if set == nil {
		return fmt.Errorf("this cluster is no %s secondary", k)
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
	if err := checkOwnCertificate(set, cert, key, n.now()); err != nil {
		return fmt.Errorf("the primary's answer: %w", err)
	}
	return n.storeSecondary(k, func(s *setConfig) map[string][]byte {
		s.Certificate = string(cert)
		return map[string][]byte{noteTLSKey(k): key}
	})
}

// checkOwnCertificate checks that a certificate is this secondary's, for its key, from the set's CA.
func checkOwnCertificate(set *setConfig, certPEM, keyPEM []byte, now time.Time) error {
	if len(certPEM) > maxPEM {
		return fmt.Errorf("the certificate is longer than %d bytes", maxPEM)
	}
	pair, err := keyPair(certPEM, keyPEM)
	if err != nil {
		return err
	}
	roots, err := parseCertificates(set.trusted())
	if err != nil {
		return err
	}
	// Not the present time: the clocks may differ, and the primary's counts.
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool(roots), CurrentTime: pair.Leaf.NotBefore.Add(backdate), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return err
	}
	p, err := peerOf(pair.Leaf)
	if err != nil {
		return err
	}
	if p.ID != set.Secondary || p.Kind != set.Kind || p.Set != set.Set || p.JTI != set.JTI {
		return errors.New("the certificate names another member")
	}
	return nil
}
