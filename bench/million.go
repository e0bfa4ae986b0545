package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/lockstepdb/lockstep/bench/machine"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// Rows of a primary that holds many records of 1 KiB: a million, unless -records says otherwise.
var millionRows = []string{"bootstrap", "restart", "reindex"}

const seconds = "s"

func (b *bench) million(ctx context.Context) error {
	if err := b.needs(4 * int64(b.records) * valueSize * 2); err != nil {
		return err
	}
	p, err := b.startPrimary(ctx, "million", node.Options{})
	if err != nil {
		return err
	}
	defer p.remove()
	if err := p.EnablePrimary(ctx); err != nil {
		return err
	}
	if err := p.fill(ctx, 0, b.records); err != nil {
		return err
	}
	if err := b.bootstrap(ctx, p); err != nil {
		return err
	}
	b.watch(p.Node)
	if err := b.reindex(ctx, p); err != nil {
		return err
	}
	return b.restart(ctx, p)
}

// needs refuses a scenario for which there is no room on the disk.
func (b *bench) needs(bytes int64) error {
	free, err := machine.Free(b.dir)
	if err != nil {
		return err
	}
	if const10 := bytes / 10; free < bytes+const10 {
		return fmt.Errorf("needs %d MB of disk below %s, of which %d MB are free: name another directory with -dir", bytes/1e6, b.dir, free/1e6)
	}
	return nil
}

// bootstrap measures the first filling of a secondary: from the call that enrols it until it streams and its root is the
// primary's.
func (b *bench) bootstrap(ctx context.Context, p *primary) error {
	n := 0
	return b.measure(ctx, row{id: "bootstrap", what: fmt.Sprintf("first filling of a secondary with %d records, until streaming and verified", b.records), unit: seconds},
		func(ctx context.Context) (report.Run, error) {
			n++
			s, err := b.newServer(ctx, p, fmt.Sprintf("filled-%d", n), node.Options{})
			if err != nil {
				return report.Run{}, err
			}
			defer s.Remove()
			b.watch(p.Node, s)
			start := time.Now()
			if err := s.Enrol(ctx, p.Node); err != nil {
				return report.Run{}, err
			}
			if err := s.WaitCaughtUp(ctx, p.Node); err != nil {
				return report.Run{}, err
			}
			took := time.Since(start).Seconds()
			status, err := s.Status(ctx)
			if err != nil {
				return report.Run{}, err
			}
			run := report.Run{Value: took, Servers: b.memory(), Extra: map[string]float64{
				"records/s": float64(b.records) / took, "MB on the wire": float64(status.SyncBytes+status.DiffBytes) / 1e6,
			}}
			run.Servers[1].Name = "secondary"
			return run, p.revoke(ctx, s.Name)
		})
}

// newServer starts an empty server beside a primary.
func (b *bench) newServer(ctx context.Context, p *primary, name string, o node.Options) (*node.Node, error) {
	o.Binary, o.Dir, o.Name = b.binary, p.dir, name
	s, err := node.New(o)
	if err != nil {
		return nil, err
	}
	if err = s.Start(ctx); err == nil {
		err = s.Init(ctx)
	}
	if err != nil {
		s.Remove()
		return nil, err
	}
	return s, nil
}

// revoke lets a primary forget a secondary, so that it holds no log for it.
func (p *primary) revoke(ctx context.Context, id string) error {
	return p.Must(ctx, http.MethodPost, "sys/replication/"+p.Set()+"/primary/revoke-secondary", fmt.Sprintf(`{"id":%q}`, id), nil)
}

// reindex measures how long it takes to rebuild the index from the records, while nothing else happens.
func (b *bench) reindex(ctx context.Context, p *primary) error {
	return b.measure(ctx, row{id: "reindex", what: fmt.Sprintf("index of %d records rebuilt, idle", b.records), unit: seconds},
		func(ctx context.Context) (report.Run, error) {
			start := time.Now()
			if err := p.Must(ctx, http.MethodPost, "sys/replication/reindex", "{}", nil); err != nil {
				return report.Run{}, err
			}
			err := node.Until(ctx, "the index is rebuilt", 5*time.Millisecond, func() (bool, error) {
				var answer struct {
					Data struct {
						Running bool `json:"reindex_in_progress"`
					} `json:"data"`
				}
				err := p.Must(ctx, http.MethodGet, "sys/replication/status", "", &answer)
				return err == nil && !answer.Data.Running, err
			})
			took := time.Since(start).Seconds()
			return report.Run{Value: took, Extra: map[string]float64{"records/s": float64(b.records) / took}}, err
		})
}
