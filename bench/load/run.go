package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Source gives a client the bytes of its next request; they are good until the next call.
type Source func() []byte

// Config says what one run does.
type Config struct {
	Target  Target
	Dial    func() (Client, error) // nil: a connection to Target, over HTTP
	Clients int
	Warmup  time.Duration // before anything counts
	Length  time.Duration // what is measured
	Rate    float64       // requests a second of all clients; 0: as many as are answered
	New     func(client int, rng *rand.Rand) Source
	Seed    uint64
	Begin   func() // called when measuring begins, and
	End     func() // when it ends; both may be nil
}

// Client is one client of a server that may speak something else than HTTP.
type Client interface {
	// Do sends what Source made and waits for the answer, which must be a success.
	Do(request []byte) error
	// SetDeadline ends a Do that waits at that time.
	SetDeadline(time.Time) error
	Close() error
}

// Result is what a run measured: requests that were sent and answered within its length.
type Result struct {
	Count   uint64
	Elapsed time.Duration
	Latency Histogram
}

// PerSecond returns the rate of requests.
func (r *Result) PerSecond() float64 { return float64(r.Count) / r.Elapsed.Seconds() }

// Run connects all clients, lets them work and returns when all have ended.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	conns, err := dialAll(cfg)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A client that waits for an answer is woken by the end of its connection.
	stop := context.AfterFunc(ctx, func() {
		for _, c := range conns {
			_ = c.SetDeadline(time.Now())
		}
	})
	defer stop()

	begin := time.Now().Add(cfg.Warmup)
	end := begin.Add(cfg.Length)
	latencies := make([]Histogram, len(conns))
	var all sync.WaitGroup
	for i, conn := range conns {
		_ = conn.SetDeadline(end.Add(patience))
		rng := rand.New(rand.NewPCG(cfg.Seed, uint64(i)))
		w := worker{conn: conn, next: cfg.New(i, rng), pace: pace(cfg), begin: begin, end: end, latency: &latencies[i]}
		all.Go(func() {
			if err := w.run(ctx); err != nil {
				cancel(fmt.Errorf("client %d: %w", i, err))
			}
		})
	}
	all.Go(func() { observe(ctx, cfg, begin, end) })
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	r := &Result{Elapsed: cfg.Length}
	for i := range latencies {
		r.Latency.Add(&latencies[i])
	}
	if r.Count = r.Latency.Count(); r.Count == 0 {
		return nil, errors.New("nothing was answered within the run: make it longer")
	}
	return r, nil
}

func dialAll(cfg Config) ([]Client, error) {
	dial := cfg.Dial
	if dial == nil {
		dial = func() (Client, error) { return Dial(cfg.Target) }
	}
	var conns []Client
	for range cfg.Clients {
		c, err := dial()
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

// observe calls Begin and End at their moments.
func observe(ctx context.Context, cfg Config, begin, end time.Time) {
	for _, at := range []struct {
		when time.Time
		do   func()
	}{{begin, cfg.Begin}, {end, cfg.End}} {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(at.when)):
		}
		if at.do != nil {
			at.do()
		}
	}
}

// pace returns the time between two requests of one client, 0 for none.
func pace(cfg Config) time.Duration {
	if cfg.Rate <= 0 {
		return 0
	}
	return time.Duration(float64(cfg.Clients) / cfg.Rate * float64(time.Second))
}

// worker is one client at work.
type worker struct {
	conn       Client
	next       Source
	pace       time.Duration
	begin, end time.Time
	latency    *Histogram
}

func (w *worker) run(ctx context.Context) error {
	due := time.Now()
	if w.pace > 0 {
		due = due.Add(rand.N(w.pace)) // the clients do not send in step
	}
	for ctx.Err() == nil {
		if w.pace > 0 {
			if wait := time.Until(due); wait > 0 {
				time.Sleep(wait)
			}
			due = due.Add(w.pace)
		}
		request := w.next()
		sent := time.Now()
		if sent.After(w.end) {
			return nil
		}
		if err := w.conn.Do(request); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return nil // another failed first, and this one was woken
			}
			return err
		}
		if answered := time.Now(); !sent.Before(w.begin) && !answered.After(w.end) {
			w.latency.Record(answered.Sub(sent))
		}
	}
	return nil
}
