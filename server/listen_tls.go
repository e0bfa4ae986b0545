package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// cipherSuites turns the names of a list into numbers. Only suites that package tls holds for safe are taken.
func cipherSuites(list string) ([]uint16, error) {
	var out []uint16
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		i := slices.IndexFunc(tls.CipherSuites(), func(s *tls.CipherSuite) bool { return s.Name == name })
		switch {
		case i < 0:
			return nil, fmt.Errorf("cipher suite %q is not known or not safe: take names such as TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", name)
		case !slices.Contains(tls.CipherSuites()[i].SupportedVersions, tls.VersionTLS12):
			return nil, fmt.Errorf("cipher suite %s is of TLS 1.3, which takes no choice: leave it out", name)
		}
		out = append(out, tls.CipherSuites()[i].ID)
	}
	if !slices.Contains(out, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256) && !slices.Contains(out, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) {
		return nil, errors.New("HTTP/2 demands TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 or TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: add the one that goes with the certificate's key")
	}
	return out, nil
}

// loadPool reads the CAs of clients.
func loadPool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the CAs of clients: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read the CAs of clients: %s holds no PEM certificate", file)
	}
	return pool, nil
}

// tlsConfig is the listener's. Certificate and CAs of clients are looked up for each connection, for they may be exchanged.
func (c *certificate) tlsConfig(l Listener) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: l.TLSMinVersion, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.forClient}
	if cfg.MinVersion == 0 {
		cfg.MinVersion = tls.VersionTLS12
	}
	if l.TLSCipherSuites != "" {
		var err error
		if cfg.CipherSuites, err = cipherSuites(l.TLSCipherSuites); err != nil {
			return nil, err
		}
	}
	if c.clientCAFile == "" {
		return cfg, nil
	}
	cfg.ClientAuth = tls.VerifyClientCertIfGiven
	if l.TLSRequireClientCert {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	base := cfg.Clone()
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := base.Clone()
		now.ClientCAs = c.clientCAs.Load()
		return now, nil
	}
	return cfg, nil
}

// forClient is the certificate of a set for who asks by the set's name, else the listener's own.
func (c *certificate) forClient(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if byName := c.byName.Load(); byName != nil {
		if cert, err := (*byName)(hello); cert != nil || err != nil {
			return cert, err
		}
	}
	return c.pair.Load(), nil
}

// checkClientCerts says what is wrong with the settings about certificates of clients, and which one it is.
func (l *Listener) checkClientCerts() (setting string, err error) {
	switch {
	case l.TLSDisable && (l.TLSClientCAFile != "" || l.TLSRequireClientCert):
		return "tls_client_ca_file", errors.New("certificates of clients need TLS: remove this, or tls_disable")
	case l.TLSDisableClientCerts && l.TLSRequireClientCert:
		return "tls_disable_client_certs", errors.New("tls_disable_client_certs and tls_require_and_verify_client_cert say opposite things: keep one")
	case l.TLSDisableClientCerts && l.TLSClientCAFile != "":
		return "tls_disable_client_certs", errors.New("tls_disable_client_certs makes tls_client_ca_file useless: keep one")
	case l.TLSRequireClientCert && l.TLSClientCAFile == "":
		return "tls_require_and_verify_client_cert", errors.New("tls_require_and_verify_client_cert needs tls_client_ca_file: say whose certificates are good")
	}
	return "", nil
}
