package vault

import (
	"net/http"
	"strconv"

	"github.com/lockstepdb/lockstep/server/replication"
)

// serveHealth answers GET and HEAD of sys/health for load balancers: the status is the message. Query parameters replace
// the statuses; unknown ones are ignored.
func (c *Core) serveHealth(w http.ResponseWriter, h *http.Request) {
	if h.Method != http.MethodGet && h.Method != http.MethodHead {
		answer{status: http.StatusMethodNotAllowed, body: errorBody([]string{"unsupported operation"})}.write(w)
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
	answer{status: status, body: append(body, '\n')}.write(w)
}

// healthCodes are the statuses of sys/health, and the parameters that replace them.
var healthCodes = []struct {
	name   string
	status int
}{
	{"activecode", http.StatusOK}, {"standbycode", http.StatusTooManyRequests}, {"drsecondarycode", 472}, {"performancestandbycode", 473},
	{"haunhealthycode", 474}, {"uninitcode", http.StatusNotImplemented}, {"sealedcode", http.StatusServiceUnavailable}, {"removedcode", 530},
}

func (c *Core) healthStatus(h *http.Request) (status int, ready bool, err error) {
	codes := map[string]int{}
	for _, code := range healthCodes {
		if codes[code.name], err = statusParam(h, code.name, code.status); err != nil {
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

// stepDown has nobody to hand over to: a cluster is one node, which stays active, as Vault does without standbys.
func (c *Core) stepDown(*request) (*reply, error) { return nil, nil }

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
