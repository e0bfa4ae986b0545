package main

import (
	"flag"
	"fmt"
	"io"

	"github.com/lockstepdb/lockstep/internal/buildinfo"
	"github.com/lockstepdb/lockstep/server"
)

// printDevBanner tells how to reach a development server. It is the one place
// where a token is printed: it is the operator's own, or made for this run.
func printDevBanner(w io.Writer, cfg *server.Config, a server.Addresses) {
	data := cfg.DataDir
	if cfg.Dev.Temporary {
		data += " (removed when the server ends)"
	}
	fmt.Fprintf(w, `==> Lockstep server configuration:

             Api Address: %s
         Cluster Address: %s
                    Data: %s
                 Version: Lockstep %s

WARNING! dev mode is enabled! The server is initialised, unseals itself with a
key that lies in its data directory (dev-seal.key, which is its only recovery
key too), and the root token below is valid whatever the cluster becomes. Do not use it for
production.

You may need to set the following environment variables:

    $ export VAULT_ADDR='%s'
    $ export VAULT_TOKEN='%s'

Root Token: %s

`, a.API, a.Cluster, data, buildinfo.Read().Version, a.API, cfg.Dev.RootToken, cfg.Dev.RootToken)
}

func isSet(fs *flag.FlagSet, name string) bool {
	set := false
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}
