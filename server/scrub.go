package server

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/vault"
	"github.com/lockstepdb/lockstep/storage"
)

// Scrub says how often state and log are read again, and how fast.
type Scrub struct {
	Interval       time.Duration // from the beginning of one pass to that of the next; 0: never
	BytesPerSecond int64         // at most
}

const (
	defaultScrubInterval = 24 * time.Hour
	defaultScrubBytes    = 8 << 20
	scrubStepBytes       = 256 << 10        // read at a time
	scrubRest            = 4                // a step that took long, because the disk is busy, is followed by so many times its length of rest
	scrubYield           = 30 * time.Second // the longest that a step waits for a checkpoint
	scrubStart           = time.Minute      // after the start of the store's service: it has enough to do then
	scrubKeep            = time.Minute      // how often its place is kept: after a crash so much is read again
	scrubSkip            = 10 * time.Second // until a step that could not be taken is tried again
	scrubListed          = 100              // places that are kept of a pass
)

// scrubber reads a store again, a little at a time.
type scrubber struct {
	engine *engine.Engine
	cfg    Scrub
	log    hclog.Logger
	now    func() time.Time
	// repaired tells whether damage is mended from a primary by itself.
	repaired func() bool

	mu    sync.Mutex // guards what follows
	state scrubState
	found uint64 // since the start of this store's service
	kept  time.Time
}

// scrubState is what is kept over restarts.
type scrubState struct {
	Format int               `json:"format"`
	Began  time.Time         `json:"began,omitzero"` // of the pass under way, or of the last; zero: none yet
	Done   bool              `json:"done"`           // no pass is under way
	Place  engine.ScrubPlace `json:"place"`
	Pass   scrubPass         `json:"pass"` // under way
	Last   scrubPass         `json:"last"` // the last that ended
}

// scrubPass is what one pass read and found.
type scrubPass struct {
	Ended   time.Time          `json:"ended,omitzero"`
	Records uint64             `json:"records"`
	Entries uint64             `json:"entries"`
	Bytes   int64              `json:"bytes"`
	Found   uint64             `json:"found"`
	Places  []vault.ScrubPlace `json:"places,omitempty"`
}

const scrubFormat = 1

func newScrubber(e *engine.Engine, cfg Scrub, log hclog.Logger, repaired func() bool) *scrubber {
	s := &scrubber{engine: e, cfg: cfg, log: log.Named("scrub"), now: time.Now, repaired: repaired}
	s.state = scrubState{Format: scrubFormat, Done: true}
	if b := e.ScrubNote(); b != nil {
		var kept scrubState
		if err := json.Unmarshal(b, &kept); err == nil && kept.Format == scrubFormat {
			s.state = kept
		} else { // it is only a place: nothing is lost by beginning anew
			s.log.Warn("how far the last scrub came cannot be read; it begins anew", "error", err)
		}
	}
	return s
}

// run reads until ctx ends.
func (s *scrubber) run(ctx context.Context) error {
	if s.cfg.Interval <= 0 {
		<-ctx.Done()
		return nil
	}
	for wait := min(scrubStart, s.cfg.Interval/60); pause(ctx, wait); {
		wait = s.next(ctx)
	}
	s.keep()
	return nil
}

// pause waits; it reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// next takes a step, or begins or ends a pass, and returns how long to rest.
func (s *scrubber) next(ctx context.Context) time.Duration {
	s.mu.Lock()
	st := &s.state
	if st.Done {
		if left := st.Began.Add(s.cfg.Interval).Sub(s.now()); !st.Began.IsZero() && left > 0 {
			s.mu.Unlock()
			return min(left, time.Hour) // clocks jump
		}
		st.Began, st.Done, st.Place, st.Pass = s.now().UTC().Truncate(time.Second), false, engine.ScrubPlace{}, scrubPass{}
	}
	from := st.Place
	s.mu.Unlock()

	s.yield(ctx)
	began := s.now()
	step, err := s.engine.Scrub(ctx, from, min(scrubStepBytes, max(s.cfg.BytesPerSecond, 1)))
	took := s.now().Sub(began)
	switch {
	case ctx.Err() != nil:
		return 0
	case err != nil:
		if !errors.Is(err, storage.ErrClosed) && !errors.Is(err, engine.ErrPoisoned) {
			s.log.Error("the scrub cannot read the store; it tries again", "error", err)
		}
		return time.Minute
	case step.Skipped != "":
		return scrubSkip
	}
	s.took(&step)
	return max(time.Duration(float64(step.Bytes)/float64(s.cfg.BytesPerSecond)*float64(time.Second)), scrubRest*took)
}

// yield waits while a checkpoint is written.
func (s *scrubber) yield(ctx context.Context) {
	for end := s.now().Add(scrubYield); s.engine.Checkpointing() && s.now().Before(end); {
		if !pause(ctx, 50*time.Millisecond) {
			return
		}
	}
}

// took counts a step, and tells what it found.
func (s *scrubber) took(step *engine.ScrubStep) {
	s.mu.Lock()
	st := &s.state
	st.Place = step.Next
	p := &st.Pass
	p.Records, p.Entries, p.Bytes = p.Records+step.Records, p.Entries+step.Entries, p.Bytes+step.Bytes
	p.Found += uint64(len(step.Damage))
	s.found += uint64(len(step.Damage))
	for i := range step.Damage {
		if len(p.Places) < scrubListed {
			p.Places = append(p.Places, s.describe(&step.Damage[i]))
		}
	}
	if step.Done {
		p.Ended, st.Done = s.now().UTC().Truncate(time.Second), true
		st.Last, st.Pass = *p, scrubPass{}
		st.Place = engine.ScrubPlace{}
		s.log.Info("a scrub has ended", "records", st.Last.Records, "entries", st.Last.Entries, "bytes", st.Last.Bytes, "found", st.Last.Found, "began", st.Began)
	}
	due := step.Done || len(step.Damage) > 0 || s.now().Sub(s.kept) >= scrubKeep
	s.mu.Unlock()
	for i := range step.Damage {
		s.tell(&step.Damage[i])
	}
	if due {
		s.keep()
	}
}

// What is to be done about damage.
const (
	todoSecondary = "nothing: it is repaired from the primary"
	todoRecords   = "read it on a secondary or from a snapshot and write it again; then run lockstep check with the server stopped. See docs/runbooks/restore.md"
	todoLog       = "secondaries that need this part of the log are repaired by comparing; take a snapshot now, and see docs/runbooks/restore.md before the next restart"
)

func (s *scrubber) describe(d *engine.ScrubDamage) vault.ScrubPlace {
	p := vault.ScrubPlace{File: d.File, What: d.What, ToDo: s.todo(d)}
	if d.Log {
		p.Index = d.Index
		return p
	}
	p.Keyspace, p.From, p.To = d.Keyspace.String(), string(d.Low), string(d.High)
	return p
}

func (s *scrubber) todo(d *engine.ScrubDamage) string {
	switch {
	case s.repaired():
		return todoSecondary
	case d.Log:
		return todoLog
	}
	return todoRecords
}

// tell writes one line. Names of records are in it, values never.
func (s *scrubber) tell(d *engine.ScrubDamage) {
	where := []any{"file", d.File}
	if d.Log {
		where = append(where, "index", d.Index)
	} else {
		where = append(where, "keyspace", d.Keyspace, "from", string(d.Low), "to", string(d.High))
	}
	s.log.Error("the scrub found damage", append(where, "error", d.What, "to_do", s.todo(d))...)
}

// keep makes durable how far the scrub is.
func (s *scrubber) keep() {
	s.mu.Lock()
	b, err := json.Marshal(&s.state)
	s.kept = s.now()
	s.mu.Unlock()
	if err == nil {
		err = s.engine.SetScrubNote(b)
	}
	if err != nil && !errors.Is(err, engine.ErrPoisoned) && !errors.Is(err, engine.ErrStopped) {
		s.log.Warn("how far the scrub is could not be kept: it reads again from where that was done last", "error", err)
	}
}

// status is what the API shows.
func (s *scrubber) status() vault.ScrubStatus {
	stats := s.engine.Stats()
	totals, _ := s.engine.Totals()
	of := stats.LogLast + 1 - stats.LogFirst
	for i := range totals {
		of += totals[i].Count
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.state
	out := vault.ScrubStatus{
		Enabled: s.cfg.Interval > 0, Running: s.cfg.Interval > 0 && !st.Done, Found: s.found, Records: st.Last.Records, Entries: st.Last.Entries, Bytes: st.Last.Bytes,
		LastFound: st.Last.Found, LastEnded: st.Last.Ended, Places: append(append([]vault.ScrubPlace{}, st.Last.Places...), st.Pass.Places...),
	}
	if !st.Done {
		out.Began, out.ReadNow = st.Began, st.Pass.Bytes
		if of > 0 {
			out.Progress = min(float64(st.Pass.Records+st.Pass.Entries)/float64(of), 1)
		}
	}
	return out
}
