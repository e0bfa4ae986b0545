// Command etcd is etcd's server, and a driver that puts records into one over gRPC.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/peers/drive"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"go.uber.org/zap"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		etcdmain.Main(append(os.Args[:1], os.Args[2:]...))
		return
	}
	if err := drive.Main(os.Args[1:], dial); err != nil {
		fmt.Fprintln(os.Stderr, "etcd driver:", err)
		os.Exit(1)
	}
}

// client is one connection, with one put at a time.
type client struct {
	etcd   *clientv3.Client
	ctx    context.Context
	cancel context.CancelFunc
}

func dial(address string) (load.Client, error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &client{c, ctx, cancel}, nil
}

// Do puts one record.
func (c *client) Do(record []byte) error {
	key, value := drive.Split(record)
	_, err := c.etcd.Put(c.ctx, string(key), string(value))
	return err
}

// SetDeadline ends a put that waits when the time has come.
func (c *client) SetDeadline(t time.Time) error {
	if !t.After(time.Now()) {
		c.cancel()
	}
	return nil
}

// Close ends the connection.
func (c *client) Close() error {
	c.cancel()
	return c.etcd.Close()
}
