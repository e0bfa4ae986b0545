package replication

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An id that is known gets another activation token without a revocation once nothing that was issued for it can be used any more: its token ended before
// it was redeemed, or its certificate ended before it was renewed. It keeps its place and the log that is held for it, so it goes on where it was.

// goodUntil is when the last of what was issued for a secondary ends, on this cluster's clock; zero: not known.
func (r *secondaryRecord) goodUntil() time.Time {
	until := r.CertificateUntil
	if r.State == secondaryIssued {
		if until = r.TokenUntil; until == 0 { // issued before it was noted: no token lasts longer
			until = r.Changed + int64(maxTTL/time.Second)
		}
	}
	if until == 0 {
		return time.Time{}
	}
	return time.Unix(until, 0).UTC()
}

// mayHaveAnother says why a secondary that is known gets no other token now.
func (r *secondaryRecord) mayHaveAnother(k Kind, now time.Time) error {
	until := r.goodUntil()
	what := "certificate"
	if r.State == secondaryIssued {
		what = "activation token"
	}
	switch {
	case until.IsZero():
		return refuse("secondary id %q is known already: choose another, or revoke it first (%s/primary/revoke-secondary)", r.ID, k)
	case !now.After(until):
		return refuse("secondary id %q is known already and its %s is good until %s: choose another id, wait until then, or revoke it first (%s/primary/revoke-secondary)",
			r.ID, what, until.Format(time.RFC3339), k)
	}
	return nil
}

// keepPlace takes over from the record of the enrolment before where the secondary is in this cluster's log.
func (r *secondaryRecord) keepPlace(old *secondaryRecord) {
	r.IssuedAt, r.Acked, r.Added = old.IssuedAt, old.Acked, old.Added
	r.APIAddr, r.ClusterAddr = old.APIAddr, old.ClusterAddr
}

// reissued ends what a secondary had open: a stream outlives the certificate that it began with.
func (n *Node) reissued(k Kind, id string) {
	err := status.Errorf(codes.PermissionDenied, "secondary %q has a new activation token, because its certificate had ended: give it to secondary/update-primary", id)
	cut := n.streams.cut(peer{Kind: k, ID: id}.key(), err)
	n.log.Info("another activation token for a known secondary, nothing that it had being good any more", "set", string(k), "secondary", id, "streams", cut)
}

// certified notes until when a renewed certificate is good. It is handed out all the same when that fails: then the id only needs a revocation before it gets
// another token, or is given one early, which ends what it had.
func (n *Node) certified(ctx context.Context, p peer, until time.Time) {
	_, err := n.changeSecondary(ctx, p.Kind, p.ID, p.JTI, func(r *secondaryRecord) { r.CertificateUntil = until.Unix() })
	if err != nil {
		n.log.Warn("until when a secondary's certificate is good was not noted", "set", string(p.Kind), "secondary", p.ID, "error", err)
	}
}
