package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// validate looks at what the settings say together. It touches neither disk
// nor network: Check does.
func (p *parser) validate() {
	c := p.cfg
	p.required()
	p.address("listener.address", c.Listener.Address)
	if c.Listener.ClusterAddress != "" {
		p.address("listener.cluster_address", c.Listener.ClusterAddress)
	}
	if c.APIAddr != "" {
		p.url("api_addr", c.APIAddr)
	} else if wildcard(c.Listener.Address) {
		p.mistakes.add(p.at("listener.address"),
			"address %s names no host that others could use: set api_addr", c.Listener.Address)
	}
	if c.ClusterAddr != "" {
		p.url("cluster_addr", c.ClusterAddr)
	}
	p.limits()
}

func (p *parser) required() {
	if !p.has("storage") {
		p.mistakes.add(p.top(), `no storage: add storage "bbolt" { path = "/var/lib/lockstep" }`)
	}
	if !p.has("listener") {
		p.mistakes.add(p.top(), `no listener: add listener "tcp" { … } with tls_cert_file and tls_key_file, or tls_disable = true`)
	}
}

func (p *parser) listenerTLS(b *hcl.Block) {
	l := &p.cfg.Listener
	switch {
	case l.TLSDisable:
	case l.TLSCertFile == "" && l.TLSKeyFile == "":
		p.mistakes.add(b.DefRange, "listener has no certificate: set tls_cert_file and tls_key_file, or tls_disable = true")
	case l.TLSCertFile == "":
		p.mistakes.add(p.at("listener.tls_key_file"), "tls_key_file without tls_cert_file")
	case l.TLSKeyFile == "":
		p.mistakes.add(p.at("listener.tls_cert_file"), "tls_cert_file without tls_key_file")
	}
	if l.TLSMinVersion == 0 {
		l.TLSMinVersion = tls.VersionTLS12
	}
	if setting, err := l.checkClientCerts(); err != nil {
		at := b.DefRange
		if p.has("listener." + setting) {
			at = p.at("listener." + setting)
		}
		p.mistakes.add(at, "%v", err)
	}
	if l.TLSCipherSuites == "" {
		return
	}
	if _, err := cipherSuites(l.TLSCipherSuites); err != nil {
		p.mistakes.add(p.at("listener.tls_cipher_suites"), "tls_cipher_suites: %v", err)
	} else if l.TLSMinVersion == tls.VersionTLS13 {
		p.mistakes.add(p.at("listener.tls_cipher_suites"), "tls_cipher_suites: TLS 1.3 takes no choice, and tls_min_version allows nothing older: remove one of the two")
	}
}

func (p *parser) limits() {
	c := p.cfg
	atLeast(p, "shutdown_timeout", c.ShutdownTimeout, time.Second)
	atLeast(p, "listener.max_request_size", c.Listener.MaxRequestSize, 1<<10)
	if p.taken["listener.max_request_size"] && c.Listener.MaxRequestSize > defaultMaxRequestSize {
		p.mistakes.add(p.at("listener.max_request_size"), "max_request_size: at most 32MiB")
	}
	for name, got := range map[string]time.Duration{
		"http_read_header_timeout": c.Listener.ReadHeaderTimeout, "http_read_timeout": c.Listener.ReadTimeout,
		"http_write_timeout": c.Listener.WriteTimeout, "http_idle_timeout": c.Listener.IdleTimeout,
	} {
		atLeast(p, "listener."+name, got, 100*time.Millisecond)
	}
	r := &c.Replication
	atLeast(p, "replication.checkpoint_bytes", r.CheckpointBytes, 4<<10)
	atLeast(p, "replication.checkpoint_interval", r.CheckpointInterval, 10*time.Millisecond)
	atLeast(p, "replication.segment_bytes", r.SegmentBytes, 4<<10)
	atLeast(p, "replication.retain_bytes", r.RetainBytes, 4<<10)
	atLeast(p, "replication.retain_age", r.RetainAge, 10*time.Millisecond)
	atLeast(p, "replication.certificate_ttl", r.CertificateTTL, time.Minute)
	atLeast(p, "replication.heartbeat_interval", r.HeartbeatInterval, 10*time.Millisecond)
	atLeast(p, "replication.best_effort_wal_wait_duration", r.WALWait, 10*time.Millisecond)
	atLeast(p, "scrub.bytes_per_second", c.Scrub.BytesPerSecond, 1<<10)
	if p.taken["scrub.interval"] && c.Scrub.Interval > 0 && c.Scrub.Interval < time.Minute {
		p.mistakes.add(p.at("scrub.interval"), "interval: %v is too little: at least 1m, or 0 for never", c.Scrub.Interval)
	}
	if p.taken["replication.best_effort_wal_wait_duration"] && r.WALWait > maxWALWait {
		p.mistakes.add(p.at("replication.best_effort_wal_wait_duration"), "best_effort_wal_wait_duration: at most %v", maxWALWait)
	}
}

func atLeast[T time.Duration | int64](p *parser, name string, got, least T) {
	if p.taken[name] && got < least {
		p.mistakes.add(p.at(name), "%s: %v is too little: at least %v", name[strings.LastIndexByte(name, '.')+1:], got, least)
	}
}

func (p *parser) has(name string) bool { _, ok := p.seen[name]; return ok }

// at returns where a setting stands; the top of the file when it does not.
func (p *parser) at(name string) hcl.Range {
	if r, ok := p.seen[name]; ok {
		return r
	}
	return p.top()
}

func (p *parser) top() hcl.Range { return hcl.Range{Filename: p.name} }

func (p *parser) address(name, value string) {
	if _, _, err := splitAddress(value); err != nil {
		p.mistakes.add(p.at(name), "%v", err)
		p.taken[name] = false
	}
}

func (p *parser) url(name, value string) {
	if err := checkURL(value); err != nil {
		p.mistakes.add(p.at(name), "%s: %v", name, err)
		p.taken[name] = false
	}
}

// splitAddress takes host:port apart. An empty host means all addresses.
func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("address %q: want host:port", address)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("address %q: port %q is no number from 0 to 65535", address, text)
	}
	return host, int(n), nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") {
		return errors.New(`want an address with its scheme, such as "https://node.example:8200"`)
	}
	if u.Hostname() == "" || u.User != nil || u.RawQuery != "" || (u.Path != "" && u.Path != "/") {
		return errors.New("want scheme, host and port only")
	}
	return nil
}

// wildcard reports whether an address to listen on is all of a machine's.
func wildcard(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "" || (ip != nil && ip.IsUnspecified())
}
