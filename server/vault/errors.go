package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	snapshots "github.com/lockstepdb/lockstep/server/snapshot"
	"github.com/lockstepdb/lockstep/storage"
)

// Kinds of refusal. Handlers say which it is and why; the table below says what HTTP calls it.
var (
	errInvalid     = errors.New("invalid request")
	errDenied      = errors.New("permission denied")
	errNotFound    = errors.New("not found")
	errUnsupported = errors.New("unsupported path")
	errMethod      = errors.New("unsupported operation")
	errMediaType   = errors.New("unsupported media type")
	errBodyTooBig  = errors.New("request body too large")
	errUnavailable = errors.New("unavailable")
	errConflict    = errors.New("conflict")
	errBusy        = errors.New("too many requests")
	errUnaudited   = errors.New("not recorded by any audit device")
)

// refusal is an error of a kind with the sentence that the client reads; an empty one gives {"errors":[]}.
type refusal struct {
	kind     error
	say      string
	warnings []string
}

func (r *refusal) Error() string { return r.say }
func (r *refusal) Unwrap() error { return r.kind }

func refuse(kind error, format string, args ...any) error {
	return &refusal{kind: kind, say: fmt.Sprintf(format, args...)}
}

// missing is the answer to a read or list that finds nothing.
func missing() error { return &refusal{kind: errNotFound} }

func denied() error { return &refusal{kind: errDenied, say: "permission denied"} }

// failures maps errors to HTTP, first match wins. What is not listed is 500: logged, and not shown to the client.
var failures = []struct {
	match  func(error) bool
	status int
	prefix string // put before the error's own words
}{
	{is(errInvalid), http.StatusBadRequest, ""},
	{is(errDenied), http.StatusForbidden, ""},
	{is(errNotFound), http.StatusNotFound, ""},
	{is(errUnsupported), http.StatusNotFound, ""},
	{is(errMethod), http.StatusMethodNotAllowed, ""},
	{is(errMediaType), http.StatusUnsupportedMediaType, ""},
	{is(errBodyTooBig), http.StatusRequestEntityTooLarge, ""},
	{is(errUnavailable), http.StatusServiceUnavailable, ""},
	{is(errBusy), http.StatusTooManyRequests, ""},
	{is(errNotYet), http.StatusPreconditionFailed, ""},
	{is(errConflict), http.StatusConflict, ""}, // clients repeat a 5xx by themselves
	{is(errUnaudited), http.StatusInternalServerError, ""},
	{as[*http.MaxBytesError], http.StatusRequestEntityTooLarge, ""},
	{as[*snapshots.Refused], http.StatusBadRequest, ""},
	{as[*snapshots.Invalid], http.StatusBadRequest, ""},
	{as[*replication.Refused], http.StatusBadRequest, ""},
	{as[*replication.NotReady], http.StatusServiceUnavailable, ""},
	{as[*replication.LeaseLost], http.StatusServiceUnavailable, ""},
	{is(engine.ErrOutcomeUnknown), http.StatusConflict, "read before you write again: "}, // clients repeat a 5xx by themselves
	{is(archive.ErrNotFound), http.StatusNotFound, ""},
	{is(archive.ErrInUse), http.StatusServiceUnavailable, ""},
	{is(replication.ErrUnreachable), http.StatusInternalServerError, ""},
	{is(engine.ErrTooLarge), http.StatusRequestEntityTooLarge, ""},
	{is(engine.ErrDiskFull), http.StatusServiceUnavailable, ""},
	{is(engine.ErrPoisoned), http.StatusServiceUnavailable, ""},
	{is(engine.ErrInconsistent), http.StatusServiceUnavailable, ""},
	{is(engine.ErrNotWritable), http.StatusServiceUnavailable, ""},
	{is(engine.ErrFenced), http.StatusServiceUnavailable, ""},
	{is(context.Canceled), http.StatusInternalServerError, "the request ended before it was answered: "},
	{is(context.DeadlineExceeded), http.StatusInternalServerError, "the request ended before it was answered: "},
	{as[*storage.Damage], http.StatusInternalServerError, "stored data is damaged, run sys/replication/merkle-check: "},
	{as[*boltfile.CorruptError], http.StatusInternalServerError, "stored data is damaged, run lockstep check: "},
}

func is(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }

func as[T error](err error) bool {
	var t T
	return errors.As(err, &t)
}

// translate gives the status and the texts of an error's answer; unknown says that the error is in no row and must be logged.
func translate(err error) (status int, texts []string, unknown bool) {
	for _, f := range failures {
		if !f.match(err) {
			continue
		}
		if text := err.Error(); text != "" {
			texts = []string{f.prefix + text}
		}
		return f.status, texts, false
	}
	return http.StatusInternalServerError, nil, true
}
