package vault

import (
	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/replication"
)

// rekeyAttempt is one attempt to make new shares.
type rekeyAttempt struct {
	*seal.Ceremony
	config   seal.Config
	verify   bool           // the new shares are to be shown before they come into force
	next     *seal.Rekeyed  // once the old ones were given
	verified *seal.Ceremony // collects the new ones
}

type rekeyParams struct {
	Shares    *int64   `json:"secret_shares"`
	Threshold *int64   `json:"secret_threshold"`
	PGPKeys   []string `json:"pgp_keys"`
	Backup    bool     `json:"backup"`
	Verify    bool     `json:"require_verification"`
}

// rekeyTarget is which shares a path is about: those that unseal, or those that recover an auto-unseal.
type rekeyTarget bool

const (
	unsealShares   rekeyTarget = false
	recoveryShares rekeyTarget = true
)

// rekeySeal returns the seal, if it has such shares and this cluster may change them.
func (c *Core) rekeySeal(t rekeyTarget) (*seal.Opened, error) {
	s, err := c.seal()
	if err != nil {
		return nil, err
	}
	if auto := s.Record().Type != seal.Shamir; auto != bool(t) {
		if auto {
			return nil, refuse(errInvalid, "this cluster is unsealed by a key file or variable and has recovery shares: use sys/rekey-recovery-key (vault operator rekey -target=recovery)")
		}
		return nil, refuse(errInvalid, "this cluster is unsealed by shares and has no recovery shares: use sys/rekey (vault operator rekey)")
	}
	if c.follows() {
		return nil, refuse(errInvalid, "rekeying can only be performed on the primary cluster when replication is activated")
	}
	return s, nil
}

// follows tells whether keys and shares are those of a primary.
func (c *Core) follows() bool {
	for _, k := range []replication.Kind{dr, performance} {
		if m := c.mode(k); m != replication.Disabled && m != replication.Primary {
			return true
		}
	}
	return false
}

func (c *Core) rekeyStatus(s *seal.Opened, a *rekeyAttempt) map[string]any {
	body := map[string]any{
		"nonce": "", "started": false, "t": 0, "n": 0, "progress": 0, "required": s.Record().Threshold,
		"pgp_fingerprints": nil, "backup": false, "verification_required": false, "verification_nonce": "",
	}
	if a != nil {
		body["nonce"], body["started"], body["t"], body["n"] = a.Nonce, true, a.config.Threshold, a.config.Shares
		body["progress"], body["required"], body["verification_required"] = a.Progress(), a.Threshold, a.verify
		if a.verified != nil {
			body["verification_nonce"] = a.verified.Nonce
		}
	}
	return body
}

func rekeyProgress(t rekeyTarget) handler {
	return func(c *Core, r *request) (*reply, error) {
		s, err := c.rekeySeal(t)
		if err != nil {
			return nil, err
		}
		c.ceremonies.mu.Lock()
		defer c.ceremonies.mu.Unlock()
		return &reply{bare: c.rekeyStatus(s, c.ceremonies.rekey)}, nil
	}
}

func rekeyBegin(t rekeyTarget) setCall[rekeyParams] {
	return func(c *Core, r *request, p *rekeyParams) (*reply, error) {
		s, err := c.rekeySeal(t)
		if err != nil {
			return nil, err
		}
		if len(p.PGPKeys) > 0 || p.Backup {
			return nil, refuse(errInvalid, "PGP keys and backups of them are not supported: leave out pgp_keys and backup")
		}
		config, err := shareConfig(p.Shares, p.Threshold)
		if err != nil {
			return nil, err
		}
		c.ceremonies.mu.Lock()
		defer c.ceremonies.mu.Unlock()
		if c.ceremonies.rekey != nil {
			return nil, refuse(errInvalid, "rekey already in progress: cancel it first, or go on with its nonce")
		}
		a := &rekeyAttempt{Ceremony: seal.NewCeremony(s.Record().Threshold), config: config, verify: p.Verify}
		c.ceremonies.rekey = a
		c.log.Info("rekey began", "nonce", a.Nonce, "shares", config.Shares, "threshold", config.Threshold, "remote", r.remote)
		return &reply{bare: c.rekeyStatus(s, a)}, nil
	}
}

func rekeyCancel(t rekeyTarget) handler {
	return func(c *Core, r *request) (*reply, error) {
		if _, err := c.rekeySeal(t); err != nil {
			return nil, err
		}
		c.ceremonies.mu.Lock()
		defer c.ceremonies.mu.Unlock()
		if a := c.ceremonies.rekey; a != nil {
			a.Reset()
			c.ceremonies.rekey = nil
		}
		return nil, nil
	}
}

func rekeyUpdate(t rekeyTarget) setCall[shareParams] {
	return func(c *Core, r *request, p *shareParams) (*reply, error) {
		s, err := c.rekeySeal(t)
		if err != nil {
			return nil, err
		}
		c.ceremonies.mu.Lock()
		defer c.ceremonies.mu.Unlock()
		a := c.ceremonies.rekey
		if a == nil {
			return nil, refuse(errInvalid, "no rekey in progress: begin one with .../init")
		}
		if a.next != nil {
			return nil, refuse(errInvalid, "the new shares wait for verification: give them to .../verify, or cancel")
		}
		ok, err := p.take(a.Ceremony, s.Verify)
		if err != nil || !ok {
			return &reply{bare: c.rekeyStatus(s, a)}, err
		}
		next, err := s.Rekey(a.config)
		if err != nil {
			return nil, err
		}
		hexes, b64 := shareTexts(next.Shares)
		body := map[string]any{
			"nonce": a.Nonce, "complete": true, "keys": hexes, "keys_base64": b64, "pgp_fingerprints": nil, "backup": false,
			"verification_required": a.verify, "verification_nonce": "",
		}
		if a.verify {
			a.next, a.verified = next, seal.NewCeremony(a.config.Threshold)
			body["verification_nonce"] = a.verified.Nonce
			return &reply{bare: body}, nil
		}
		r.beforeSent = func() error {
			c.ceremonies.mu.Lock()
			defer c.ceremonies.mu.Unlock()
			if c.ceremonies.rekey != a {
				return refuse(errInvalid, "the rekey was cancelled meanwhile: the shares of before are good")
			}
			return c.adoptShares(r, s, a, next)
		}
		return &reply{bare: body}, nil
	}
}

// adoptShares puts new shares in force, and tells the other clusters. The caller holds ceremonies.mu.
func (c *Core) adoptShares(r *request, s *seal.Opened, a *rekeyAttempt, next *seal.Rekeyed) error {
	if err := s.Adopt(next); err != nil {
		return err
	}
	c.ceremonies.rekey = nil
	c.log.Warn("rekeyed: the old shares are void", "nonce", a.Nonce, "remote", r.remote)
	c.announceKeys(r.ctx)
	return nil
}

func rekeyVerifyProgress(t rekeyTarget) handler {
	return func(c *Core, r *request) (*reply, error) {
		c.ceremonies.mu.Lock()
		defer c.ceremonies.mu.Unlock()
		a, err := c.verifying(t)
		if err != nil {
			return nil, err
		}
		return &reply{bare: a.verifyStatus()}, nil
	}
}

func (a *rekeyAttempt) verifyStatus() map[string]any {
	return map[string]any{
		"nonce": a.verified.Nonce, "started": true, "t": a.config.Threshold, "n": a.config.Shares, "progress": a.verified.Progress(),
	}
}

// verifying returns the attempt whose new shares are being verified. The caller holds ceremonies.mu.
func (c *Core) verifying(t rekeyTarget) (*rekeyAttempt, error) {
	if _, err := c.rekeySeal(t); err != nil {
		return nil, err
	}
	if a := c.ceremonies.rekey; a != nil && a.verified != nil {
		return a, nil
	}
	return nil, refuse(errInvalid, "no rekey verification in progress")
}

func rekeyVerifyUpdate(t rekeyTarget) setCall[shareParams] {
	return func(c *Core, r *request, p *shareParams) (*reply, error) {
		c.ceremonies.mu.Lock()
		defer c.ceremonies.mu.Unlock()
		a, err := c.verifying(t)
		if err != nil {
			return nil, err
		}
		nonce := a.verified.Nonce
		ok, err := p.take(a.verified, a.next.Check)
		if err != nil || !ok {
			return &reply{bare: a.verifyStatus()}, err
		}
		return &reply{bare: map[string]any{"nonce": nonce, "complete": true}}, c.adoptShares(r, c.cfg.Seal, a, a.next)
	}
}

// rekeyVerifyCancel begins the verification anew; the attempt itself goes on.
func rekeyVerifyCancel(t rekeyTarget) handler {
	return func(c *Core, r *request) (*reply, error) {
		c.ceremonies.mu.Lock()
		defer c.ceremonies.mu.Unlock()
		a, err := c.verifying(t)
		if err != nil {
			return nil, err
		}
		a.verified.Reset()
		a.verified = seal.NewCeremony(a.config.Threshold)
		return nil, nil
	}
}
