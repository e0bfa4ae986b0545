package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstepdb/lockstep/internal/seal"
)

// resolveTimeout bounds the look-up of one name.
const resolveTimeout = 5 * time.Second

// Check looks at what a configuration names: data directory, certificates,
// key file, addresses. It changes nothing and returns every Mistake it finds. Addresses
// that a server running on the same data directory holds are no mistakes.
func Check(ctx context.Context, file string) error {
	text, err := readLimited(file)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	p := newParser(file)
	p.run(text)
	if len(p.seen) > 0 { // else nothing could be read
		c := &checker{parser: p, running: p.cfg.DataDir != "" && lockedByOther(p.cfg.DataDir)}
		c.each(ctx)
	}
	return p.sorted()
}

// each looks at what could be read: a mistake in one setting hides none in
// another, and what is wrong as it is written is not looked at again.
func (c *checker) each(ctx context.Context) {
	if c.cfg.DataDir != "" {
		c.dataDir()
	}
	c.certificate()
	c.openSearch()
	c.sealKey()
	if c.good("listener.address") {
		c.addresses()
	}
	if c.good("api_addr") {
		c.resolve(ctx, "api_addr", c.cfg.APIAddr)
	}
	if c.good("cluster_addr") {
		c.resolve(ctx, "cluster_addr", c.cfg.ClusterAddr)
	}
}

// good reports whether a setting is missing or what it says could be taken.
func (c *checker) good(setting string) bool { return !c.has(setting) || c.taken[setting] }

func (c *checker) addresses() {
	c.bind("listener.address", c.cfg.Listener.Address)
	if !c.good("listener.cluster_address") {
		return
	}
	if address, err := c.clusterAddress(); err != nil {
		c.mistakes.add(c.at("listener.address"), "%v", err)
	} else {
		c.bind("listener.cluster_address", address)
	}
}

type checker struct {
	*parser
	running bool
}

func (c *checker) dataDir() {
	dir := c.cfg.DataDir
	info, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		dir = nearestExisting(dir)
		info, err = os.Stat(dir)
	}
	switch {
	case err != nil:
		c.mistakes.add(c.at("storage.path"), "path: %v", err)
	case !info.IsDir():
		c.mistakes.add(c.at("storage.path"), "path: %s is no directory", dir)
	case unix.Access(dir, unix.W_OK|unix.X_OK) != nil:
		c.mistakes.add(c.at("storage.path"), "path: no right to write in %s", dir)
	}
}

func nearestExisting(dir string) string {
	for {
		parent := filepath.Dir(dir)
		if _, err := os.Stat(parent); err == nil || parent == dir {
			return parent
		}
		dir = parent
	}
}

func (c *checker) certificate() {
	l := c.cfg.Listener
	if l.TLSDisable || l.TLSCertFile == "" || l.TLSKeyFile == "" { // without them: a mistake that is told already
		return
	}
	pair, err := loadKeyPair(l.TLSCertFile, l.TLSKeyFile)
	if err != nil {
		c.mistakes.add(c.at("listener.tls_cert_file"), "%v", err)
		return
	}
	c.certificateTimes(pair.Leaf)
	if l.TLSClientCAFile != "" {
		if _, err := loadPool(l.TLSClientCAFile); err != nil {
			c.mistakes.add(c.at("listener.tls_client_ca_file"), "%v", err)
		}
	}
	if u, err := url.Parse(c.cfg.APIAddr); err == nil && c.cfg.APIAddr != "" && c.good("api_addr") {
		if err := pair.Leaf.VerifyHostname(u.Hostname()); err != nil {
			c.mistakes.add(c.at("api_addr"), "api_addr: the certificate does not hold for it: %v", err)
		}
	}
}

// sealKey looks at the key file of an auto-unseal. A variable is not looked at: the service's environment is not that of the check.
func (c *checker) sealKey() {
	a := c.cfg.Seal
	if a == nil || a.Type != seal.File || a.Path == "" { // without a path: a mistake that is told already
		return
	}
	if _, err := a.Key(); err != nil {
		c.mistakes.add(c.at("seal.path"), "seal: %v", err)
	}
}

func (c *checker) certificateTimes(leaf *x509.Certificate) {
	switch now := time.Now(); {
	case now.After(leaf.NotAfter):
		c.mistakes.add(c.at("listener.tls_cert_file"), "certificate ended on %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		c.mistakes.add(c.at("listener.tls_cert_file"), "certificate begins on %s only", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
}

// openSearch looks at the listener of the OpenSearch API.
func (c *checker) openSearch() {
	o := c.cfg.OpenSearch
	if o == nil {
		return
	}
	if !o.TLSDisable && o.TLSCertFile != "" && o.TLSKeyFile != "" {
		if _, err := loadKeyPair(o.TLSCertFile, o.TLSKeyFile); err != nil {
			c.mistakes.add(c.at("listener.opensearch.tls_cert_file"), "%v", err)
		}
	}
	if c.good("listener.opensearch.address") {
		c.bind("listener.opensearch.address", o.Address)
	}
}

func (c *checker) clusterAddress() (string, error) {
	_, n, err := splitAddress(c.cfg.Listener.Address)
	if err != nil || n == 0 {
		return c.cfg.Listener.ClusterAddress, err
	}
	return c.cfg.clusterBind(&net.TCPAddr{Port: n})
}

// bind takes an address and gives it back.
func (c *checker) bind(setting, address string) {
	if address == "" {
		return
	}
	ln, err := net.Listen("tcp", address)
	if err == nil {
		err = ln.Close()
	}
	if err == nil || (c.running && errors.Is(err, syscall.EADDRINUSE)) {
		return
	}
	if !c.has(setting) {
		setting = "listener.address" // it was derived from that
	}
	c.mistakes.add(c.at(setting), "cannot listen on %s: %v", address, rootCause(err))
}

func rootCause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func (c *checker) resolve(ctx context.Context, setting, address string) {
	u, err := url.Parse(address)
	if err != nil || address == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	if _, err := net.DefaultResolver.LookupHost(ctx, u.Hostname()); err != nil {
		c.mistakes.add(c.at(setting), "%s: %v", setting, err)
	}
}

// lockedByOther reports whether a process runs on a data directory.
func lockedByOther(dir string) bool {
	f, err := os.Open(filepath.Join(dir, lockName))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}
