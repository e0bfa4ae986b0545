package demo

import (
	"context"
	"fmt"
	"time"
)

const (
	mountPath  = "stdlib"
	tokenTTL   = "10m"
	enrolLimit = 60 * time.Second
)

// enrol makes the primary a primary of one set and the secondary its
// secondary, as an operator would.
func enrol(ctx context.Context, primary, secondary *node) error {
	set := "sys/replication/" + secondary.kind
	if err := primary.api.Do(ctx, "POST", set+"/primary/enable", map[string]any{}, nil); err != nil {
		return fmt.Errorf("enable %s replication on the primary: %w", secondary.kind, err)
	}
	if err := eventually(ctx, enrolLimit, "the primary runs its "+secondary.kind+" set", func(ctx context.Context) error {
		return inState(ctx, primary, secondary.kind, "primary", "running")
	}); err != nil {
		return err
	}
	var token struct {
		WrapInfo struct {
			Token string `json:"token"`
		} `json:"wrap_info"`
	}
	ask := map[string]any{"id": secondary.kind + "-1", "ttl": tokenTTL}
	if err := primary.api.Do(ctx, "POST", set+"/primary/secondary-token", ask, &token); err != nil {
		return fmt.Errorf("get an activation token for %s: %w", secondary.name, err)
	}
	if err := secondary.api.Do(ctx, "POST", set+"/secondary/enable", map[string]any{"token": token.WrapInfo.Token}, nil); err != nil {
		return fmt.Errorf("enable %s: %w", secondary.name, err)
	}
	return eventually(ctx, enrolLimit, secondary.name+" streams", func(ctx context.Context) error {
		return inState(ctx, secondary, secondary.kind, "secondary", "stream-wals")
	})
}

func inState(ctx context.Context, n *node, set, mode, state string) error {
	s, err := n.status(ctx, set)
	if err != nil {
		return err
	}
	if s.Mode != mode || s.State != state {
		return fmt.Errorf("%s is %s, %s", n.name, s.Mode, s.State)
	}
	return nil
}

// mount makes a KV version 1 mount for the data set.
func mount(ctx context.Context, primary *node) error {
	body := map[string]any{"type": "kv", "options": map[string]string{"version": "1"}}
	if err := primary.api.Do(ctx, "POST", "sys/mounts/"+mountPath, body, nil); err != nil {
		return fmt.Errorf("mount %s/ on the primary: %w", mountPath, err)
	}
	return nil
}
