package engine

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"github.com/lockstepdb/lockstep/wal"
)

// maxAhead bounds what is read before its turn: each frame counts as one, and as one for each mebibyte of it; one that is larger counts as all of it.
const maxAhead = 16

// ahead is a frame with what its replay needs: read, decoded, hashed, and its old records looked up, while those before it are applied.
type ahead struct {
	frame   *wal.Frame // nil: it could not be read
	entries []*prepared
	err     error
	done    chan struct{} // closed when entries, or err, is there
}

var errLogEnds = errors.New("the log ends too early")

func orEnd(err error) error {
	if err == nil {
		return errLogEnds
	}
	return err
}

func (a *ahead) readError() error {
	if a == nil {
		return errLogEnds
	}
	return orEnd(a.err)
}

func (a *ahead) weight() int { return int(min(1+a.frame.Length>>20, maxAhead)) }

// readAhead reads the log from an index up to end. next returns its frames in order, the last of them is one that could not be read, if so; nil after it, or
// once ctx has ended. stop ends the reading and waits for it.
func (e *Engine) readAhead(ctx context.Context, from, end uint64) (next func() *ahead, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	inOrder, work := make(chan *ahead, maxAhead), make(chan *ahead, maxAhead)
	room := make(chan struct{}, maxAhead)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(inOrder)
		defer close(work)
		rd := e.wal.Reader(from)
		for at := from - 1; at < end; {
			a := &ahead{done: make(chan struct{})}
			if a.frame, a.err = rd.TryNext(); a.err != nil {
				a.frame = nil
			}
			if a.frame == nil {
				close(a.done)
				hand(ctx, inOrder, a)
				return
			}
			at = a.frame.Last()
			for range a.weight() {
				if !hand(ctx, room, struct{}{}) {
					return
				}
			}
			if !hand(ctx, work, a) || !hand(ctx, inOrder, a) {
				return
			}
		}
	})
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for a := range work {
				a.prepare(e)
				close(a.done)
			}
		})
	}
	var last *ahead // given
	next = func() *ahead {
		if last != nil {
			for range last.weight() {
				<-room
			}
		}
		a := <-inOrder
		if a != nil {
			<-a.done
		}
		if last = a; a != nil && a.frame == nil {
			last = nil
		}
		return a
	}
	return next, func() {
		cancel()
		wg.Wait()
	}
}

func hand[T any](ctx context.Context, to chan<- T, a T) bool {
	select {
	case to <- a:
		return true
	case <-ctx.Done():
		return false
	}
}

// prepare does what needs no order. Old records are looked up in the file alone: what frames before it change, drop or attach is in memory when its turn comes, and
// a checkpoint makes another file. One that cannot be read is asked for again then, if it is needed.
func (a *ahead) prepare(e *Engine) {
	if a.entries, a.err = decodeFrame(a.frame); a.err != nil {
		return
	}
	for _, p := range a.entries {
		e.keys.digest(p)
		if p.lookup(e.state.OldInFile) != nil {
			p.olds = nil
		}
	}
}
