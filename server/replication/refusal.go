package replication

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
)

// A handshake that fails says so in a word of TLS. Here is what each means between the members of a set, and what to do.

// errCertificateRefused is what a revoked secondary meets: the primary ends the handshake with an alert that says no more than that.
var errCertificateRefused = errors.New("the primary refuses this secondary's certificate: it was revoked or is not known there, and needs a new activation token")

// errCertificateEnded is what a secondary meets that was away for longer than its certificate was good. It goes on trying: the primary's clock may be what is wrong.
var errCertificateEnded = errors.New("this secondary's certificate has ended: ask the primary for another activation token for this id (primary/secondary-token), and give that to secondary/update-primary, which keeps the data")

const otherCA = "either it is another cluster, or the set's CA was replaced while this one was away: ask the primary for another activation token for this id (%s/primary/secondary-token), and give that to %s/secondary/update-primary, which keeps the data"

// Alerts of TLS (RFC 8446, section 6). What package tls returns for an alert of the peer has a type of its own, so that its text must be compared.
const (
	alertBadCertificate     = tls.AlertError(42) // it verifies and is not accepted
	alertCertificateExpired = tls.AlertError(45)
	alertUnknownCA          = tls.AlertError(48)
	alertInternalError      = tls.AlertError(80) // what a cluster port answers that serves no such set
	alertNoProtocol         = tls.AlertError(120)
)

// refusalOf gives an error of a handshake with a primary its sentence.
func refusalOf(k Kind, err error) error {
	if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
		return fmt.Errorf("this secondary does not know the CA of the cluster at this address: "+otherCA, k, k)
	}
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Err == nil {
		return err
	}
	switch remote.Err.Error() {
	case alertBadCertificate.Error():
		return errCertificateRefused
	case alertCertificateExpired.Error():
		return errCertificateEnded
	case alertUnknownCA.Error():
		return fmt.Errorf("the cluster at this address does not know the CA of this secondary's certificate: "+otherCA, k, k)
	case alertInternalError.Error(), alertNoProtocol.Error():
		return fmt.Errorf("the cluster at this address is not the %s primary at present: if it was demoted or disabled, name the new primary with %s/secondary/update-primary, or promote this cluster", k, k)
	}
	return err
}
