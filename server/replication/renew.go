package replication

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func publicKey(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// renew certifies a fresh key of an enrolled secondary. Its errors are gRPC statuses or sentences for the caller.
//
// What is noted of it is an entry of the log, so a member has one for each tenth of a certificate's life at most: asked again sooner, since the answer was
// lost or the CA is another now, it gets a certificate that ends when the newest one does, of which nothing is to be noted.
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
	rec, err := n.readSecondary(p.Kind, p.ID)
	if err != nil {
		return nil, err
	}
	now := n.now()
	if err := n.paceRenewals(p, now); err != nil {
		return nil, err
	}
	end, noted := renewedUntil(rec, now, ca.secondaryLife())
	der, err := ca.lasting(end.Sub(now)).signSecondary(request.PublicKey, p, now)
	if err != nil {
		return nil, err
	}
	if !noted {
		n.certified(ctx, p, end)
		n.log.Info("certificate renewed", "set", string(p.Kind), "secondary", p.ID)
	}
	return []byte(encodeCertificate(der)), nil
}

// renewedUntil is when a renewed certificate ends, and whether the member's record allows for it as it is.
func renewedUntil(rec *secondaryRecord, now time.Time, life time.Duration) (end time.Time, noted bool) {
	end = now.Add(life)
	if rec == nil || rec.CertificateUntil < end.Add(-life/10).Unix() {
		return end, false
	}
	if until := time.Unix(rec.CertificateUntil, 0); until.Before(end) {
		end = until
	}
	return end, true
}

// At most so many certificates are signed for one member in such a time: signing costs the primary's processor.
const (
	renewBurst  = 10
	renewWindow = 10 * time.Second
)

// paced counts what a member causes in a window of time.
type paced struct {
	since time.Time
	count int
}

// paceRenewals refuses a renewal that comes after too many.
func (n *Node) paceRenewals(p peer, now time.Time) error {
	over := false
	n.peers.update(p.Kind, p.ID, func(ps *peerState) {
		r := &ps.Renewals
		if in := now.Sub(r.since); in < 0 || in >= renewWindow {
			*r = paced{since: now}
		}
		if over = r.count >= renewBurst; !over {
			r.count++
		}
	})
	if over {
		return status.Errorf(codes.ResourceExhausted, "secondary %q was given %d certificates within %v: ask again later", p.ID, renewBurst, renewWindow)
	}
	return nil
}

// renewEvery bounds how long after a failed renewal it is tried again, and how soon after a renewal comes the next.
const renewEvery = time.Minute

// due is when a certificate is to be renewed and when it ends, on the primary's clock.
type due struct{ begin, at, end time.Time }

// pause is how long to wait after an attempt: a certificate of seconds has no minute.
func (d due) pause() time.Duration { return min(renewEvery, d.share()) }

// share is a twentieth of the certificate's life.
func (d due) share() time.Duration { return max(d.end.Sub(d.begin)/20, 10*time.Millisecond) }

// primaryNow is the time on the primary's clock, as far as heartbeats tell: it made the certificate, and judges it.
func (n *Node) primaryNow(k Kind) time.Time { return n.now().Add(-n.link[k].get().Primary.ClockSkew) }

// renewCertificate runs until ctx ends: at two thirds of the certificate's life it makes a fresh key and has it certified by send, which calls the
// primary's Renew on the live connection. New connections use the new certificate.
func (n *Node) renewCertificate(ctx context.Context, k Kind, send func(ctx context.Context, requestPEM []byte) (certificatePEM []byte, err error)) {
	log := n.log.With("set", string(k))
	for {
		d, err := n.renewalDue(k)
		if err != nil {
			log.Error("this secondary's certificate cannot be read: it needs a new activation token when its connections end", "error", err)
			return
		}
		// Looked at again now and then: the clocks' difference becomes known with the first heartbeats.
		wait := min(d.at.Sub(n.primaryNow(k)), renewLook, d.share())
		if wait <= 0 || n.ofFormerCA(k) {
			err := n.renewOnce(ctx, k, send)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				log.Info("certificate renewed")
			} else {
				log.Warn("certificate not renewed, trying again", "error", err, "ends", d.end.UTC().Format(time.RFC3339))
			}
			wait = d.pause()
		}
		if !sleepOr(ctx, wait, n.renewing[k]) {
			return
		}
	}
}

// renewLook is how often it is looked whether a renewal is due.
const renewLook = 10 * time.Minute

func sleep(ctx context.Context, d time.Duration) bool { return sleepOr(ctx, d, nil) }

// sleepOr sleeps until it is woken; it reports whether ctx goes on.
func sleepOr(ctx context.Context, d time.Duration, woken <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-woken:
		return true
	case <-ctx.Done():
		return false
	}
}

// renewalDue returns when the certificate is to be renewed, and when it ends.
func (n *Node) renewalDue(k Kind) (due, error) {
	cert, err := n.clientCertificate(k)
	if err != nil {
		return due{}, err
	}
	begin, end := cert.Leaf.NotBefore.Add(backdate), cert.Leaf.NotAfter
	return due{begin, begin.Add(end.Sub(begin) * 2 / 3), end}, nil
}

// watchCertificates warns, until ctx ends, while a certificate of this secondary has less than a third of its life left, link or no link.
func (n *Node) watchCertificates(ctx context.Context) {
	for {
		wait := warnEvery
		for _, k := range kinds {
			if left := n.warnOfEnd(k); left > 0 {
				wait = min(wait, left)
			}
		}
		if !sleep(ctx, max(wait, 10*time.Millisecond)) {
			return
		}
	}
}

// warnEvery is how often a certificate that ends soon is warned of.
const warnEvery = time.Hour

// warnOfEnd warns when it is time, and returns how long to wait until it will be.
func (n *Node) warnOfEnd(k Kind) time.Duration {
	set := n.set(k)
	if set == nil || set.Mode != Secondary || set.Certificate == "" {
		return 0
	}
	d, err := n.renewalDue(k)
	if err != nil {
		return 0 // whoever dials with it says so
	}
	now := n.primaryNow(k)
	grace := d.at.Add(d.pause()) // a renewal that succeeds at once needs no warning
	if now.Before(grace) {
		return grace.Sub(now)
	}
	log := n.log.With("set", string(k), "ends", d.end.UTC().Format(time.RFC3339))
	if now.Before(d.end) {
		log.Warn("this secondary's certificate has less than a third of its life left: it is renewed as soon as the primary answers")
	} else {
		log.Error("this secondary's certificate has ended: ask the primary for another activation token for this id (" + string(k) + "/primary/secondary-token), and give that to " + string(k) + "/secondary/update-primary, which keeps the data")
	}
	return d.pause() * 10
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
