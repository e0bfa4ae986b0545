package vault

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
)

const unsealedWarning = "Values are not encrypted at rest: this version has no seal, so there are no keys to keep, and whoever can read the data directory can read the values."

// serveHealth answers GET and HEAD of sys/health for load balancers: the status is the message. Query parameters replace
// the statuses; unknown ones are ignored.
func (c *Core) serveHealth(w http.ResponseWriter, h *http.Request) {
	if h.Method != http.MethodGet && h.Method != http.MethodHead {
		answer{http.StatusMethodNotAllowed, errorBody([]string{"unsupported operation"})}.write(w)
		return
	}
	status, ready, err := c.healthStatus(h)
	if err != nil {
		a := c.encodeError(&request{path: "sys/health"}, err)
		a.write(w)
		return
	}
	body, err := marshal(c.healthBody(ready))
	if err != nil {
		body = errorBody(nil)
	}
	if h.Method == http.MethodHead {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		return
	}
	answer{status, append(body, '\n')}.write(w)
}

func (c *Core) healthStatus(h *http.Request) (status int, ready bool, err error) {
	codes := map[string]int{}
	for name, fallback := range map[string]int{
		"activecode": http.StatusOK, "standbycode": http.StatusTooManyRequests, "drsecondarycode": 472, "performancestandbycode": 473,
		"haunhealthycode": 474, "uninitcode": http.StatusNotImplemented, "sealedcode": http.StatusServiceUnavailable, "removedcode": 530,
	} {
		if codes[name], err = statusParam(h, name, fallback); err != nil {
			return 0, false, err
		}
	}
	ready, err = c.initialised()
	if err != nil {
		return 0, false, err
	}
	switch {
	case !ready:
		return codes["uninitcode"], ready, nil
	case c.mode(dr) == replication.Bootstrapping || c.mode(performance) == replication.Bootstrapping:
		return codes["sealedcode"], ready, nil // it serves nobody yet
	case c.mode(dr) == replication.Secondary:
		return codes["drsecondarycode"], ready, nil
	case c.likeStandby() != nil:
		status, err = standbyCode(h, codes)
		return status, ready, err
	}
	return codes["activecode"], ready, nil
}

func statusParam(h *http.Request, name string, fallback int) (int, error) {
	text := h.URL.Query().Get(name)
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 200 || n > 599 {
		return 0, &refusal{kind: errInvalid}
	}
	return n, nil
}

func (c *Core) healthBody(ready bool) map[string]any {
	id := c.engine.Identity()
	body := map[string]any{
		"initialized": ready, "sealed": false, "standby": false, "performance_standby": false,
		"replication_performance_mode": c.mode(performance), "replication_dr_mode": c.mode(dr),
		"server_time_utc": c.now().Unix(), "version": c.cfg.Version, "enterprise": false,
		"cluster_name": id.ClusterName, "cluster_id": id.ClusterID, "clock_skew_ms": 0, "echo_duration_ms": 0,
		"replication_primary_canary_age_ms": 0,
	}
	c.healthReplication(body)
	if err := c.likeStandby(); err != nil {
		body["standby"], body["reason"] = true, err.Error()
	}
	if last := c.engine.Position().Index; last > 0 {
		body["last_wal"] = last
	}
	return body
}

func (c *Core) sealStatus(r *request) (*reply, error) {
	ready, err := c.initialised()
	if err != nil {
		return nil, err
	}
	id := c.engine.Identity()
	return &reply{bare: map[string]any{
		"type": "none", "initialized": ready, "sealed": false, "t": 0, "n": 0, "progress": 0, "nonce": "",
		"version": c.cfg.Version, "build_date": c.cfg.BuildDate, "migration": false, "recovery_seal": false,
		"storage_type": "bbolt", "cluster_name": id.ClusterName, "cluster_id": id.ClusterID,
	}}, nil
}

func (c *Core) leader(r *request) (*reply, error) {
	body := map[string]any{
		"ha_enabled": false, "is_self": true, "leader_address": c.cfg.APIAddr, "leader_cluster_address": c.cfg.ClusterAddr,
		"performance_standby": false, "performance_standby_last_remote_wal": 0,
	}
	if last := c.engine.Position().Index; last > 0 {
		body["last_wal"] = last
	}
	return &reply{bare: body}, nil
}

func (c *Core) initStatus(r *request) (*reply, error) {
	ready, err := c.initialised()
	if err != nil {
		return nil, err
	}
	return &reply{bare: map[string]any{"initialized": ready}}, nil
}

// initParams are Vault's. There is no seal, so no shares are made, whatever number is asked for.
type initParams struct {
	Shares            int64    `json:"secret_shares"`
	Threshold         int64    `json:"secret_threshold"`
	PGPKeys           []string `json:"pgp_keys"`
	RootTokenPGPKey   string   `json:"root_token_pgp_key"`
	RecoveryShares    int64    `json:"recovery_shares"`
	RecoveryThreshold int64    `json:"recovery_threshold"`
	RecoveryPGPKeys   []string `json:"recovery_pgp_keys"`
	StoredShares      int64    `json:"stored_shares"`
}

func (c *Core) initialise(r *request, p *initParams) (*reply, error) {
	if p.RootTokenPGPKey != "" {
		return nil, refuse(errInvalid, "root_token_pgp_key is not supported: leave it out")
	}
	text := servicePrefix + randomText(24)
	if err := c.initWith(r, text, nil); err != nil {
		return nil, err
	}
	return &reply{bare: map[string]any{
		"keys": []string{}, "keys_base64": []string{}, "recovery_keys": []string{}, "recovery_keys_base64": []string{},
		"root_token": text, "warnings": []string{unsealedWarning},
	}}, nil
}

// initWith makes the store an initialised one: its mark, a root token and what else is given, in one entry.
func (c *Core) initWith(r *request, rootToken string, more []engine.Write) error {
	hash, err := c.tokenHash(r, rootToken)
	if err != nil {
		return err
	}
	now := c.now().UTC()
	writes, err := putToken(hash, newRootToken(now))
	if err != nil {
		return err
	}
	mark, err := marshal(map[string]any{"time": now, "version": c.cfg.Version})
	if err != nil {
		return err
	}
	writes = append(append(writes, shared.put(initKey, mark)), more...)
	return c.commit(r, &engine.Tx{
		Reads: []engine.Key{shared.key(initKey)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			if _, ok, err := read(rd, shared, initKey); err != nil {
				return nil, err
			} else if ok {
				return nil, refuse(errInvalid, "Vault is already initialized")
			}
			return writes, nil
		},
	})
}

// DevInit initialises an empty store with the given root token and a KV v2 mount at secret/; nothing when it is initialised.
// Call it after SetReplication: a secondary is initialised by its primary.
func (c *Core) DevInit(ctx context.Context, rootToken string) error {
	ready, err := c.initialised()
	if err != nil {
		return fmt.Errorf("initialise the dev store: %w", err)
	}
	if ready || c.engine.Role() != engine.Writer {
		return nil
	}
	rec := mountRecord{
		UUID: uuid.NewString(), Accessor: "kv_" + randomHex(4), Type: "kv",
		Description: "key/value secret storage", Options: map[string]string{"version": "2"},
	}
	value, err := marshal(rec)
	if err != nil {
		return err
	}
	w := engine.Write{
		Keyspace: storage.SystemReplicated, Scope: storage.Replicated,
		Change: storage.Change{Op: storage.Put, Key: []byte(mountPrefix + "secret/"), Value: value},
	}
	if err := c.initWith(&request{ctx: ctx, id: "dev-init"}, rootToken, []engine.Write{w}); err != nil {
		return fmt.Errorf("initialise the dev store: %w", err)
	}
	return nil
}
