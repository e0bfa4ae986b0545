package replication

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"
)

// How long certificates are valid. They begin an hour in the past, so that clocks may differ.
const (
	caLife     = 20 * 365 * 24 * time.Hour // unless Config.AuthorityLife says otherwise
	memberLife = 72 * time.Hour            // of a secondary's, unless Config.CertificateLife says otherwise; of a primary's always
	backdate   = time.Hour
)

// maxPEM bounds certificate requests and certificates from outside.
const maxPEM = 16 << 10

// serverName is what a set's primary proves with its certificate, whatever its address: no DNS name outside knows it.
func serverName(k Kind, set string) string { return set + "." + string(k) + ".lockstep" }

// memberURI names a member of a set in its certificate: repl://<set>/<kind>/<id>; id is empty for the primary.
func memberURI(set string, k Kind, id string) *url.URL {
	return &url.URL{Scheme: "repl", Host: set, Path: "/" + string(k) + "/" + id}
}

func parseMember(u *url.URL) (set string, k Kind, id string, err error) {
	kind, id, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if u.Scheme != "repl" || u.Host == "" || !ok || !Kind(kind).valid() || (id != "" && !validID(id)) {
		return "", "", "", fmt.Errorf("%q names no member of a replication set", u)
	}
	return u.Host, Kind(kind), id, nil
}

// authority is a CA: certificate and private key.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	life time.Duration // of secondaries' certificates; 0: memberLife
}

// newAuthority makes the private CA of a set.
func newAuthority(k Kind, set string, now time.Time, life time.Duration) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the CA's key: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "lockstep " + string(k) + " set " + set},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the CA's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the CA's certificate: %w", err)
	}
	return &authority{cert: cert, key: key}, nil
}

// loadAuthority reads a CA from PEM.
func loadAuthority(certPEM, keyPEM []byte) (*authority, error) {
	certs, err := parseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("the CA's certificate: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the CA's key: %w", err)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(certs[0].PublicKey) {
		return nil, errNotItsKey
	}
	return &authority{cert: certs[0], key: key}, nil
}

var errNotItsKey = errors.New("the CA's certificate is not for its key")

// signServer certifies a primary's key for a set's cluster port.
func (a *authority) signServer(pub crypto.PublicKey, k Kind, set string, now time.Time) ([]byte, error) {
	return a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "primary"},
		URIs:        []*url.URL{memberURI(set, k, "")},
		DNSNames:    []string{serverName(k, set)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, pub, now, memberLife)
}

// signSecondary certifies a secondary's key. The token's id in the subject binds it to one enrolment: revocation and a new token end it.
func (a *authority) signSecondary(pub crypto.PublicKey, p peer, now time.Time) ([]byte, error) {
	return a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: p.ID, SerialNumber: p.JTI},
		URIs:        []*url.URL{memberURI(p.Set, p.Kind, p.ID)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, pub, now, a.secondaryLife())
}

// secondaryLife is how long a secondary's certificate is good for.
func (a *authority) secondaryLife() time.Duration { return cmp.Or(a.life, memberLife) }

// lasting is the same CA, whose secondaries' certificates are good for another time.
func (a *authority) lasting(life time.Duration) *authority {
	return &authority{cert: a.cert, key: a.key, life: life}
}

func (a *authority) sign(t *x509.Certificate, pub crypto.PublicKey, now time.Time, life time.Duration) ([]byte, error) {
	t.SerialNumber = newSerial()
	t.NotBefore, t.NotAfter = now.Add(-backdate), now.Add(life)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	return der, nil
}

func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// newRequest makes a key pair and a certificate request. The key never leaves the node.
func newRequest() (keyPEM, requestPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key pair: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a certificate request: %w", err)
	}
	keyPEM, err = encodeKey(key)
	return keyPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), err
}

// parseRequest reads a certificate request from outside and checks that its sender holds the key. Of its content only the key is used.
func parseRequest(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("the certificate request is longer than %d bytes", maxPEM)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("the certificate request is not one PEM block of type CERTIFICATE REQUEST")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the certificate request does not parse: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the certificate request is not signed with its own key: %w", err)
	}
	if _, ok := r.PublicKey.(*ecdsa.PublicKey); !ok {
		return nil, errors.New("the certificate request must be for an ECDSA key")
	}
	return r, nil
}

// requestHash tells one certificate request from another.
func requestHash(r *x509.CertificateRequest) string { return fmt.Sprintf("%x", sha256.Sum256(r.Raw)) }

func encodeCertificate(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// parseCertificates reads one or more PEM certificates, and nothing else.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for len(strings.TrimSpace(string(text))) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("not a list of PEM certificates")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out, text = append(out, c), rest
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate")
	}
	return out, nil
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// parseKey reads a PEM private key. Its errors never quote what it read.
func parseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("not a PEM private key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the private key does not parse")
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key cannot sign")
	}
	return s, nil
}

// pool returns the certificates as a pool of roots.
func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}
