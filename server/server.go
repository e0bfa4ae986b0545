package server

import "context"

// Run serves one node until ctx ends, then drains and checkpoints. (server helper: shape this file as you need; cmd/lockstep calls server.Run.)
func Run(ctx context.Context, cfg *Config) error { panic("server helper") }

// Config is a node's configuration, read from HCL or made by -dev.
type Config struct{}
