package server

import (
	"context"

	"github.com/hashicorp/go-hclog"
)

// reloadLoop reloads whenever it is told to.
func (n *node) reloadLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.cfg.Reload:
			notify(n.log, notifyReloading())
			n.reload()
			notify(n.log, notifyReady)
		}
	}
}

// reload takes what may change while the server runs: certificates, log level, which ceremonies need no token; and opens the
// audit devices' files again. A file that is wrong
// changes nothing: the server goes on as it was.
func (n *node) reload() {
	if err := n.reloadConfig(); err != nil {
		n.log.Error("reload: nothing was changed", "error", err)
		return
	}
	if c := n.live.Load(); c != nil {
		c.vault.ReopenAudit()
	}
	n.log.Info("reloaded certificates, log level and enable_unauthenticated_access, and opened the audit devices again")
}

func (n *node) reloadConfig() error {
	fresh := n.cfg
	if n.cfg.File != "" {
		var err error
		if fresh, err = ReadConfig(n.cfg.File); err != nil {
			return err
		}
	}
	var next, face *certificate
	if n.cert != nil {
		next = &certificate{certFile: fresh.Listener.TLSCertFile, keyFile: fresh.Listener.TLSKeyFile}
		if n.cert.clientCAFile != "" { // whether clients show certificates changes with a restart only
			next.clientCAFile = fresh.Listener.TLSClientCAFile
		}
	}
	if n.faceCert != nil && fresh.OpenSearch != nil {
		face = &certificate{certFile: fresh.OpenSearch.TLSCertFile, keyFile: fresh.OpenSearch.TLSKeyFile}
	}
	for _, c := range []*certificate{next, face} {
		if c == nil {
			continue
		}
		if err := c.load(); err != nil {
			return err
		}
	}
	n.cert.take(next)
	n.faceCert.take(face)
	n.opened.Store(&fresh.Unauthenticated)
	n.log.SetLevel(hclog.LevelFromString(fresh.LogLevel))
	return nil
}

// take makes the pair, and the CAs of clients, those of next, unless that is nil.
func (c *certificate) take(next *certificate) {
	if next == nil {
		return
	}
	c.pair.Store(next.pair.Load())
	if pool := next.clientCAs.Load(); pool != nil {
		c.clientCAs.Store(pool)
	}
}
