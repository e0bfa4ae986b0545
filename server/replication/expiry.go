package replication

import (
	"time"
)

// certificateEnd returns when the certificate that this cluster shows to members of a set ends; ok is false when it has none.
func (n *Node) certificateEnd(k Kind) (end time.Time, ok bool) {
	set := n.set(k)
	switch {
	case set == nil:
		return time.Time{}, false
	case set.Mode == Primary:
		cert, err := n.certs.server(k)
		if err != nil {
			return time.Time{}, false
		}
		return cert.Leaf.NotAfter, true
	}
	cert, err := n.clientCertificate(k)
	if err != nil {
		return time.Time{}, false
	}
	return cert.Leaf.NotAfter, true
}

// expiry adds to a status how long the certificate of the cluster port is good for; negative once it has ended.
func (n *Node) expiry(k Kind, out map[string]any) {
	if end, ok := n.certificateEnd(k); ok {
		out["certificate_expires_in_seconds"] = int64(end.Sub(n.primaryNow(k)) / time.Second)
	}
}
