package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// promote measures how long writes are refused when a primary was killed: from the call that promotes its secondary
// until the first write is accepted there.
func (b *bench) promote(ctx context.Context) error {
	return b.measure(ctx, row{id: "promote", what: "from promote of a DR secondary, the primary killed, to the first accepted write", unit: "ms"},
		func(ctx context.Context) (report.Run, error) {
			pr, err := b.startPair(ctx, "promote", node.Options{Set: node.DR})
			if err != nil {
				return report.Run{}, err
			}
			defer func() { pr.remove() }()
			if err := pr.fill(ctx, min(b.keys, 50_000)); err != nil {
				return report.Run{}, err
			}
			token, err := pr.operationToken(ctx)
			if err != nil {
				return report.Run{}, err
			}
			if err := pr.secondary.WaitCaughtUp(ctx, pr.Node); err != nil {
				return report.Run{}, err
			}
			pr.Kill()
			b.watch(pr.secondary)
			run, err := pr.promoted(ctx, token)
			run.Servers = b.memory()
			return run, err
		})
}

// promoted promotes the secondary and writes until one write is accepted.
func (pr *pair) promoted(ctx context.Context, token string) (report.Run, error) {
	s := pr.secondary
	start := time.Now()
	if err := s.Must(ctx, http.MethodPost, "sys/replication/dr/secondary/promote", fmt.Sprintf(`{"dr_operation_token":%q,"force":true}`, token), nil); err != nil {
		return report.Run{}, err
	}
	answered := time.Since(start)
	s.Token = pr.token
	refused := 0.0
	err := node.Until(ctx, "the promoted secondary takes a write", time.Millisecond, func() (bool, error) {
		status, text, err := s.Do(ctx, http.MethodPut, "kv/after", `{"value":"x"}`)
		if err != nil {
			return false, err
		}
		if status < 300 {
			return true, nil
		}
		if refused++; status < 500 && status != http.StatusBadRequest {
			return false, fmt.Errorf("PUT on the promoted secondary: status %d: %s", status, text)
		}
		return false, nil
	})
	return report.Run{Value: ms(time.Since(start)), Extra: map[string]float64{"answer to promote, ms": ms(answered), "writes refused meanwhile": refused}}, err
}

// operationToken makes a batch token that may promote a DR secondary.
func (p *primary) operationToken(ctx context.Context) (string, error) {
	policy := `{"policy":"path \"sys/replication/dr/secondary/promote\" { capabilities = [\"update\", \"sudo\"] }"}`
	if err := p.Must(ctx, http.MethodPut, "sys/policies/acl/promote", policy, nil); err != nil {
		return "", err
	}
	var answer struct {
		Auth struct {
			ClientToken string `json:"client_token"`
		} `json:"auth"`
	}
	err := p.Must(ctx, http.MethodPost, "auth/token/create", `{"policies":["promote"],"type":"batch","ttl":"1h","no_parent":true}`, &answer)
	return answer.Auth.ClientToken, err
}
