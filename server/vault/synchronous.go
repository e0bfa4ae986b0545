package vault

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
)

// headerSynchronous is how many secondaries must hold a write before it is answered.
const headerSynchronous = "X-Lockstep-Synchronous"

// optionSynchronous is a mount's option with the same words.
const optionSynchronous = "synchronous"

// confirmations is what the core asks of replication.Node about synchronous sets.
type confirmations interface {
	Synchronous(k replication.Kind) (replication.Level, error)
	SetSynchronous(ctx context.Context, k replication.Kind, l replication.Level) error
	Degraded(k replication.Kind) time.Time
	AwaitConfirmed(ctx context.Context, committed bool, written *replication.Written) (warning string, err error)
	Leased(k replication.Kind) error
	AwaitLevel(ctx context.Context, index uint64, l replication.Level, committed bool, of ...replication.Kind) error
}

func (r *request) parseSynchronous(h http.Header) (err error) {
	r.level, err = parseWriteLevel(h.Get(headerSynchronous))
	if err != nil {
		return refuse(errInvalid, "%s: %s", headerSynchronous, err)
	}
	return nil
}

// confirm holds an answer back until what it shows, and what it has written, is confirmed as sets, mount and request ask for. It is the last step before an
// answer is encoded, whatever was read or refused on the way.
func (c *Core) confirm(r *request, rep *reply, err error) (*reply, error) {
	n := c.node.Load()
	if n == nil || r.caller == nil && !r.opened || r.committed == 0 && strings.HasPrefix(r.path, "sys/") || strings.HasPrefix(r.path, "sys/replication/") {
		return rep, err // an operator is answered whatever is missing
	}
	if isLeaseLost(err) && r.committed == 0 {
		return rep, err // it shows nothing, and is not to wait
	}
	warning, failed := n.AwaitConfirmed(r.ctx, r.committed > 0 || rep.committedAway(), r.written)
	if failed == nil && r.committed > 0 {
		var more string
		more, failed = c.confirmWrite(n, r)
		if warning == "" {
			warning = more
		}
	}
	if failed != nil {
		return nil, notConfirmed(failed)
	}
	if warning != "" && err == nil {
		if rep == nil {
			rep = warned()
		}
		rep.warn(warning)
	}
	return rep, err
}

// committedAway reports whether a forwarded request may have been committed by the primary.
func (rep *reply) committedAway() bool {
	return rep != nil && rep.sent != nil && (rep.sent.status < 300 || rep.sent.status == http.StatusConflict)
}

func isLeaseLost(err error) bool {
	var lost *replication.LeaseLost
	return errors.As(err, &lost)
}

// underLease refuses a transaction while a write lease that it needs has ended: that of the DR set for all, that of the performance set for what is shared, which
// may be known only when it is executed.
func (c *Core) underLease(tx *engine.Tx) (*engine.Tx, error) {
	n := c.node.Load()
	if n == nil {
		return tx, nil
	}
	if err := n.Leased(dr); err != nil {
		return nil, err
	}
	lost := n.Leased(performance)
	if lost == nil {
		return tx, nil
	}
	isShared := func(w engine.Write) bool { return w.Scope == storage.Replicated }
	if slices.ContainsFunc(tx.Writes, isShared) {
		return nil, lost
	}
	guarded := *tx
	if exec := tx.Exec; exec != nil {
		guarded.Exec = func(rd engine.Reader) ([]engine.Write, error) {
			writes, err := exec(rd)
			if err == nil && slices.ContainsFunc(writes, isShared) {
				return nil, lost
			}
			return writes, err
		}
	}
	return &guarded, nil
}

// confirmWrite waits for the levels that the mount and the request ask for.
func (c *Core) confirmWrite(n node, r *request) (warning string, err error) {
	levels := []replication.Level{r.level}
	if r.mount != nil && r.mount.Options[optionSynchronous] != "" {
		l, err := replication.ParseLevel(r.mount.Options[optionSynchronous])
		if err != nil {
			return "", err
		}
		levels = append(levels, l)
	}
	for _, l := range levels {
		if l.Secondaries == 0 {
			continue
		}
		err := n.AwaitLevel(r.ctx, r.committed, l, true)
		var late *replication.NotConfirmed
		switch {
		case errors.As(err, &late) && l.Degrade:
			warning = late.Error()
		case err != nil:
			return "", err
		}
	}
	return warning, nil
}

// notConfirmed gives an answer's refusal its status. Clients repeat a 5xx by themselves, which a write must not be.
func notConfirmed(err error) error {
	var late *replication.NotConfirmed
	switch {
	case !errors.As(err, &late):
		return err
	case late.Committed:
		return refuse(errConflict, "%s", late)
	}
	return refuse(errUnavailable, "%s", late)
}

type synchronousParams struct {
	Level string `json:"level"`
}

func setSynchronous(k replication.Kind) setCall[synchronousParams] {
	return func(c *Core, r *request, p *synchronousParams) (*reply, error) {
		n, err := c.replicator()
		if err != nil {
			return nil, err
		}
		if p.Level == "" {
			return nil, refuse(errInvalid, "missing level: give async, or for example durable=1,timeout=5s,on_timeout=fail")
		}
		l, err := replication.ParseLevel(p.Level)
		if err != nil {
			return nil, err
		}
		return nil, n.SetSynchronous(r.ctx, k, l)
	}
}

func readSynchronous(k replication.Kind) handler {
	return func(c *Core, r *request) (*reply, error) {
		n, err := c.replicator()
		if err != nil {
			return nil, err
		}
		l, err := n.Synchronous(k)
		if err != nil {
			return nil, err
		}
		data := map[string]any{"level": l.String()}
		if l.Lease > 0 {
			lost := n.Leased(k)
			data["write_lease_held"] = lost == nil
			if lost != nil {
				data["reason"] = lost.Error()
			}
		}
		if since := n.Degraded(k); !since.IsZero() {
			data["degraded_since"] = stamp(since)
		}
		return &reply{data: data}, nil
	}
}

// checkSynchronous refuses a mount's level that is none.
func checkSynchronous(options map[string]string) error {
	_, err := parseWriteLevel(options[optionSynchronous])
	return err
}

// parseWriteLevel reads the level of a mount or of one write.
func parseWriteLevel(text string) (replication.Level, error) {
	l, err := replication.ParseLevel(text)
	if err == nil && l.Lease > 0 {
		return l, refuse(errInvalid, "a lease is a set's: leave it out here, and set it by sys/replication/{dr,performance}/primary/synchronous")
	}
	return l, err
}
