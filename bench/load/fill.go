package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Clients that fill, each in turns of requests that go out together, so that the server commits them in large groups.
const (
	fillers  = 64
	fillTurn = 16
)

// Fill writes records from, …, to-1, each once, as fast as the server takes them.
func Fill(ctx context.Context, target Target, p Put, from, to int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	next.Store(int64(from))
	var all sync.WaitGroup
	for i := range fillers {
		all.Go(func() {
			if err := fill(ctx, target, p, &next, to, uint64(i)); err != nil {
				cancel(fmt.Errorf("fill: %w", err))
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

func fill(ctx context.Context, target Target, p Put, next *atomic.Int64, to int, seed uint64) error {
	conn, err := Dial(target)
	if err != nil {
		return err
	}
	defer conn.Close()
	at := 0
	stride := max(1, p.Stride)
	p.Next = func() int { at++; return (at - 1) * stride }
	source := p.Source(rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), seed)))
	var turn []byte
	for ctx.Err() == nil {
		at = int(next.Add(fillTurn)) - fillTurn
		n := min(to-at, fillTurn)
		if n <= 0 {
			return nil
		}
		turn = turn[:0]
		for range n {
			turn = append(turn, source()...)
		}
		if err := conn.DoAll(turn, n); err != nil {
			return err
		}
	}
	return nil
}
