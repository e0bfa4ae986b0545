package vault

import (
	"errors"
	"time"

	"github.com/lockstepdb/lockstep/server/replication"
)

// roleCall is a call that changes a set's role and needs no parameters.
type roleCall func(n node, r *request, k replication.Kind) (string, error)

// changeRole answers a call that changes the role, on the paths of today 200 with a warning, on the oldest 204.
func changeRole(k replication.Kind, legacy bool, call roleCall) handler {
	return func(c *Core, r *request) (*reply, error) {
		n, err := c.replicator()
		if err != nil {
			return nil, err
		}
		warning, err := call(n, r, k)
		return roleReply(warning, legacy, err)
	}
}

type demoteParams struct {
	DrainTimeout time.Duration `json:"drain_timeout"`
}

// demotePrimary says in its answer where each known secondary stands: what a promotion of it would cost.
func demotePrimary(k replication.Kind, legacy bool) setCall[demoteParams] {
	return func(c *Core, r *request, p *demoteParams) (*reply, error) {
		n, err := c.replicator()
		if err != nil {
			return nil, err
		}
		var d *replication.Demotion
		if r.opened { // nobody has shown a token: it is told how it went, and nothing is changed
			d, err = n.Demoted(k)
		} else {
			d, err = n.DemotePrimary(r.ctx, k, replication.Demote{DrainTimeout: p.DrainTimeout})
		}
		if err != nil {
			return nil, err
		}
		rep := &reply{quiet: legacy}
		for _, w := range d.Warnings {
			rep.warn(w)
		}
		secondaries := []map[string]any{}
		for _, s := range d.Secondaries {
			secondaries = append(secondaries, map[string]any{
				"node_id": s.ID, "set": string(s.Set), "index": s.Index, "lag_entries": s.Lag, "connected": s.Connected, "drained": s.Drained,
			})
		}
		if d.Index > 0 {
			rep.data = map[string]any{"index": d.Index, "secondaries": secondaries}
		}
		return rep, nil
	}
}

// wasDemoted reports whether this cluster is, or is about to be, a DR secondary because it was demoted.
func (c *Core) wasDemoted() bool {
	n, err := c.replicator()
	if err != nil {
		return false
	}
	_, err = n.Demoted(dr)
	var later *replication.NotReady
	return err == nil || errors.As(err, &later)
}

// promotePreflight says what a promotion would cost now. Like status it needs no token.
func promotePreflight(k replication.Kind) handler {
	return func(c *Core, r *request) (*reply, error) {
		n, err := c.replicator()
		if err != nil {
			return nil, err
		}
		p, err := n.PromotePreflight(k)
		if err != nil {
			return nil, err
		}
		return &reply{data: p.Describe()}, nil
	}
}

// rotateCA changes no role; it answers as those calls do.
func rotateCA(n node, r *request, k replication.Kind) (string, error) {
	return n.RollAuthority(r.ctx, k)
}

func disablePrimary(n node, r *request, k replication.Kind) (string, error) {
	return n.DisablePrimary(r.ctx, k)
}

func disableSecondary(n node, r *request, k replication.Kind) (string, error) {
	return n.DisableSecondary(r.ctx, k)
}

type promoteParams struct {
	PrimaryClusterAddr string `json:"primary_cluster_addr"`
	Force              bool   `json:"force"`
	Synchronous        string `json:"synchronous"`
}

func promoteSecondary(legacy bool) setCall[promoteParams] {
	return func(c *Core, r *request, p *promoteParams) (*reply, error) {
		return c.promote(r, performance, *p, legacy)
	}
}

func (c *Core) promote(r *request, k replication.Kind, p promoteParams, legacy bool) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	if p.Synchronous != "" && p.Synchronous != "async" {
		return nil, refuse(errInvalid, "synchronous must be async, or be left out: the level of before goes on then; another is set with primary/synchronous once secondaries follow")
	}
	warning, err := n.PromoteSecondary(r.ctx, k, replication.Promote{PrimaryClusterAddr: p.PrimaryClusterAddr, Force: p.Force, Async: p.Synchronous != ""})
	return roleReply(warning, legacy, err)
}

type updatePrimaryParams struct {
	Token          *string  `json:"token"`
	Addrs          []string `json:"update_primary_addrs"`
	PrimaryAPIAddr string   `json:"primary_api_addr"`
	CAFile         string   `json:"ca_file"`
	CAPath         string   `json:"ca_path"`
}

func updatePrimary(legacy bool) setCall[updatePrimaryParams] {
	return func(c *Core, r *request, p *updatePrimaryParams) (*reply, error) {
		return c.updatePrimary(r, performance, p, legacy)
	}
}

func (c *Core) updatePrimary(r *request, k replication.Kind, p *updatePrimaryParams, legacy bool) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	warning, err := n.UpdatePrimary(r.ctx, k, replication.UpdatePrimary{
		Token: p.Token, Addrs: p.Addrs, PrimaryAPIAddr: p.PrimaryAPIAddr, CAFile: p.CAFile, CAPath: p.CAPath,
	})
	return roleReply(warning, legacy, err)
}

func generatePublicKey(k replication.Kind) handler {
	return func(c *Core, r *request) (*reply, error) {
		n, err := c.replicator()
		if err != nil {
			return nil, err
		}
		key, err := n.GeneratePublicKey(k)
		if err != nil {
			return nil, err
		}
		return &reply{data: map[string]any{"secondary_public_key": key}}, nil
	}
}
