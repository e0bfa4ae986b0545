package vault

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"

	"github.com/lockstepdb/lockstep/server/replication"
)

// A DR secondary serves no tokens of clients, so what an operator says to it is authorised by a token in the body: one that the ceremony with the key shares
// has generated, or a batch token, which is self-contained. An X-Vault-Token that is sent along is not looked at: operators have stale ones.

// noteDROperation keeps the SHA-256 of the generated DR operation token (node scope). It has no time to live.
const noteDROperation = "vault/dr-operation-token"

// SetDROperationToken makes a generated token the one that authorises the calls of a DR secondary; "" revokes it. Only its hash is kept.
func (c *Core) SetDROperationToken(token string) error {
	var hash []byte
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		hash = sum[:]
	}
	if err := c.engine.NodeSet(map[string][]byte{noteDROperation: hash}); err != nil {
		return fmt.Errorf("storing the hash of the DR operation token: %w", err)
	}
	return nil
}

// drOperation authorises a DR secondary's call by the token in its body.
func (c *Core) drOperation(r *request, token string) error {
	switch c.mode(dr) {
	case replication.Disabled:
		return refuse(errInvalid, "this cluster is no DR secondary: DR replication is disabled here")
	case replication.Bootstrapping:
		return refuse(errUnavailable, "this cluster is being filled from its primary: wait until sys/replication/status shows mode secondary, then repeat")
	}
	return c.acceptDR(r, token)
}

// acceptDR accepts a DR operation token, whatever this cluster is.
func (c *Core) acceptDR(r *request, token string) error {
	if token == "" {
		return refuse(errInvalid, "missing dr_operation_token: generate one (vault operator generate-root -dr-token), or use a batch token whose policy grants this path")
	}
	if c.generatedDR(token) {
		return nil
	}
	allowed, err := c.batchAllows(token, r.path)
	switch {
	case err != nil:
		return err
	case allowed:
		return nil
	}
	return denied()
}

// generatedDR compares in a time that does not depend on the token.
func (c *Core) generatedDR(token string) bool {
	sum, hash := sha256.Sum256([]byte(token)), c.engine.NodeGet(noteDROperation)
	return subtle.ConstantTimeCompare(sum[:], hash) == 1
}

// drToken is a parameter of every call of a DR secondary.
type drToken struct {
	Token string `json:"dr_operation_token"`
}

func (p *drToken) operationToken() string { return p.Token }

// drCall runs a call of a DR secondary once its token is accepted.
func drCall[P any, T interface {
	*P
	operationToken() string
}](run func(c *Core, r *request, p *P) (*reply, error)) handler {
	return in(func(c *Core, r *request, p *P) (*reply, error) {
		if err := c.drOperation(r, T(p).operationToken()); err != nil {
			return nil, err
		}
		return run(c, r, p)
	})
}

type drPromoteParams struct {
	Token              string `json:"dr_operation_token"`
	PrimaryClusterAddr string `json:"primary_cluster_addr"`
	Force              bool   `json:"force"`
	Synchronous        string `json:"synchronous"`
}

func (p *drPromoteParams) operationToken() string { return p.Token }

func (c *Core) promoteDR(r *request, p *drPromoteParams) (*reply, error) {
	return c.promote(r, dr, promoteParams{PrimaryClusterAddr: p.PrimaryClusterAddr, Force: p.Force, Synchronous: p.Synchronous}, false)
}

type drUpdateParams struct {
	OperationToken string   `json:"dr_operation_token"`
	Token          *string  `json:"token"`
	Addrs          []string `json:"update_primary_addrs"`
	PrimaryAPIAddr string   `json:"primary_api_addr"`
	CAFile         string   `json:"ca_file"`
	CAPath         string   `json:"ca_path"`
}

func (p *drUpdateParams) operationToken() string { return p.OperationToken }

func (c *Core) updatePrimaryDR(r *request, p *drUpdateParams) (*reply, error) {
	return c.updatePrimary(r, dr, &updatePrimaryParams{
		Token: p.Token, Addrs: p.Addrs, PrimaryAPIAddr: p.PrimaryAPIAddr, CAFile: p.CAFile, CAPath: p.CAPath,
	}, false)
}

// disableDR answers a call that is repeated because its answer was lost: the cluster is no DR secondary any more then, and the token is still known.
func (c *Core) disableDR(r *request, p *drToken) (*reply, error) {
	err := c.drOperation(r, p.Token)
	if err != nil && (c.mode(dr) != replication.Disabled || c.acceptDR(r, p.Token) != nil) {
		return nil, err
	}
	return changeRole(dr, false, disableSecondary)(c, r)
}

func (c *Core) recoverDR(r *request, _ *drToken) (*reply, error)     { return c.recoverSet(r) }
func (c *Core) merkleCheckDR(r *request, _ *drToken) (*reply, error) { return c.merkleCheck(r) }

type drReindexParams struct {
	Token     string `json:"dr_operation_token"`
	Diff      bool   `json:"diff"`
	Force     bool   `json:"force"`
	SkipFlush bool   `json:"skip_flush"`
}

func (p *drReindexParams) operationToken() string { return p.Token }

func (c *Core) reindexDR(r *request, p *drReindexParams) (*reply, error) {
	return c.reindex(r, &reindexParams{Diff: p.Diff, Force: p.Force, SkipFlush: p.SkipFlush})
}

// deleteDROperation revokes the generated token. A batch token ends by its own time only.
func (c *Core) deleteDROperation(r *request, p *drToken) (*reply, error) {
	if !c.generatedDR(p.Token) {
		return nil, refuse(errInvalid, "a batch token cannot be revoked: it ends with its time to live")
	}
	return nil, c.SetDROperationToken("")
}
