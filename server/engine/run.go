package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// lifecycle is whether the engine runs, and why it ended.
type lifecycle struct {
	mu      sync.Mutex // guards running and err
	running bool
	err     error         // the failure that ended it
	failed  chan struct{} // closed by the first failure
	cancel  func()        // ends what runs beside the commits, at the first failure
	ended   chan struct{} // closed when nothing is sequenced any more
	endOnce sync.Once
}

// fail ends the engine; the first failure counts.
func (l *lifecycle) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.failed)
		if l.cancel != nil {
			l.cancel()
		}
	}
}

func (l *lifecycle) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// over reports whether nothing is sequenced any more, or a commit failed.
func (l *lifecycle) over() bool {
	select {
	case <-l.ended:
		return true
	case <-l.failed:
		return true
	default:
		return false
	}
}

// refusal is what is answered to whom the engine can no longer serve.
func (l *lifecycle) refusal() error {
	if err := l.failure(); err != nil {
		return fmt.Errorf("%w: %w", ErrPoisoned, err)
	}
	return ErrStopped
}

func (l *lifecycle) begin(cancel func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running {
		return errors.New("internal error: an engine runs once")
	}
	l.running, l.cancel = true, cancel
	return nil
}

func (l *lifecycle) end() { l.endOnce.Do(func() { close(l.ended) }) }

// Run runs sequencer, committer and checkpointer until ctx ends, then drains and makes a last
// checkpoint; a failed commit ends it at once with an error that names the file. Everything else here may be called before and during Run.
func (e *Engine) Run(ctx context.Context) error {
	// A last checkpoint is made after ctx has ended: only a failure ends it.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if err := e.life.begin(cancel); err != nil {
		return err
	}
	var wg sync.WaitGroup
	sequenced, committed := make(chan struct{}), make(chan struct{})
	wg.Go(func() {
		defer close(sequenced)
		defer e.life.end()
		e.seq.run(ctx)
	})
	wg.Go(func() {
		defer close(committed)
		e.com.run(sequenced)
	})
	wg.Go(func() { e.checkpoints(work, committed) })
	wg.Wait()
	return e.life.failure()
}

// Close closes the files; call it after Run has returned.
func (e *Engine) Close() error {
	e.closeOnce.Do(func() {
		e.life.end()
		e.closeErr = errors.Join(e.sync.closeSpool(), e.state.Close(), e.wal.Close())
	})
	return e.closeErr
}
