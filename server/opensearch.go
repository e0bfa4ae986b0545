package server

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/lockstepdb/lockstep/internal/buildinfo"
	"github.com/lockstepdb/lockstep/server/opensearch"
)

// OpenSearch is the listener of the OpenSearch API alone.
type OpenSearch struct {
	Listener
	// NoSecurity lets everybody do everything with indices who reaches the listener. It never opens a path under /v1/.
	NoSecurity bool
}

const (
	defaultFaceAddress = "127.0.0.1:9200"
	securityRequired   = "required"
	securityNone       = "none"
)

// vaultPath tells whether a path is of the Vault API: v1 and ui can be no index.
func vaultPath(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return first == "v1" || first == "ui"
}

// faces sends each request to the API that its path belongs to.
type faces struct{ vault, opensearch http.Handler }

func (f faces) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if vaultPath(r.URL.Path) {
		f.vault.ServeHTTP(w, r)
		return
	}
	f.opensearch.ServeHTTP(w, r)
}

// faceOnly is what the listener of the OpenSearch API serves.
type faceOnly struct {
	gate       http.Handler
	noSecurity bool
}

func (f faceOnly) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if vaultPath(r.URL.Path) {
		answerJSON(w, http.StatusBadRequest, map[string]any{"error": "no handler found for uri [" + r.URL.EscapedPath() + "] and method [" + r.Method + "]"})
		return
	}
	if f.noSecurity {
		r = opensearch.WithoutSecurity(r)
	}
	f.gate.ServeHTTP(w, r)
}

// face makes the OpenSearch API of a core.
func (c *core) face() (http.Handler, error) {
	n := c.node
	f, err := opensearch.New(opensearch.Config{
		Core: c.vault, Engine: c.engine, Logger: c.log, Version: buildinfo.Read().Version, Address: n.faceAddress(), Dev: n.cfg.Dev != nil,
		MaxBody: n.cfg.Listener.MaxRequestSize, Now: wallClock,
	})
	if err != nil {
		return nil, fmt.Errorf("start the OpenSearch API: %w", err)
	}
	c.vault.SetFace(f.Forwarded)
	return faces{c.vault, f}, nil
}

// faceAddress is where clients of the OpenSearch API are told to go: its own listener, if it has one that can be named, else the API's address.
func (n *node) faceAddress() string {
	if n.faceListener != nil && !wildcard(n.cfg.OpenSearch.Address) {
		return n.faceListener.Addr().String()
	}
	u, err := url.Parse(n.addresses.API)
	if err != nil {
		return n.addresses.API
	}
	if n.faceListener != nil {
		return net.JoinHostPort(u.Hostname(), port(n.faceListener.Addr().String()))
	}
	return u.Host
}

// bindFace binds the listener of the OpenSearch API, if there is to be one.
func (n *node) bindFace() (err error) {
	o := n.cfg.OpenSearch
	if o == nil {
		return nil
	}
	if n.faceListener, n.faceCert, err = listen(o.Listener); err != nil {
		return fmt.Errorf("listener \"opensearch\": %w", err)
	}
	n.log.Info("the OpenSearch API has a listener of its own", "address", n.faceListener.Addr().String(), "tls", !o.TLSDisable)
	if o.NoSecurity {
		n.log.Warn("listener \"opensearch\" has security = \"none\": whoever reaches it reads and changes every index without a credential", "address", n.faceListener.Addr().String())
	}
	return nil
}

// serveFace answers on the listener of the OpenSearch API until the server is shut down; nil when there is none.
func (n *node) newFaceServer() *http.Server {
	if n.faceListener == nil {
		return nil
	}
	o := n.cfg.OpenSearch
	return newHTTPServer(newLimiter(faceOnly{&n.gate, o.NoSecurity}, o.Listener, &n.limited), o.Listener, n.log.Named("http"))
}

// openSearchListener reads listener "opensearch".
func (p *parser) openSearchListener(b *hcl.Block) {
	if p.cfg.OpenSearch != nil {
		p.mistakes.add(b.DefRange, "a second listener \"opensearch\": there is one")
		return
	}
	o := &OpenSearch{Listener: defaults().Listener}
	o.Address = defaultFaceAddress
	p.cfg.OpenSearch = o
	const name = "listener.opensearch"
	l, security := &o.Listener, securityRequired
	p.block(name, b.Body, []setting{
		{"address", text(&l.Address)},
		{"security", oneOf(&security, securityRequired, securityNone)},
		{"tls_disable", boolean(&l.TLSDisable)},
		{"tls_cert_file", text(&l.TLSCertFile)},
		{"tls_key_file", text(&l.TLSKeyFile)},
		{"tls_min_version", tlsVersion(&l.TLSMinVersion)},
		{"max_connections", count(&l.MaxConnections)},
		{"rate_limit", perSecond(&l.RateLimit)},
		{"rate_limit_per_address", perSecond(&l.RateLimitPerAddress)},
	}, nil)
	o.NoSecurity = security == securityNone
	p.address(name+".address", l.Address)
	switch {
	case l.TLSDisable:
	case l.TLSCertFile == "" || l.TLSKeyFile == "":
		p.mistakes.add(b.DefRange, "listener \"opensearch\" has no certificate: set tls_cert_file and tls_key_file, or tls_disable = true")
	}
}
