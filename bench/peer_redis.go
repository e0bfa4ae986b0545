package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// redis is written to with this program's own loop, in Redis' protocol, one command at a time.
type redis struct{}

// redisClient is one connection.
type redisClient struct {
	net.Conn
	in *bufio.Reader
}

func dialRedis(address string) (*redisClient, error) {
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &redisClient{conn, bufio.NewReader(conn)}, nil
}

// Do sends a command that is answered with OK.
func (c *redisClient) Do(command []byte) error {
	answer, err := c.ask(command)
	if err != nil {
		return err
	}
	if answer != "+OK\r\n" {
		return fmt.Errorf("redis answered %q", answer)
	}
	return nil
}

// ask sends a command and returns the first line of its answer.
func (c *redisClient) ask(command []byte) (string, error) {
	if _, err := c.Write(command); err != nil {
		return "", err
	}
	return c.in.ReadString('\n')
}

// redisSet returns writes of random records. The command is made once; each call changes key and value in place.
func redisSet(keys int) newSource {
	return func(_ int, rng *rand.Rand) load.Source {
		head := "*3\r\n$3\r\nSET\r\n$9\r\n"
		key := load.Key(0)
		command := fmt.Appendf(nil, "%s%s\r\n$%d\r\n", head, key, valueSize)
		valueAt := len(command)
		command = append(append(command, load.Text(rng, valueSize)...), "\r\n"...)
		return func() []byte {
			copy(command[len(head):], load.Key(rng.IntN(keys)))
			copy(command[valueAt:], load.Text(rng, 10))
			return command
		}
	}
}

func (redis) ready(ctx context.Context, _ *peer, s *service) error {
	return node.Until(ctx, "redis answers", 10*time.Millisecond, func() (bool, error) {
		c, err := dialRedis(s.address())
		if err != nil {
			return false, nil
		}
		defer c.Close()
		answer, err := c.ask([]byte("PING\r\n"))
		return err == nil && answer == "+PONG\r\n", nil
	})
}

func (r redis) setup(ctx context.Context, p *peer) error {
	_, err := r.showsAll(ctx, p)
	return err
}

func (redis) run(ctx context.Context, b *bench, p *peer, clients int) (report.Run, error) {
	return b.drive(ctx, load.Config{Clients: clients, New: redisSet(b.keys),
		Dial: func() (load.Client, error) { return dialRedis(p.primary.address()) }})
}

// showsAll writes a marker and waits for it on the replica.
func (redis) showsAll(ctx context.Context, p *peer) (time.Duration, error) {
	to, err := dialRedis(p.primary.address())
	if err != nil {
		return 0, err
	}
	defer to.Close()
	from, err := dialRedis(p.copy.address())
	if err != nil {
		return 0, err
	}
	defer from.Close()
	marker := fmt.Sprint(time.Now().UnixNano())
	start := time.Now()
	if err := to.Do(fmt.Appendf(nil, "SET marker %s\r\n", marker)); err != nil {
		return 0, err
	}
	err = node.Until(ctx, "redis' replica shows a marker", time.Millisecond, func() (bool, error) {
		line, err := from.ask([]byte("GET marker\r\n"))
		if err != nil || line == "$-1\r\n" || line[0] == '-' { // it is loading, or has none yet
			return false, err
		}
		value, err := from.in.ReadString('\n')
		return value == marker+"\r\n", err
	})
	return time.Since(start), err
}

func (redis) variants() map[string]func(context.Context, *peer) error { return nil }
