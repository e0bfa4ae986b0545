package demo

import (
	"context"
	"io"
)

type Config struct {
	Out, Words io.Writer
	Keep       bool
	Dir        string
	Program    string
}

func Run(ctx context.Context, cfg Config) error { return nil }
