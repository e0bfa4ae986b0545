// Command nats is NATS' server, and a driver that publishes records into a stream of one, each when the one before was
// acknowledged.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/peers/drive"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "serve":
		err = serve(os.Args[2])
	case len(os.Args) == 4 && os.Args[1] == "streams":
		err = streams(os.Args[2], os.Args[3])
	case len(os.Args) == 4 && os.Args[1] == "equal":
		err = equal(os.Args[2], os.Args[3])
	default:
		err = drive.Main(os.Args[1:], dial)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nats:", err)
		os.Exit(1)
	}
}

func serve(config string) error {
	o, err := server.ProcessConfigFile(config)
	if err != nil {
		return err
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	if err := server.Run(s); err != nil {
		return err
	}
	s.WaitForShutdown()
	return nil
}

const subjects = "r."

// streams makes the stream on the primary and its mirror on the replica.
func streams(primary, replica string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, made := range []struct {
		address string
		cfg     jetstream.StreamConfig
	}{
		{primary, jetstream.StreamConfig{Name: "records", Subjects: []string{subjects + ">"}, MaxMsgsPerSubject: 1, Storage: jetstream.FileStorage}},
		{replica, jetstream.StreamConfig{Name: "mirror", Storage: jetstream.FileStorage,
			Mirror: &jetstream.StreamSource{Name: "records", External: &jetstream.ExternalStream{APIPrefix: "$JS.primary.API"}}}},
	} {
		conn, err := nats.Connect(made.address)
		if err != nil {
			return err
		}
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			return err
		}
		if _, err := js.CreateStream(ctx, made.cfg); err != nil {
			return fmt.Errorf("make stream %s: %w", made.cfg.Name, err)
		}
	}
	return nil
}

// equal waits until the mirror has the last message of the stream.
func equal(primary, replica string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	want, err := last(ctx, primary, "records")
	if err != nil {
		return err
	}
	for tick := time.Tick(5 * time.Millisecond); ; {
		got, err := last(ctx, replica, "mirror")
		if err != nil {
			return err
		}
		if got >= want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the mirror has message %d of %d: %w", got, want, ctx.Err())
		case <-tick:
		}
	}
}

// last returns the number of a stream's last message.
func last(ctx context.Context, address, stream string) (uint64, error) {
	conn, err := nats.Connect(address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return 0, err
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, err
	}
	return s.CachedInfo().State.LastSeq, nil
}

// client is one connection with one message at a time.
type client struct {
	conn   *nats.Conn
	js     jetstream.JetStream
	ctx    context.Context
	cancel context.CancelFunc
}

func dial(address string) (load.Client, error) {
	conn, err := nats.Connect(address)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 30*time.Minute, errors.New("the run is too long"))
	return &client{conn, js, ctx, cancel}, nil
}

// Do publishes one record.
func (c *client) Do(record []byte) error {
	key, value := drive.Split(record)
	_, err := c.js.Publish(c.ctx, subjects+string(key), value)
	return err
}

// SetDeadline ends a message that waits when the time has come.
func (c *client) SetDeadline(t time.Time) error {
	if !t.After(time.Now()) {
		c.cancel()
	}
	return nil
}

// Close ends the connection.
func (c *client) Close() error {
	c.cancel()
	c.conn.Close()
	return nil
}
