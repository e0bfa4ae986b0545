package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/lockstepdb/lockstep/server"
)

const serverHelp = `Usage: lockstep server -config=FILE [-check]
       lockstep server -dev [flags]

Runs one node until SIGTERM or SIGINT. It then ends its requests, makes a last
checkpoint and exits 0; a second signal ends it at once. SIGHUP reads
certificates, log level and enable_unauthenticated_access again, and opens the
audit files again; all other settings change with a restart.

  -config=FILE    configuration, HCL (or JSON when it ends in .json)
  -check          read configuration, certificates, key file and addresses, print
                  every mistake with its line, and exit: 0 when there is none,
                  else 1

  -dev            a development server: plain HTTP, initialised, unsealed by a
                  key that lies in its data directory, a KV version 2 mount at
                  secret/. Not for production.
  -dev-root-token-id=TOKEN     its root token; otherwise a random one. It stays
                               valid on a cluster that became a secondary
  -dev-listen-address=HOST:PORT   127.0.0.1:8200; the cluster port is the next
  -dev-data-dir=DIR            keeps the data there; otherwise in a temporary
                               directory that is removed at the end

With -dev and -config the file's settings hold, and the server is initialised
with the development root token.
`

var serverCommand = command{"server", "run a node", serverHelp, runServer}

type serverFlags struct {
	config                 string
	check, dev             bool
	devToken, devListen    string
	devDataDir             string
	listenGiven, dataGiven bool
}

func runServer(ctx context.Context, c *console, args []string) error {
	f, err := parseServerFlags(args)
	if err != nil {
		return err
	}
	if f.check {
		if err := server.Check(ctx, f.config); err != nil {
			return err
		}
		fmt.Fprintln(c.err, f.config+": no mistakes")
		return nil
	}
	cfg, err := f.configuration()
	if err != nil {
		return err
	}
	if cfg.Dev != nil {
		cfg.Ready = func(a server.Addresses) { printDevBanner(c.out, cfg, a) }
	}
	reload := make(chan struct{})
	cfg.Reload = reload
	ctx, stop := watchSignals(ctx, reload)
	defer stop()
	return server.Run(ctx, cfg)
}

func parseServerFlags(args []string) (*serverFlags, error) {
	f := &serverFlags{}
	fs := newFlags("server")
	fs.StringVar(&f.config, "config", "", "")
	fs.BoolVar(&f.check, "check", false, "")
	fs.BoolVar(&f.dev, "dev", false, "")
	fs.StringVar(&f.devToken, "dev-root-token-id", os.Getenv("VAULT_DEV_ROOT_TOKEN_ID"), "")
	fs.StringVar(&f.devListen, "dev-listen-address", "127.0.0.1:8200", "")
	fs.StringVar(&f.devDataDir, "dev-data-dir", "", "")
	if err := parse(fs, args, 0, 0); err != nil {
		return nil, err
	}
	f.listenGiven, f.dataGiven = isSet(fs, "dev-listen-address"), isSet(fs, "dev-data-dir")
	switch {
	case f.config == "" && !f.dev:
		return nil, usagef("server: say -config=FILE, or -dev for a development server")
	case f.check && f.config == "":
		return nil, usagef("server: -check needs -config=FILE")
	}
	return f, nil
}

// configuration returns what the flags describe.
func (f *serverFlags) configuration() (*server.Config, error) {
	if !f.dev {
		return server.ReadConfig(f.config)
	}
	token := f.devToken
	if token == "" {
		token = "hvs." + rand.Text()
	}
	if f.config != "" {
		return f.configWithDev(token)
	}
	cfg := server.DevConfig(f.devListen, f.devDataDir, token)
	if f.devDataDir == "" {
		dir, err := os.MkdirTemp("", "lockstep-dev-")
		if err != nil {
			return nil, fmt.Errorf("make a temporary data directory: %w", err)
		}
		cfg.DataDir, cfg.Dev.Temporary = dir, true
	}
	return cfg, nil
}

func (f *serverFlags) configWithDev(token string) (*server.Config, error) {
	cfg, err := server.ReadConfig(f.config)
	if err != nil {
		return nil, err
	}
	cfg.Dev = &server.Dev{RootToken: token}
	if f.listenGiven {
		cfg.Listener.Address = f.devListen
	}
	if f.dataGiven {
		cfg.DataDir = f.devDataDir
	}
	return cfg, nil
}

// sameSignal is how soon after the first a second signal is still the same one.
const sameSignal = 200 * time.Millisecond

// watchSignals lets SIGHUP reload. The first SIGTERM or SIGINT has ended ctx
// (main sees to that); a second one ends the process at once.
func watchSignals(ctx context.Context, reload chan<- struct{}) (context.Context, func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	again := make(chan os.Signal, 2)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-hup:
				select {
				case reload <- struct{}{}:
				case <-ctx.Done():
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	stopSecond := context.AfterFunc(ctx, func() {
		// Whoever signals a process and its group at once means it once.
		time.Sleep(sameSignal)
		signal.Notify(again, os.Interrupt, syscall.SIGTERM)
		<-again
		fmt.Fprintln(os.Stderr, "lockstep: ended at once by a second signal; the next start replays the log")
		os.Exit(1)
	})
	return ctx, func() {
		stopSecond()
		cancel()
		signal.Stop(hup)
		<-done
	}
}
