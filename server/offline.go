package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/vault"
)

// Stopped is the live store of a node that does not run, for commands that
// only read. While it is open no server starts on it.
type Stopped struct {
	*engine.Offline
	Generation *Generation
	Keys       *seal.Keyring
	dir        *DataDir
}

// Unsealer opens the seal of a stopped node's store.
type Unsealer struct {
	Auto *seal.Auto // of the configuration; nil: where the seal file says that its key is
	// Shares asks people for shares, as many as are needed; nil: there is nobody to ask.
	Shares func(threshold int) ([]string, error)
}

// Unseal opens a generation's seal: with the auto key, where there is one and it can be read, else with shares.
func (u Unsealer) Unseal(gen *Generation) (*seal.Opened, error) {
	if err := refusePlain(gen); err != nil {
		return nil, err
	}
	record, err := seal.Read(gen.Dir)
	if err != nil {
		return nil, err
	}
	return u.open(record, gen.Dir)
}

// open opens the seal of a record; later changes are written to dir.
func (u Unsealer) open(record *seal.Record, dir string) (*seal.Opened, error) {
	var autoErr error
	if auto := cmp.Or(u.Auto, record.Auto()); auto != nil {
		keys, err := record.UnlockAuto(dir, auto)
		if err == nil {
			return keys, nil
		}
		autoErr = err
	}
	if u.Shares == nil {
		return nil, errors.Join(autoErr, errors.New("the store is sealed and no shares were given"))
	}
	keys, err := unsealWith(u.Shares, record, dir)
	return keys, errors.Join(err, onlyIf(err != nil, autoErr))
}

func onlyIf(failed bool, err error) error {
	if failed {
		return err
	}
	return nil
}

func unsealWith(ask func(int) ([]string, error), record *seal.Record, dir string) (*seal.Opened, error) {
	texts, err := ask(record.Threshold)
	if err != nil {
		return nil, err
	}
	c := seal.NewCeremony(record.Threshold)
	for _, text := range texts {
		share, err := seal.ParseShare(text)
		if err != nil {
			return nil, fmt.Errorf("unseal %s: %w", dir, err)
		}
		key, ok, err := c.Add(share)
		if err != nil {
			return nil, fmt.Errorf("unseal %s: %w", dir, err)
		}
		if ok {
			return record.Unlock(dir, key)
		}
	}
	return nil, fmt.Errorf("unseal %s: %d shares are needed, %d were given", dir, record.Threshold, c.Progress())
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
func InspectLive(dataDir string, u Unsealer) (*Stopped, error) {
	dir, gen, err := OpenLive(dataDir)
	if err != nil {
		return nil, err
	}
	keys, err := u.Unseal(gen)
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	off, err := engine.InspectSealed(gen.Dir, keys.Keyring())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store in %s: %w", gen.Dir, err), dir.Close())
	}
	return &Stopped{Offline: off, Generation: gen, Keys: keys.Keyring(), dir: dir}, nil
}

// Close closes the store and gives the lock back.
func (s *Stopped) Close() error { return errors.Join(s.Offline.Close(), s.dir.Close()) }

// MintRootOffline writes a new root token into a stopped node's store and
// returns it. That it was minted is logged; the token is not.
func MintRootOffline(ctx context.Context, cfg *Config, u Unsealer, log hclog.Logger) (token string, err error) {
	dir, gen, err := OpenLive(cfg.DataDir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if gen.Role == engine.Verbatim {
		return "", errors.New("a DR secondary takes no tokens of its own: mint one on its primary")
	}
	keys, err := u.Unseal(gen)
	if err != nil {
		return "", err
	}
	eng, report, err := engine.Open(engineConfig(cfg, gen, keys, log))
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
