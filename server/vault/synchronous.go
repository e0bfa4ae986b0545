package vault

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/replication"
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
	AwaitConfirmed(ctx context.Context, committed bool) (warning string, err error)
	AwaitLevel(ctx context.Context, index uint64, l replication.Level, committed bool, of ...replication.Kind) error
}

func (r *request) parseSynchronous(h http.Header) (err error) {
	r.level, err = replication.ParseLevel(h.Get(headerSynchronous))
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
	warning, failed := n.AwaitConfirmed(r.ctx, r.committed > 0)
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
		if since := n.Degraded(k); !since.IsZero() {
			data["degraded_since"] = stamp(since)
		}
		return &reply{data: data}, nil
	}
}

// checkSynchronous refuses a mount's level that is none.
func checkSynchronous(options map[string]string) error {
	_, err := replication.ParseLevel(options[optionSynchronous])
	return err
}
