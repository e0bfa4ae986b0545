package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/vault"
)

// Stopped is the live store of a node that does not run, for commands that
// only read. While it is open no server starts on it.
type Stopped struct {
	*engine.Offline
	Generation *Generation
	dir        *DataDir
}

// OpenLive locks a stopped node's data directory and finds its live
// generation. A directory in use is an *InUse.
func OpenLive(dataDir string) (*DataDir, *Generation, error) {
	dir, err := OpenStopped(dataDir)
	if err != nil {
		return nil, nil, err
	}
	gen, err := dir.Current()
	if err != nil {
		return nil, nil, errors.Join(err, dir.Close())
	}
	return dir, gen, nil
}

// InspectLive opens the live store of a stopped node read-only.
func InspectLive(dataDir string) (*Stopped, error) {
	dir, gen, err := OpenLive(dataDir)
	if err != nil {
		return nil, err
	}
	off, err := engine.Inspect(gen.Dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store in %s: %w", gen.Dir, err), dir.Close())
	}
	return &Stopped{Offline: off, Generation: gen, dir: dir}, nil
}

// Close closes the store and gives the lock back.
func (s *Stopped) Close() error { return errors.Join(s.Offline.Close(), s.dir.Close()) }

// MintRootOffline writes a new root token into a stopped node's store and
// returns it. That it was minted is logged; the token is not.
func MintRootOffline(ctx context.Context, cfg *Config, log hclog.Logger) (token string, err error) {
	dir, gen, err := OpenLive(cfg.DataDir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if gen.Role == engine.Verbatim {
		return "", errors.New("a DR secondary takes no tokens of its own: mint one on its primary")
	}
	eng, report, err := engine.Open(engineConfig(cfg, gen, log))
	if err != nil {
		return "", fmt.Errorf("open the store in %s: %w", gen.Dir, err)
	}
	logReport(log, gen, report)
	eng.Hold("offline", report.WAL.First) // nobody here knows what secondaries still need
	running := start("store", eng.Run)
	token, err = vault.MintRoot(ctx, eng, gen.Secondary)
	if err = errors.Join(err, running.stop(), eng.Close()); err != nil {
		return "", fmt.Errorf("mint a root token: %w", err)
	}
	log.Warn("a root token was minted on the stopped cluster", "data", cfg.DataDir, "generation", gen.Name)
	return token, nil
}
