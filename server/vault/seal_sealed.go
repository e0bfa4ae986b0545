package vault

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/replication"
)

// SealedNode is what a node does while no store is open.
type SealedNode interface {
	SealState() SealState
	// Auto tells whether a key source for starts without people is configured.
	Auto() bool
	// Init makes the first store. An initialised node answers ErrInitialised.
	Init(ctx context.Context, c seal.Config) (*InitResult, error)
	// Unseal takes a share; with the last one it returns when the store is open, or could not be opened.
	Unseal(ctx context.Context, share []byte) error
	ResetUnseal()
}

// SealedConfig says what a sealed node's face needs.
type SealedConfig struct {
	Node      SealedNode
	Logger    hclog.Logger
	Version   string
	BuildDate string
}

// sealedFace answers requests while no store is open.
type sealedFace struct {
	cfg SealedConfig
	log hclog.Logger
}

// NewSealed makes what answers while a node is sealed or not initialised: health, seal status, init and unseal. Everything
// else is refused as Vault refuses it.
func NewSealed(cfg SealedConfig) http.Handler {
	return &sealedFace{cfg: cfg, log: cfg.Logger.Named("vault")}
}

func (f *sealedFace) ServeHTTP(w http.ResponseWriter, h *http.Request) {
	r := &request{ctx: h.Context(), id: uuid.NewString(), remote: h.RemoteAddr}
	if h.URL.Path == "/v1/sys/health" {
		f.health(w, h)
		return
	}
	core := &Core{log: f.log} // encodes answers; it has no store
	if err := r.parse(h); err != nil {
		core.encodeError(r, err).write(w)
		return
	}
	if r.op == opWrite {
		body, err := readBody(w, h, maxOpenBody)
		if err != nil {
			core.encodeError(r, err).write(w)
			return
		}
		r.body = body
	}
	rep, err := f.perform(r)
	core.encodeReply(r, rep, err).write(w)
}

func (f *sealedFace) perform(r *request) (*reply, error) {
	s := f.cfg.Node.SealState()
	switch {
	case r.path == "sys/seal-status" && r.op == opRead:
		return f.status(), nil
	case r.path == "sys/init" && r.op == opRead:
		return &reply{bare: map[string]any{"initialized": s.Initialized}}, nil
	case r.path == "sys/init" && r.op == opWrite:
		return f.init(r)
	case r.path == "sys/unseal" && r.op == opWrite:
		return f.unseal(r)
	case r.path == "sys/seal-status" || r.path == "sys/init" || r.path == "sys/unseal":
		return nil, refuse(errMethod, "unsupported operation")
	case !s.Initialized && r.op == opRead && r.path == "sys/replication/status":
		off := map[string]any{"mode": string(replication.Disabled)}
		return &reply{data: map[string]any{"dr": off, "performance": off, "mode": off["mode"]}, top: off}, nil
	case !s.Initialized && r.op == opRead && (r.path == "sys/replication/dr/status" || r.path == "sys/replication/performance/status"):
		return &reply{data: map[string]any{"mode": string(replication.Disabled)}}, nil
	case !s.Initialized:
		return nil, refuse(errUnavailable, "Vault is sealed: this cluster is not initialised; call PUT /v1/sys/init (vault operator init) first")
	}
	return nil, errSealed
}

var errSealed = refuse(errUnavailable, "Vault is sealed")

func (f *sealedFace) status() *reply {
	return &reply{bare: f.cfg.Node.SealState().body(f.cfg.Version, f.cfg.BuildDate)}
}

func (f *sealedFace) init(r *request) (*reply, error) {
	if f.cfg.Node.SealState().Initialized {
		return nil, ErrInitialised
	}
	p, _, err := params[initParams](r)
	if err != nil {
		return nil, err
	}
	auto := f.cfg.Node.Auto()
	c, err := p.config(auto)
	if err != nil {
		return nil, err
	}
	done, err := f.cfg.Node.Init(r.ctx, c)
	if err != nil {
		return nil, err
	}
	return &reply{bare: done.body(auto)}, nil
}

type unsealParams struct {
	Key     string `json:"key"`
	Reset   bool   `json:"reset"`
	Migrate bool   `json:"migrate"`
}

func (f *sealedFace) unseal(r *request) (*reply, error) {
	p, _, err := params[unsealParams](r)
	if err != nil {
		return nil, err
	}
	switch {
	case !f.cfg.Node.SealState().Initialized:
		return nil, refuse(errInvalid, "Vault is not initialized: call PUT /v1/sys/init (vault operator init) first")
	case p.Reset:
		f.cfg.Node.ResetUnseal()
		return f.status(), nil
	case p.Migrate:
		return nil, refuse(errInvalid, "migrate is not supported: the type of a seal is chosen when a cluster is initialised")
	case p.Key == "":
		return nil, refuse(errInvalid, "'key' must be specified in request body as JSON, or 'reset' set to true")
	}
	share, err := seal.ParseShare(p.Key)
	if err != nil {
		return nil, refuse(errInvalid, "%v", err)
	}
	if err := f.cfg.Node.Unseal(r.ctx, share); err != nil {
		return nil, sealError(err)
	}
	return f.status(), nil
}

// health answers sys/health: 501 before sys/init, 503 while sealed.
func (f *sealedFace) health(w http.ResponseWriter, h *http.Request) {
	if h.Method != http.MethodGet && h.Method != http.MethodHead {
		answer{status: http.StatusMethodNotAllowed, body: errorBody([]string{"unsupported operation"})}.write(w)
		return
	}
	s := f.cfg.Node.SealState()
	name, fallback := "sealedcode", http.StatusServiceUnavailable
	if !s.Initialized {
		name, fallback = "uninitcode", http.StatusNotImplemented
	}
	for _, other := range healthCodes {
		if _, err := statusParam(h, other.name, other.status); err != nil {
			answer{status: http.StatusBadRequest, body: errorBody(nil)}.write(w)
			return
		}
	}
	status, _ := statusParam(h, name, fallback)
	mode := "unknown"
	if !s.Initialized {
		mode = string(replication.Disabled)
	}
	body, err := marshal(map[string]any{
		"initialized": s.Initialized, "sealed": true, "standby": true, "performance_standby": false,
		"replication_performance_mode": mode, "replication_dr_mode": mode,
		"server_time_utc": time.Now().Unix(), "version": f.cfg.Version, "enterprise": false,
		"clock_skew_ms": 0, "echo_duration_ms": 0, "replication_primary_canary_age_ms": 0,
	})
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

// shareTexts gives shares in the two forms that clients read.
func shareTexts(shares [][]byte) (hexes, b64 []string) {
	hexes, b64 = []string{}, []string{}
	for _, s := range shares {
		hexes = append(hexes, hex.EncodeToString(s))
		b64 = append(b64, base64.StdEncoding.EncodeToString(s))
	}
	return hexes, b64
}
