// Package sealtest gives tests a seal with keys of its own, in no file.
package sealtest

import (
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/internal/seal"
)

// New mints a seal of one share.
func New(t testing.TB) *seal.Opened {
	t.Helper()
	o, _, err := seal.New(seal.Options{Config: seal.Config{Shares: 1, Threshold: 1}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return o
}
