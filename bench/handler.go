package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/machine"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// handlerCommand is the first argument with which this program is the trivial server.
const handlerCommand = "handler"

// serveHandler is the limit of what net/http allows: it decodes a body of JSON with encoding/json, answers 204 and does
// nothing else. It prints its address and serves until it is killed.
func serveHandler(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	if len(args) == 2 {
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // HTTP/1.1, as the driver speaks
		return server.ServeTLS(l, args[0], args[1])
	}
	return server.Serve(l)
}

// handler measures the trivial server, which is a process of its own as the real one is.
func (b *bench) handler(secure bool, clients int) func(context.Context) (report.Run, error) {
	return func(ctx context.Context) (report.Run, error) {
		target, server, err := b.startHandler(secure)
		if err != nil {
			return report.Run{}, err
		}
		defer server.end()
		saved := b.watched
		defer func() { b.watched = saved }()
		b.watched = []watched{{name: "handler", pid: func() int { return server.cmd.Process.Pid }}}
		return b.drive(ctx, load.Config{Target: target, Clients: clients, New: func(_ int, rng *rand.Rand) load.Source {
			return load.Put{Path: "/v1/kv/", Host: target.Address, Token: strings.Repeat("t", 28), Keys: b.keys, Size: valueSize}.Source(rng)
		}})
	}
}

// child is a process of this program's own.
type child struct {
	cmd   *exec.Cmd
	ended <-chan error
}

func (c *child) end() {
	_ = c.cmd.Process.Kill()
	<-c.ended
}

func (b *bench) startHandler(secure bool) (load.Target, *child, error) {
	args := []string{handlerCommand}
	var target load.Target
	if secure {
		dir, remove, err := b.scratch("handler")
		if err != nil {
			return target, nil, err
		}
		defer remove()
		certFile, keyFile, client, err := node.NewTLS(dir)
		if err != nil {
			return target, nil, err
		}
		args, target.TLS = append(args, certFile, keyFile), client
	}
	cmd := exec.Command(b.self, args...)
	cmd.Stderr = os.Stderr
	out, in, err := os.Pipe()
	if err != nil {
		return target, nil, err
	}
	defer out.Close()
	cmd.Stdout = in
	ended, err := machine.StartAndWait(cmd)
	in.Close()
	if err != nil {
		return target, nil, fmt.Errorf("start the trivial handler: %w", err)
	}
	server := &child{cmd, ended}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		server.end()
		return target, nil, fmt.Errorf("start the trivial handler: %w", err)
	}
	target.Address = strings.TrimSpace(line)
	if err := answers(target); err != nil {
		server.end()
		return target, nil, err
	}
	return target, server, nil
}

// answers waits for the certificate to be read, so that its directory can go.
func answers(t load.Target) error {
	c, err := load.Dial(t)
	if err != nil {
		return err
	}
	return c.Close()
}
