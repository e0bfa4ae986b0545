package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/vault"
)

// devKeyName is the key file of a development server, in its data directory.
const devKeyName = "dev-seal.key"

// sealing is the node's seal while no store is open, and what hands its keys to the next core. It implements
// vault.SealedNode and replication's Seal.
type sealing struct {
	node *node

	mu         sync.Mutex
	gen        *Generation  // nil: not initialised
	record     *seal.Record // of gen
	ceremony   *seal.Ceremony
	byOperator bool         // sys/seal: the auto key waits for the next start of the process
	opened     *seal.Opened // of the core that runs; nil while sealed
	next       *seal.Opened // of the generation that takes its place
	imported   []byte       // what a primary gave for that; secret
	handing    bool         // shares opened the seal, and a core is to take the keys

	initialising sync.Mutex // one sys/init at a time

	deliver chan *unsealing // unbuffered: to runCores
}

// unsealing is keys on their way to a core.
type unsealing struct {
	gen  *Generation
	keys *seal.Opened
	done chan error // one slot: nil once the core answers requests
}

func newSealing(n *node) *sealing { return &sealing{node: n, deliver: make(chan *unsealing)} }

// await finds the live generation and waits until its seal is open; nil when ctx ended first.
func (s *sealing) await(ctx context.Context) (*unsealing, error) {
	gen, err := s.node.liveGeneration()
	if err != nil {
		return nil, err
	}
	if gen == nil && s.node.cfg.Dev != nil {
		if gen, err = s.devGeneration(); err != nil {
			return nil, err
		}
	}
	u, err := s.look(gen)
	if u != nil || err != nil {
		return u, err
	}
	s.tell()
	select {
	case u := <-s.deliver:
		return u, nil
	case <-ctx.Done():
		return nil, nil
	}
}

// look takes up a generation, and opens its seal when that needs nobody.
func (s *sealing) look(gen *Generation) (*unsealing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen == nil || gen == nil || s.gen.Name != gen.Name {
		s.ceremony = nil // shares given while the last core was closing count, if they are for this store
	}
	s.gen, s.record, s.opened = gen, nil, nil
	if gen == nil {
		return nil, nil
	}
	var err error
	if err := refusePlain(gen); err != nil {
		return nil, err
	}
	if s.record, err = seal.Read(gen.Dir); err != nil {
		return nil, err
	}
	keys := s.next
	s.next = nil
	if keys == nil && s.record.Type != seal.Shamir && !s.byOperator {
		keys = s.openAutoLocked()
	}
	if keys == nil {
		return nil, nil
	}
	return s.deliveryLocked(keys), nil
}

// openAutoLocked opens the seal with its auto key. When that fails the node stays sealed, and recovery shares open it.
func (s *sealing) openAutoLocked() *seal.Opened {
	auto := s.node.autoSeal()
	if auto == nil {
		s.node.log.Error("the store is sealed with a key file or variable, and the configuration names none: add the seal stanza, or unseal with recovery shares",
			"type", s.record.Type, "source", s.record.Source)
		return nil
	}
	keys, err := s.record.UnlockAuto(s.gen.Dir, auto)
	if err != nil {
		s.node.log.Error("the store could not be unsealed by itself and stays sealed", "error", err)
		return nil
	}
	return keys
}

func (s *sealing) deliveryLocked(keys *seal.Opened) *unsealing {
	return &unsealing{gen: s.gen, keys: keys, done: make(chan error, 1)}
}

// tell logs what is waited for.
func (s *sealing) tell() {
	st := s.SealState()
	switch {
	case !st.Initialized:
		s.node.log.Info("not initialised: call PUT /v1/sys/init (vault operator init)")
		if auto := s.node.autoSeal(); auto != nil && s.node.cfg.Dev == nil {
			if _, err := auto.Key(); err != nil {
				s.node.log.Error("the seal's key cannot be read: sys/init fails until it can", "error", err)
			}
		}
	default:
		s.node.log.Info("sealed: unseal with shares (vault operator unseal)", "threshold", st.Threshold, "shares", st.Shares)
	}
	// Not before: until the data directory was read nobody may be told that the cluster is not initialised.
	s.node.gate.shut(s.node.sealedWaiting())
	s.node.announce() // it answers: what starts it need not wait for people
}

// running says which seal the core that answers requests has.
func (s *sealing) running(keys *seal.Opened) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened, s.byOperator = keys, false
}

// current returns the seal of the core that runs.
func (s *sealing) current() *seal.Opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// autoSeal is where the auto key comes from; nil when shares unseal.
func (n *node) autoSeal() *seal.Auto {
	if n.cfg.Seal != nil {
		return n.cfg.Seal
	}
	if n.cfg.Dev != nil {
		return &seal.Auto{Type: seal.File, Path: n.devKeyFile()}
	}
	return nil
}

// devKeyFile is an absolute path: tools find it by what the seal file says, wherever they run.
func (n *node) devKeyFile() string {
	path := filepath.Join(n.cfg.DataDir, devKeyName)
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// devGeneration makes the first store of a development server: it has one recovery key, which is its key file's.
func (s *sealing) devGeneration() (*Generation, error) {
	auto := s.node.autoSeal()
	if s.node.cfg.Seal == nil {
		_, made, err := seal.MakeKeyFile(auto.Path)
		if err != nil {
			return nil, err
		}
		if made {
			s.node.log.Warn("development: the key that unseals the store lies beside it", "file", auto.Path)
		}
	}
	key, err := auto.Key()
	if err != nil {
		return nil, err
	}
	keys, _, err := seal.New(seal.Options{Config: seal.Config{Shares: 1, Threshold: 1}, Auto: auto, Share: &key}, time.Now())
	if err != nil {
		return nil, err
	}
	gen, err := s.node.dir.Prepare(engine.Identity{ClusterName: s.node.cfg.ClusterName}, engine.Writer, false, nil, keys, nil)
	if err != nil {
		return nil, err
	}
	return gen, s.node.dir.Adopt(gen)
}

// ---- vault.SealedNode

// Auto implements vault.SealedNode.
func (s *sealing) Auto() bool { return s.node.autoSeal() != nil }

// SealState implements vault.SealedNode.
func (s *sealing) SealState() vault.SealState {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := vault.SealState{Type: seal.Shamir, Sealed: s.opened == nil}
	if auto := s.node.autoSeal(); auto != nil {
		st.Type = auto.Type
	}
	if s.record != nil {
		st.Initialized = true
		st.Type, st.Shares, st.Threshold = s.record.Type, s.record.Shares, s.record.Threshold
	}
	if s.ceremony != nil && s.ceremony.Progress() > 0 {
		st.Progress, st.Nonce = s.ceremony.Progress(), s.ceremony.Nonce
	}
	return st
}

// ResetUnseal implements vault.SealedNode.
func (s *sealing) ResetUnseal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ceremony != nil {
		s.ceremony.Reset()
		s.ceremony = nil
	}
}

// Unseal implements vault.SealedNode.
func (s *sealing) Unseal(ctx context.Context, share []byte) error {
	u, err := s.add(share)
	if u == nil {
		return err
	}
	defer s.handed()
	return s.hand(ctx, u)
}

// add takes a share; with the last one it opens the seal.
func (s *sealing) add(share []byte) (*unsealing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.record == nil || s.opened != nil || s.handing {
		return nil, nil
	}
	if s.ceremony == nil {
		s.ceremony = seal.NewCeremony(s.record.Threshold)
	}
	key, ok, err := s.ceremony.Add(share)
	switch {
	case errors.Is(err, seal.ErrRepeated):
		return nil, nil // as in Vault: the progress tells
	case err != nil || !ok:
		if err != nil {
			s.node.log.Warn("unsealing failed", "error", err)
		}
		return nil, err
	}
	s.ceremony = nil
	keys, err := s.record.Unlock(s.gen.Dir, key)
	if err != nil {
		s.node.log.Warn("unsealing failed", "error", err)
		return nil, err
	}
	s.handing = true
	return s.deliveryLocked(keys), nil
}

func (s *sealing) handed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handing = false
}

// hand gives keys to the next core and waits until it answers requests.
func (s *sealing) hand(ctx context.Context, u *unsealing) error {
	select {
	case s.deliver <- u:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-u.done:
		if err != nil {
			return fmt.Errorf("the seal is open, but the store could not be opened: %w", err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sealed forgets the keys, by an operator's word.
func (s *sealing) sealed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened != nil { // a rotate or rekey since the start: shares given from now on are judged by what the file holds
		record := s.opened.Record()
		s.record = &record
	}
	s.byOperator, s.opened, s.ceremony = true, nil, nil
}

// refusePlain says of a generation without a seal file that it was made before there was one.
func refusePlain(gen *Generation) error {
	if _, err := os.Stat(filepath.Join(gen.Dir, seal.FileName)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no seal file: it was written by a version that did not encrypt, or its %s is lost; restore the file, or begin with an empty data directory",
			gen.Dir, seal.FileName)
	}
	return nil
}
