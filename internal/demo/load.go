package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	clients    = 8
	writeLimit = 30 * time.Second // for one record, refusals and repeats included
)

// list is what was acknowledged: kept by the demo, outside of what it judges.
type list struct {
	mu      sync.Mutex
	records []Record
	length  atomic.Int64
}

func (l *list) add(r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r)
	l.length.Store(int64(len(l.records)))
}

func (l *list) len() int { return int(l.length.Load()) }

func (l *list) all() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records
}

// save writes the list as `lockstep check -against` reads it.
func (l *list) save(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("save the list: %w", err)
	}
	err = l.encode(f)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("save the list %s: %w", file, err)
	}
	return nil
}

func (l *list) encode(w io.Writer) error {
	enc := json.NewEncoder(w)
	for _, r := range l.all() {
		if err := enc.Encode(map[string]any{"path": mountPath + "/" + r.Key, "value": r.Value}); err != nil {
			return err
		}
	}
	return nil
}

// write writes all records to the primary with several clients and returns
// when each was acknowledged, or with the first that never was.
func write(ctx context.Context, primary *node, records []Record, acknowledged *list) error {
	return each(ctx, records, func(ctx context.Context, r Record) error {
		err := eventually(ctx, writeLimit, "the primary takes "+r.Key, func(ctx context.Context) error {
			return primary.api.Do(ctx, "PUT", mountPath+"/"+r.Key, r.Value, nil)
		})
		if err == nil {
			acknowledged.add(r)
		}
		return err
	})
}

// read looks every record up on a node, and returns how many are missing or
// have another value, with the first of them.
func read(ctx context.Context, n *node, records []Record) (wrong int, first string, err error) {
	var mu sync.Mutex
	err = each(ctx, records, func(ctx context.Context, r Record) error {
		var answer struct {
			Data Value `json:"data"`
		}
		err := n.api.Do(ctx, "GET", mountPath+"/"+r.Key, nil, &answer)
		if err == nil && answer.Data == r.Value {
			return nil
		}
		what := r.Key + " has another value"
		if err != nil {
			what = r.Key + ": " + err.Error()
		}
		mu.Lock()
		defer mu.Unlock()
		if wrong++; first == "" {
			first = what
		}
		return nil
	})
	return wrong, first, err
}

// each calls do for every record, several at once, until all are done or one fails.
func each(ctx context.Context, records []Record, do func(context.Context, Record) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var running sync.WaitGroup
	for range clients {
		running.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(records) {
					return
				}
				if err := do(ctx, records[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}
