package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// explain shortens the error of a request that got no answer, and adds the
// hint for the commonest mistakes.
func (c *Client) explain(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		err = fmt.Errorf("%s %s: %w", strings.ToUpper(failed.Op), bare(failed.URL), failed.Err)
	}
	var plain tls.RecordHeaderError
	var unverified *tls.CertificateVerificationError
	var name x509.HostnameError
	switch {
	case errors.As(err, &plain), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w\nThe server at %s speaks plain HTTP: set VAULT_ADDR to http://…", err, c.Address)
	case errors.As(err, &name):
		return fmt.Errorf("%w\nSet VAULT_ADDR to a name or address that the certificate holds for", err)
	case errors.As(err, &unverified):
		return fmt.Errorf("%w\nThe certificate cannot be verified: set VAULT_CACERT to the file of the CA that signed it", err)
	}
	return err
}

// bare is a URL or path without its query, which tells a reader nothing.
func bare(address string) string {
	address, _, _ = strings.Cut(address, "?")
	return address
}
