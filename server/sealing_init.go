package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstepdb/lockstep/internal/buildinfo"
	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/vault"
)

// How a store comes to its keys: made with it, or a primary's at an enrolment.

// Init implements vault.SealedNode. The store is whole, with its root token, before it becomes the live one; only then are
// the shares told.
func (s *sealing) Init(ctx context.Context, c seal.Config) (*vault.InitResult, error) {
	s.initialising.Lock()
	defer s.initialising.Unlock()
	if s.SealState().Initialized {
		return nil, vault.ErrInitialised
	}
	auto := s.node.autoSeal()
	keys, shares, err := seal.New(seal.Options{Config: c, Auto: auto}, time.Now())
	if err != nil {
		return nil, fmt.Errorf("initialise: %w", err)
	}
	done := &vault.InitResult{Shares: shares}
	fill := func(dir string) (err error) {
		done.RootToken, err = s.node.initStore(ctx, dir, keys)
		return err
	}
	gen, err := s.node.dir.Prepare(engine.Identity{ClusterName: s.node.cfg.ClusterName}, engine.Writer, false, nil, keys, fill)
	if err != nil {
		return nil, fmt.Errorf("initialise: %w", err)
	}
	if err := s.node.dir.Adopt(gen); err != nil {
		return nil, fmt.Errorf("initialise: %w", err)
	}
	s.node.log.Info("initialised", "shares", c.Shares, "threshold", c.Threshold, "auto_unseal", auto != nil)
	u, err := s.adopted(gen, keys)
	if err != nil {
		return nil, err
	}
	if auto != nil {
		// The caller must learn of the shares whatever happens now: a store that does not open says so in the log.
		if err := s.hand(ctx, u); err != nil {
			s.node.log.Error("the new store could not be opened", "error", err)
		}
	}
	return done, nil
}

// adopted takes up the generation that sys/init made.
func (s *sealing) adopted(gen *Generation, keys *seal.Opened) (*unsealing, error) {
	record := keys.Record()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gen, s.record = gen, &record
	return s.deliveryLocked(keys), nil
}

// initStore writes mark and root token into a store that is being made.
func (n *node) initStore(ctx context.Context, dir string, keys *seal.Opened) (rootToken string, err error) {
	eng, _, err := engine.Open(engine.Config{Dir: dir, Role: engine.Writer, MinFree: -1, Seam: n.cfg.Seam, Sealer: keys.Keyring()})
	if err != nil {
		return "", err
	}
	eng.Hold("initialise", 1) // the log is kept from its first entry on
	running := start("store", eng.Run)
	rootToken, err = vault.InitStore(ctx, eng, buildinfo.Read().Version, keys)
	return rootToken, errors.Join(err, running.stop(), eng.Close())
}

// ---- replication's Seal

// Export implements replication.Seal: what a new secondary is given.
func (s *sealing) Export() ([]byte, error) {
	keys := s.current()
	if keys == nil {
		return nil, errors.New("internal error: no seal is open")
	}
	return keys.Export(), nil
}

// Import implements replication.Seal: it keeps a primary's keys for the store that the next switch makes.
func (s *sealing) Import(exported []byte) error {
	if _, err := seal.Import(exported, nil); err != nil {
		return fmt.Errorf("the primary's keys: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.imported = exported
	return nil
}

// forSwitch returns the seal of the store that a switch makes: the primary's, with this node's own auto key.
func (s *sealing) forSwitch() (*seal.Opened, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.imported == nil {
		return nil, errors.New("internal error: a switch without the primary's keys")
	}
	keys, err := seal.Import(s.imported, s.node.autoSeal())
	if err != nil {
		return nil, fmt.Errorf("the primary's keys: %w", err)
	}
	s.imported = nil
	return keys, nil
}

// switched keeps the seal of the generation that takes the running one's place: it needs no unsealing.
func (s *sealing) switched(keys *seal.Opened) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = keys
}
