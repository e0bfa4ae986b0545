package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// postgresql is written to by its own pgbench: prepared upserts over its binary protocol.
type postgresql struct{}

func pgProgram(name string) (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return "", fmt.Errorf("%s is not installed", name)
	}
	return found[len(found)-1], nil
}

func psql(ctx context.Context, s *service, statement string) (string, error) {
	program, err := pgProgram("psql")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, program, "-h", "127.0.0.1", "-p", fmt.Sprint(s.port), "-U", "postgres", "-AtqX", "-c", statement).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (postgresql) ready(ctx context.Context, _ *peer, s *service) error {
	return node.Until(ctx, "postgresql answers", 50*time.Millisecond, func() (bool, error) {
		_, err := psql(ctx, s, "SELECT 1")
		return err == nil, nil
	})
}

func (d postgresql) setup(ctx context.Context, p *peer) error {
	if _, err := psql(ctx, p.primary, "CREATE TABLE kv (k int PRIMARY KEY, v text)"); err != nil {
		return err
	}
	_, err := d.showsAll(ctx, p)
	return err
}

var pgRate = regexp.MustCompile(`tps = ([0-9.]+) \(without initial connection time\)`)

func (postgresql) run(ctx context.Context, b *bench, p *peer, clients int) (report.Run, error) {
	program, err := pgProgram("pgbench")
	if err != nil {
		return report.Run{}, err
	}
	dir, err := os.MkdirTemp(p.dir, "pgbench-")
	if err != nil {
		return report.Run{}, err
	}
	defer os.RemoveAll(dir)
	value := load.Text(rand.New(rand.NewPCG(1, 1)), valueSize)
	script := fmt.Sprintf("\\set k random(0, %d)\nINSERT INTO kv VALUES (:k, '%s') ON CONFLICT (k) DO UPDATE SET v = excluded.v;\n", b.keys-1, value)
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte(script), 0o600); err != nil {
		return report.Run{}, err
	}
	length := fmt.Sprint(math.Ceil((b.warmup + b.length).Seconds()))
	before := childrenCPU()
	cmd := exec.CommandContext(ctx, program, "-h", "127.0.0.1", "-p", fmt.Sprint(p.primary.port), "-U", "postgres", "-n", "-M", "prepared",
		"-c", fmt.Sprint(clients), "-j", fmt.Sprint(min(clients, 2)), "-T", length, "-f", "script", "-l", "--log-prefix=latency", "postgres")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return report.Run{}, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	found := pgRate.FindSubmatch(out)
	if found == nil || !strings.Contains(string(out), "number of failed transactions: 0 ") {
		return report.Run{}, fmt.Errorf("pgbench says neither a rate nor that nothing failed: %s", out)
	}
	latency, err := pgLatencies(dir)
	if err != nil {
		return report.Run{}, err
	}
	run := latencies(latency)
	run.Driver = (childrenCPU() - before) / float64(latency.Count()) * 1000
	run.Value, err = strconv.ParseFloat(string(found[1]), 64)
	return run, err
}

// pgLatencies reads pgbench's log: client, transaction, microseconds, script, time.
func pgLatencies(dir string) (*load.Histogram, error) {
	files, _ := filepath.Glob(filepath.Join(dir, "latency.*"))
	var h load.Histogram
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 3 {
				continue
			}
			us, err := strconv.ParseInt(fields[2], 10, 64)
			if err != nil {
				f.Close()
				return nil, fmt.Errorf("pgbench's log: %w", err)
			}
			h.Record(time.Duration(us) * time.Microsecond)
		}
		f.Close()
		if err := lines.Err(); err != nil {
			return nil, err
		}
	}
	if h.Count() == 0 {
		return nil, errors.New("pgbench logged no transactions")
	}
	return &h, nil
}

// showsAll waits until the replica has replayed what the primary has written; starting psql is in the time.
func (postgresql) showsAll(ctx context.Context, p *peer) (time.Duration, error) {
	start := time.Now()
	at, err := psql(ctx, p.primary, "SELECT pg_current_wal_lsn()")
	if err != nil {
		return 0, err
	}
	err = node.Until(ctx, "postgresql's replica has replayed everything", time.Millisecond, func() (bool, error) {
		yes, err := psql(ctx, p.copy, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", at))
		return yes == "t", err
	})
	return time.Since(start), err
}

func (postgresql) variants() map[string]func(context.Context, *peer) error {
	return map[string]func(context.Context, *peer) error{"remote_apply": func(ctx context.Context, p *peer) error {
		for _, statement := range []string{
			"ALTER SYSTEM SET synchronous_standby_names = '*'", "ALTER SYSTEM SET synchronous_commit = 'remote_apply'", "SELECT pg_reload_conf()",
		} {
			if _, err := psql(ctx, p.primary, statement); err != nil {
				return err
			}
		}
		return nil
	}}
}
