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
)

// resolveTimeout bounds the look-up of one name.
const resolveTimeout = 5 * time.Second

// Check looks at what a configuration names: data directory, certificates,
// addresses. It changes nothing and returns every Mistake it finds. Addresses
// that a server running on the same data directory holds are no mistakes.
func Check(ctx context.Context, file string) error {
	text, err := readLimited(file)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	p, err := parseForCheck(file, text)
	if err != nil {
		return err
	}
	c := &checker{parser: p, running: lockedByOther(p.cfg.DataDir)}
	c.dataDir()
	c.certificate()
	c.bind("listener.address", p.cfg.Listener.Address)
	if address, err := c.clusterAddress(); err != nil {
		p.mistakes.add(p.at("listener.address"), "%v", err)
	} else {
		c.bind("listener.cluster_address", address)
	}
	c.resolve(ctx, "api_addr", p.cfg.APIAddr)
	c.resolve(ctx, "cluster_addr", p.cfg.ClusterAddr)
	return p.sorted()
}

// parseForCheck returns the parser, which knows where each setting stands.
func parseForCheck(file string, text []byte) (*parser, error) {
	p := newParser(file)
	p.run(text)
	// What could not be read cannot be looked at; the rest would only repeat it.
	return p, p.sorted()
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
	if l.TLSDisable {
		return
	}
	pair, err := loadKeyPair(l.TLSCertFile, l.TLSKeyFile)
	if err != nil {
		c.mistakes.add(c.at("listener.tls_cert_file"), "%v", err)
		return
	}
	c.certificateTimes(pair.Leaf)
	if u, err := url.Parse(c.cfg.APIAddr); err == nil && c.cfg.APIAddr != "" {
		if err := pair.Leaf.VerifyHostname(u.Hostname()); err != nil {
			c.mistakes.add(c.at("api_addr"), "api_addr: the certificate does not hold for it: %v", err)
		}
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
