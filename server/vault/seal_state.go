package vault

import (
	"errors"

	"github.com/lockstepdb/lockstep/internal/seal"
)

// SealState is what sys/seal-status tells of a node.
type SealState struct {
	Type        string // seal.Shamir, File or Env
	Initialized bool
	Sealed      bool
	Shares      int
	Threshold   int
	Progress    int
	Nonce       string
}

// stateOf is the state of a node whose seal is open.
func stateOf(o *seal.Opened) SealState {
	if o == nil { // a store of this package's tests, which no keys protect
		return SealState{Type: "none", Initialized: true}
	}
	r := o.Record()
	return SealState{Type: r.Type, Initialized: true, Shares: r.Shares, Threshold: r.Threshold}
}

func (s SealState) body(version, buildDate string) map[string]any {
	return map[string]any{
		"type": s.Type, "initialized": s.Initialized, "sealed": s.Sealed, "t": s.Threshold, "n": s.Shares,
		"progress": s.Progress, "nonce": s.Nonce, "version": version, "build_date": buildDate, "migration": false,
		"recovery_seal": s.Type == seal.File || s.Type == seal.Env, "storage_type": "bbolt",
		"cluster_name": "", "cluster_id": "", // known once the store is open
	}
}

// ErrInitialised is the answer to a second sys/init.
var ErrInitialised = refuse(errInvalid, "Vault is already initialized")

// initParams are Vault's.
type initParams struct {
	Shares            *int64   `json:"secret_shares"`
	Threshold         *int64   `json:"secret_threshold"`
	PGPKeys           []string `json:"pgp_keys"`
	RootTokenPGPKey   string   `json:"root_token_pgp_key"`
	RecoveryShares    *int64   `json:"recovery_shares"`
	RecoveryThreshold *int64   `json:"recovery_threshold"`
	RecoveryPGPKeys   []string `json:"recovery_pgp_keys"`
	StoredShares      int64    `json:"stored_shares"`
}

// The number of shares that are made when none is asked for, and how many of them are needed: those of Vault's commands.
const (
	defaultShares    = 5
	defaultThreshold = 3
)

// config takes the parameters that fit the type of seal and refuses the others.
func (p *initParams) config(auto bool) (seal.Config, error) {
	if len(p.PGPKeys)+len(p.RecoveryPGPKeys) > 0 || p.RootTokenPGPKey != "" {
		return seal.Config{}, refuse(errInvalid, "PGP keys are not supported: leave out pgp_keys, recovery_pgp_keys and root_token_pgp_key")
	}
	shares, threshold, wrong, names := p.Shares, p.Threshold, []*int64{p.RecoveryShares, p.RecoveryThreshold}, "recovery_shares,recovery_threshold"
	kind := "a seal of shares"
	if auto {
		shares, threshold, wrong, names = p.RecoveryShares, p.RecoveryThreshold, []*int64{p.Shares, p.Threshold}, "secret_shares,secret_threshold"
		kind = "an auto-unseal"
	}
	for _, w := range wrong {
		if w != nil && *w != 0 {
			return seal.Config{}, refuse(errInvalid, "parameters %s not applicable to seal type: this server has %s", names, kind)
		}
	}
	return shareConfig(shares, threshold)
}

// shareConfig validates numbers of shares; none at all are the default's.
func shareConfig(shares, threshold *int64) (seal.Config, error) {
	if given(shares) == 0 && given(threshold) == 0 && (shares == nil || threshold == nil) {
		return seal.Config{Shares: defaultShares, Threshold: defaultThreshold}, nil
	}
	c := seal.Config{Shares: clampInt(given(shares)), Threshold: clampInt(given(threshold))}
	if err := c.Validate(); err != nil {
		return c, refuse(errInvalid, "invalid seal configuration: %v", err)
	}
	return c, nil
}

func given(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// clampInt keeps a number that is out of all bounds out of them.
func clampInt(n int64) int { return int(max(-1, min(n, 1<<20))) }

// InitResult is what sys/init made.
type InitResult struct {
	Shares    [][]byte
	RootToken string
}

func (i *InitResult) body(auto bool) map[string]any {
	hexes, b64 := shareTexts(i.Shares)
	body := map[string]any{"root_token": i.RootToken, "keys": hexes, "keys_base64": b64}
	if auto {
		body["keys"], body["keys_base64"] = []string{}, []string{}
		body["recovery_keys"], body["recovery_keys_base64"] = hexes, b64
	}
	return body
}

// sealError is the answer to what a ceremony refuses.
func sealError(err error) error {
	if errors.Is(err, seal.ErrWrongShares) || errors.Is(err, seal.ErrRepeated) {
		return refuse(errInvalid, "%v", err)
	}
	return err
}
