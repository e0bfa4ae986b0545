package replication

import (
	"context"
	"errors"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errRevoked is the cause with which a revocation cancels live streams.
var errRevoked = errors.New("this secondary was revoked: it needs a new activation token")

// errStopping is the cause with which a node that stops cancels live streams.
var errStopping = status.Error(codes.Unavailable, "this node stops")

// revokedStatus is what a revoked secondary's streams end with.
func revokedStatus(id string) error {
	return status.Errorf(codes.PermissionDenied, "secondary %q: %v", id, errRevoked)
}

// streamTable knows the live streams and calls of each secondary.
type streamTable struct {
	mu   sync.Mutex // guards live
	live map[string]map[*context.CancelCauseFunc]struct{}
}

func newStreamTable() *streamTable {
	return &streamTable{live: map[string]map[*context.CancelCauseFunc]struct{}{}}
}

func (t *streamTable) add(key string, cancel *context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live[key] == nil {
		t.live[key] = map[*context.CancelCauseFunc]struct{}{}
	}
	t.live[key][cancel] = struct{}{}
}

func (t *streamTable) remove(key string, cancel *context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live[key], cancel)
	if len(t.live[key]) == 0 {
		delete(t.live, key)
	}
}

// cut cancels everything of a secondary and returns how many streams that were.
func (t *streamTable) cut(key string, cause error) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	for cancel := range t.live[key] {
		(*cancel)(cause)
	}
	return len(t.live[key])
}

// cutKind cancels everything of the secondaries of a kind.
func (t *streamTable) cutKind(k Kind, cause error) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for key, live := range t.live {
		if !strings.HasPrefix(key, string(k)+"/") {
			continue
		}
		for cancel := range live {
			(*cancel)(cause)
			n++
		}
	}
	return n
}

// cutAll cancels everything.
func (t *streamTable) cutAll(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, live := range t.live {
		for cancel := range live {
			(*cancel)(cause)
		}
	}
}

// plain is an error's text with the messages of gRPC statuses in it instead of their codes and gRPC's own words: for people.
func plain(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	for _, s := range statuses(err) {
		if message := s.GRPCStatus().Message(); message != "" {
			text = strings.ReplaceAll(text, s.Error(), message)
		}
	}
	return text
}

// statusCarrier is an error that carries a gRPC status itself; status.FromError would find one that is wrapped, with the text of the wrapping.
type statusCarrier interface {
	error
	GRPCStatus() *status.Status
}

// statuses lists the statuses in the tree of an error.
func statuses(err error) []statusCarrier {
	switch e := err.(type) {
	case nil:
		return nil
	case statusCarrier:
		return []statusCarrier{e}
	case interface{ Unwrap() error }:
		return statuses(e.Unwrap())
	case interface{ Unwrap() []error }:
		var all []statusCarrier
		for _, inner := range e.Unwrap() {
			all = append(all, statuses(inner)...)
		}
		return all
	}
	return nil
}

// plainly keeps what an error is and gives it its plain text.
func plainly(err error) error {
	if text := plain(err); err != nil && text != err.Error() {
		return &plainError{text, err}
	}
	return err
}

type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }

// track returns a context that ends when ctx does, when the secondary is revoked or this node stops (its cause is then a gRPC status
// error that says so), or when done is called, which must happen. A stream handler passes it to everything that it starts.
func (n *Node) track(ctx context.Context, p peer) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	n.streams.add(p.key(), &cancel)
	// Revoked between the check of the certificate and now: the list was not yet told of this stream.
	if err := n.enrolled(p); err != nil {
		cancel(err)
	}
	return ctx, func() {
		n.streams.remove(p.key(), &cancel)
		cancel(nil)
	}
}
