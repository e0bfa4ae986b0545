package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/internal/client"
)

// Limits of what the command waits for.
const (
	failoverPoll  = 100 * time.Millisecond
	failoverReach = 5 * time.Second  // a cluster answers
	failoverStep  = 30 * time.Second // a change of role is done
	failoverJoin  = 10 * time.Minute // a former member is in line: that may mean a repair
)

// failoverSilence is how long a cluster is waited for without a word.
const failoverSilence = time.Second

// member is a cluster of the set as the command sees it.
type member struct {
	role string // of the flag that names it
	api  *client.Client
	kind string
	name string // cluster_name
	id   string // cluster_id of its health: its own

	say     func(format string, args ...any)
	hanging bool // that it does not answer was said
}

// sealedError says that a cluster answers, and is sealed.
type sealedError struct{ address string }

func (e *sealedError) Error() string { return e.address + " is sealed: unseal it first" }

// setStatus is what the command needs of a set's status.
type setStatus struct {
	Mode        string `json:"mode"`
	State       string `json:"state"`
	Reason      string `json:"reason"`
	Set         string `json:"cluster_id"`
	ID          string `json:"secondary_id"`
	LastWAL     uint64 `json:"last_wal"`
	Connection  string `json:"connection_state"`
	DiffBytes   uint64 `json:"diff_bytes"`
	SyncBytes   uint64 `json:"sync_bytes"`
	Verified    uint64 `json:"verified_index"`
	Secondaries []struct {
		ID        string `json:"node_id"`
		Connected string `json:"connection_status"`
		Lag       uint64 `json:"lag_entries"`
		Address   string `json:"api_address"`
	} `json:"secondaries"`
}

func (m *member) path(call string) string { return "sys/replication/" + m.kind + "/" + call }

// get asks once.
func (m *member) get(ctx context.Context, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, failoverReach)
	defer cancel()
	return m.do(ctx, http.MethodGet, path, nil, out)
}

// do makes a call, and says for what it waits when no answer comes; of a cluster that goes on hanging once.
func (m *member) do(ctx context.Context, method, path string, body, out any) error {
	answered := make(chan struct{})
	late := m.hanging
	var said sync.WaitGroup
	said.Go(func() {
		silence := time.NewTimer(failoverSilence)
		defer silence.Stop()
		select {
		case <-answered:
			return
		case <-ctx.Done():
			return
		case <-silence.C:
		}
		if late {
			return
		}
		late = true
		path, _, _ := strings.Cut(path, "?")
		limit := ""
		if end, ok := ctx.Deadline(); ok {
			limit = fmt.Sprintf(", for %v more at most", time.Until(end).Round(100*time.Millisecond))
		}
		m.say("waiting%s: %s does not answer (%s %s)", limit, m.api.Address, method, path)
	})
	err := m.api.Do(ctx, method, path, body, out)
	close(answered)
	said.Wait()
	m.hanging = late && err != nil
	return err
}

func (m *member) status(ctx context.Context) (*setStatus, error) {
	var answer struct {
		Data setStatus `json:"data"`
	}
	if err := m.get(ctx, m.path("status"), &answer); err != nil {
		return nil, fmt.Errorf("ask %s for its %s status: %w", m.api.Address, m.kind, err)
	}
	return &answer.Data, nil
}

// meet learns the cluster's name and how it stands.
func (m *member) meet(ctx context.Context) (*setStatus, error) {
	var health struct {
		Name   string `json:"cluster_name"`
		ID     string `json:"cluster_id"`
		Sealed bool   `json:"sealed"`
	}
	if err := m.get(ctx, healthPath, &health); err != nil {
		return nil, fmt.Errorf("ask %s for its health: %w", m.api.Address, err)
	}
	if health.Sealed {
		return nil, &sealedError{m.api.Address}
	}
	m.name, m.id = health.Name, health.ID
	return m.status(ctx)
}

// write makes a call that changes something. While a role changes a cluster answers 503, and every such call may be repeated.
func (m *member) write(ctx context.Context, limit time.Duration, path string, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := m.do(ctx, http.MethodPost, path, body, out)
		var refused *client.APIError
		if err == nil || errors.As(err, &refused) && refused.Status != http.StatusServiceUnavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(failoverPoll):
		}
	}
}

// await asks for the status until it is as wanted.
func (m *member) await(ctx context.Context, limit time.Duration, what string, ok func(*setStatus) bool) (*setStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		s, err := m.status(ctx)
		if err == nil && ok(s) {
			return s, nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("mode %s, state %s %s", s.Mode, s.State, s.Reason)
			}
			return nil, fmt.Errorf("waited %v in vain until %s %s: %w", limit, m.api.Address, what, err)
		case <-time.After(failoverPoll):
		}
	}
}

// promotion is the answer of promote/preflight.
type promotion struct {
	Ready     bool           `json:"ready"`
	Verdict   string         `json:"verdict"`
	Index     uint64         `json:"index"`
	Lag       uint64         `json:"lag_entries"`
	Contact   string         `json:"last_contact"`
	Connected bool           `json:"primary_connected"`
	Handed    bool           `json:"handed_over"`
	Lost      map[string]any `json:"lost_writes"`
	Does      []string       `json:"does"`
	Levels    map[string]any `json:"synchronous"`
	Others    []struct {
		ID    string `json:"node_id"`
		Index uint64 `json:"index"`
	} `json:"other_secondaries"`
}

func (m *member) preflight(ctx context.Context) (*promotion, error) {
	var answer struct {
		Data promotion `json:"data"`
	}
	if err := m.get(ctx, m.path("secondary/promote/preflight"), &answer); err != nil {
		return nil, fmt.Errorf("ask %s what a promotion would cost: %w", m.api.Address, err)
	}
	return &answer.Data, nil
}

// sayLost names the archives of what only the former primary had, and what in them took rights away: revocations are not repeated by anybody but an operator.
func (f *failover) sayLost(ctx context.Context) {
	d := &divergence{api: f.from.api, dr: f.kind == "dr"}
	if d.dr {
		asks := *f.from.api
		asks.Token = f.dr
		d.api = &asks
	}
	var list struct {
		Keys []string               `json:"keys"`
		Info map[string]archiveInfo `json:"key_info"`
	}
	if err := d.ask(ctx, http.MethodGet, "", nil, &list); err != nil {
		f.say("note: whether %s keeps an archive of lost writes could not be asked (%v): lockstep divergence list tells", f.from.name, err)
		return
	}
	for _, id := range list.Keys {
		a := list.Info[id]
		f.say("%s keeps archive %s of what only it had: lockstep divergence show, replay, discard", f.from.name, id)
		sayTightenings(f.c, &a)
		f.result.Archives, f.result.Repeat = append(f.result.Archives, id), append(f.result.Repeat, a.Repeat...)
	}
}
