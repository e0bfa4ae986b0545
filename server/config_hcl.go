package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	hcljson "github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/vault"
)

// maxConfigSize is the longest configuration file that is read.
const maxConfigSize = 1 << 20

// ReadConfig reads a configuration file, HCL or, when its name ends in
// .json, JSON. What is wrong with it comes back as Mistakes, all at once.
func ReadConfig(file string) (*Config, error) {
	text, err := readLimited(file)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return ParseConfig(file, text)
}

func readLimited(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err == nil && len(text) > maxConfigSize {
		err = fmt.Errorf("%s: longer than %d bytes: is it the right file?", file, maxConfigSize)
	}
	return text, err
}

// ParseConfig reads a configuration's text; name stands in the mistakes.
func ParseConfig(name string, text []byte) (*Config, error) {
	p := newParser(name)
	p.run(text)
	if err := p.sorted(); err != nil {
		return nil, err
	}
	return p.cfg, nil
}

// parser collects a configuration and its mistakes.
type parser struct {
	name     string
	cfg      *Config
	mistakes Mistakes
	seen     map[string]hcl.Range // where each block and setting stands, by "block.name"
	taken    map[string]bool      // settings whose values can be used
}

func newParser(name string) *parser {
	p := &parser{name: name, cfg: defaults(), seen: map[string]hcl.Range{}, taken: map[string]bool{}}
	p.cfg.File = name
	return p
}

func (p *parser) run(text []byte) {
	if body := p.parse(text); body != nil {
		p.root(body)
		p.validate()
	}
}

// sorted returns the mistakes found so far in the order of the file.
func (p *parser) sorted() error {
	slices.SortStableFunc(p.mistakes, func(a, b Mistake) int { return a.Line - b.Line })
	return p.mistakes.orNil()
}

func (p *parser) parse(text []byte) hcl.Body {
	var f *hcl.File
	var found hcl.Diagnostics
	if filepath.Ext(p.name) == ".json" {
		f, found = hcljson.Parse(text, p.name)
	} else {
		f, found = hclsyntax.ParseConfig(bytes.TrimPrefix(text, []byte("\ufeff")), p.name, hcl.InitialPos)
	}
	p.mistakes.addDiagnostics(p.name, found)
	if found.HasErrors() || f == nil {
		return nil
	}
	return f.Body
}

// setting is one attribute of a block: its name and what takes its value.
type setting struct {
	name string
	set  func(cty.Value) error
}

func (p *parser) root(body hcl.Body) {
	c := p.cfg
	blocks := p.block("", body, []setting{
		{"api_addr", text(&c.APIAddr)},
		{"cluster_addr", text(&c.ClusterAddr)},
		{"cluster_name", text(&c.ClusterName)},
		{"log_level", oneOf(&c.LogLevel, "trace", "debug", "info", "warn", "error")},
		{"log_format", oneOf(&c.LogFormat, "standard", "json")},
		{"shutdown_timeout", duration(&c.ShutdownTimeout)},
		{"min_free", size(&c.MinFree)},
		{"trash_keep", duration(&c.TrashKeep)},
		{"enable_unauthenticated_access", someOf(&c.Unauthenticated, vault.OpGenerateRoot, vault.OpRekey, vault.OpGenerateToken)},
	}, []hcl.BlockHeaderSchema{
		{Type: "storage", LabelNames: []string{"type"}},
		{Type: "listener", LabelNames: []string{"type"}},
		{Type: "replication"},
		{Type: "scrub"},
		{Type: "seal", LabelNames: []string{"type"}},
	})
	p.storage(p.single(blocks, "storage", "bbolt"))
	var others hcl.Blocks
	for _, b := range blocks {
		if b.Type == "listener" && b.Labels[0] == "opensearch" {
			p.openSearchListener(b)
		} else {
			others = append(others, b)
		}
	}
	p.listener(p.single(others, "listener", "tcp"))
	p.replication(p.single(blocks, "replication", ""))
	p.scrub(p.single(blocks, "scrub", ""))
	p.seal(blocks)
}

func (p *parser) scrub(b *hcl.Block) {
	if b == nil {
		return
	}
	p.block("scrub", b.Body, []setting{
		{"interval", duration(&p.cfg.Scrub.Interval)},
		{"bytes_per_second", size(&p.cfg.Scrub.BytesPerSecond)},
	}, nil)
}

// seal reads the stanza of an auto-unseal.
func (p *parser) seal(blocks hcl.Blocks) {
	for _, b := range blocks.OfType("seal") {
		a := &seal.Auto{Type: b.Labels[0]}
		switch a.Type {
		case seal.File:
			p.block("seal", b.Body, []setting{{"path", text(&a.Path)}}, nil)
		case seal.Env:
			p.block("seal", b.Body, []setting{{"name", text(&a.Name)}}, nil)
		case seal.Shamir:
			p.mistakes.add(b.DefRange, "seal \"shamir\" is what holds without a seal stanza: remove it")
			continue
		default:
			p.mistakes.add(b.DefRange, "seal %q: only \"file\" { path } and \"env\" { name } exist", a.Type)
			continue
		}
		if p.cfg.Seal != nil {
			p.mistakes.add(b.DefRange, "a second seal: one key unseals a store")
			continue
		}
		if err := a.Validate(); err != nil {
			p.mistakes.add(b.DefRange, "seal %q: %v", a.Type, err)
		}
		p.cfg.Seal = a
	}
}

func (p *parser) storage(b *hcl.Block) {
	if b == nil {
		return
	}
	p.block("storage", b.Body, []setting{{"path", text(&p.cfg.DataDir)}}, nil)
	if _, ok := p.seen["storage.path"]; !ok {
		p.mistakes.add(b.DefRange, "storage has no path: say where the data directory is")
	}
}

func (p *parser) listener(b *hcl.Block) {
	if b == nil {
		return
	}
	l := &p.cfg.Listener
	blocks := p.block("listener", b.Body, []setting{
		{"address", text(&l.Address)},
		{"cluster_address", text(&l.ClusterAddress)},
		{"tls_disable", boolean(&l.TLSDisable)},
		{"tls_cert_file", text(&l.TLSCertFile)},
		{"tls_key_file", text(&l.TLSKeyFile)},
		{"tls_min_version", tlsVersion(&l.TLSMinVersion)},
		{"tls_cipher_suites", text(&l.TLSCipherSuites)},
		{"tls_client_ca_file", text(&l.TLSClientCAFile)},
		{"tls_require_and_verify_client_cert", boolean(&l.TLSRequireClientCert)},
		{"tls_disable_client_certs", boolean(&l.TLSDisableClientCerts)},
		{"max_request_size", size(&l.MaxRequestSize)},
		{"http_read_header_timeout", duration(&l.ReadHeaderTimeout)},
		{"http_read_timeout", duration(&l.ReadTimeout)},
		{"http_write_timeout", duration(&l.WriteTimeout)},
		{"http_idle_timeout", duration(&l.IdleTimeout)},
		{"max_connections", count(&l.MaxConnections)},
		{"rate_limit", perSecond(&l.RateLimit)},
		{"rate_limit_per_address", perSecond(&l.RateLimitPerAddress)},
	}, []hcl.BlockHeaderSchema{{Type: "telemetry"}})
	if t := p.single(blocks, "telemetry", ""); t != nil {
		p.block("listener.telemetry", t.Body, []setting{{"unauthenticated_metrics_access", boolean(&l.OpenMetrics)}}, nil)
	}
	p.listenerTLS(b)
}

func (p *parser) replication(b *hcl.Block) {
	if b == nil {
		return
	}
	r := &p.cfg.Replication
	p.block("replication", b.Body, []setting{
		{"retain_bytes", size(&r.RetainBytes)},
		{"retain_age", duration(&r.RetainAge)},
		{"checkpoint_bytes", size(&r.CheckpointBytes)},
		{"checkpoint_interval", duration(&r.CheckpointInterval)},
		{"segment_bytes", size(&r.SegmentBytes)},
		{"segment_entries", count(&r.SegmentEntries)},
		{"heartbeat_interval", duration(&r.HeartbeatInterval)},
		{"certificate_ttl", duration(&r.CertificateTTL)},
		{"best_effort_wal_wait_duration", duration(&r.WALWait)},
		{"allow_forwarding_via_header", boolean(&r.ForwardByHeader)},
	}, nil)
}

// block reads a body's settings and returns its blocks. Whatever else stands
// in it is a mistake.
func (p *parser) block(prefix string, body hcl.Body, settings []setting, blocks []hcl.BlockHeaderSchema) hcl.Blocks {
	schema := &hcl.BodySchema{Blocks: blocks}
	for _, s := range settings {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: s.name})
	}
	content, found := body.Content(schema)
	p.mistakes.addDiagnostics(p.name, explainUnknown(found))
	if content == nil {
		return nil
	}
	for _, s := range settings {
		if a, ok := content.Attributes[s.name]; ok {
			name := strings.TrimPrefix(prefix+"."+s.name, ".")
			p.seen[name] = a.Range
			p.taken[name] = p.assign(a, s)
		}
	}
	return content.Blocks
}

// assign reports whether the value could be taken.
func (p *parser) assign(a *hcl.Attribute, s setting) bool {
	v, found := a.Expr.Value(nil)
	if found.HasErrors() {
		p.mistakes.addDiagnostics(p.name, found)
		return false
	}
	if err := s.set(v); err != nil {
		p.mistakes.add(a.Range, "%s: %v", s.name, err)
		return false
	}
	return true
}

// single returns the one block of a type. A second one, or one with another
// label, is a mistake. want is the label; empty for a block without.
func (p *parser) single(blocks hcl.Blocks, kind, want string) *hcl.Block {
	var first *hcl.Block
	for _, b := range blocks.OfType(kind) {
		p.seen[kind] = b.DefRange
		switch {
		case want != "" && b.Labels[0] != want:
			p.mistakes.add(b.DefRange, "%s %q: only %q exists", kind, b.Labels[0], want)
		case first != nil:
			p.mistakes.add(b.DefRange, "a second %s: the first is on line %d", kind, first.DefRange.Start.Line)
		default:
			first = b
			continue
		}
		if first == nil {
			first = b
		}
	}
	return first
}

// vaultOnly are settings of Vault that have no meaning here: whoever moves a
// file over is told so, not left to guess.
var vaultOnly = []string{
	"ui", "disable_mlock", "telemetry", "ha_storage", "plugin_directory", "service_registration", "disable_cache",
	"default_lease_ttl", "max_lease_ttl", "raw_storage_endpoint", "pid_file", "license_path", "disable_clustering",
	"cluster_cipher_suites", "enable_response_header_hostname", "user_lockout", "reporting", "sentinel", "entropy",
}

// explainUnknown says of Vault's own settings that they are known and not
// there; everything else is left as the library puts it, with the name that
// was probably meant.
func explainUnknown(found hcl.Diagnostics) hcl.Diagnostics {
	for _, d := range found {
		for _, name := range vaultOnly {
			if strings.HasPrefix(d.Detail, fmt.Sprintf("An argument named %q", name)) ||
				strings.HasPrefix(d.Detail, fmt.Sprintf("Blocks of type %q", name)) {
				d.Summary, d.Detail = "Unknown setting", fmt.Sprintf("%q is a setting of Vault that Lockstep does not have; remove it.", name)
			}
		}
	}
	return found
}

// IsMistakes reports whether err is a list of Mistakes: they are printed as
// they are, one a line.
func IsMistakes(err error) bool {
	var ms Mistakes
	return errors.As(err, &ms)
}
