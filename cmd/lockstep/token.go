package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server"
)

const tokenCreateHelp = `Usage: lockstep token create -offline -config=FILE

Mints a root token on a stopped cluster and prints it. Whoever may read and
write the data directory and unseal the store may do this; that it was done, not the token, is
logged. Run it as the user that the server runs as, then start the server.

It is the way back in where nobody has a token: after secondary/enable a
cluster's former tokens are gone. With a running cluster use its API,
auth/token/create.

  -offline        required: says that the cluster is stopped
  -config=FILE    the server's configuration
` + unsealHelp

var tokenCreateCommand = command{"token create", "mint a root token on a stopped cluster", tokenCreateHelp, runTokenCreate}

func runTokenCreate(ctx context.Context, c *console, args []string) error {
	fs := newFlags("token create")
	offline := fs.Bool("offline", false, "")
	config := fs.String("config", "", "")
	shares := newUnsealFlag(fs)
	if err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	if !*offline {
		return usagef("token create: only -offline exists; on a running cluster use the API, auth/token/create")
	}
	if *config == "" {
		return usagef("token create: say which cluster with -config=FILE")
	}
	cfg, err := server.ReadConfig(*config)
	if err != nil {
		return err
	}
	if err := sameOwner(cfg.DataDir); err != nil {
		return err
	}
	log := hclog.New(&hclog.LoggerOptions{Name: "lockstep", Level: hclog.Info, Output: c.err})
	token, err := server.MintRootOffline(ctx, cfg, shares.unsealer(c, cfg.Seal), log)
	if err != nil {
		return err
	}
	fmt.Fprintln(c.out, token)
	return nil
}

// sameOwner refuses to leave files behind that the server could not read.
func sameOwner(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if owner, ok := ownerOf(info); ok && owner != os.Geteuid() {
		return errors.New(dir + " belongs to another user: run this as that user, or the server could not read what it writes")
	}
	return nil
}
