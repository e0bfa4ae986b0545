package vault

import (
	"fmt"
	"testing"
	"time"
)

// TestTooManyLoginsAtOnce holds all places where passwords are checked: who comes then is told to come again, and writes nothing.
func TestTooManyLoginsAtOnce(t *testing.T) {
	c := &Core{}
	c.guests.init()
	for range maxWaiting {
		c.guests.waiting <- struct{}{}
	}
	_, err := c.checkPassword(t.Context(), nil, "x", func() error { return nil })
	if status, texts, _ := translate(err); status != 429 || len(texts) != 1 {
		t.Errorf("got %d %q, want 429", status, texts)
	}
	if len(c.guests.waiting) != maxWaiting || len(c.guests.checks) != 0 {
		t.Errorf("%d wait and %d are checked, want %d and 0", len(c.guests.waiting), len(c.guests.checks), maxWaiting)
	}
}

// TestFailuresOfUnknownNamesAreBounded tries more names than are remembered: memory stays bounded, and what is remembered of names
// that exist does not suffer.
func TestFailuresOfUnknownNamesAreBounded(t *testing.T) {
	var g guests
	g.init()
	now := time.Unix(1000, 0)
	for range lockAfter - 1 {
		g.failed("m/bob", true, now)
	}
	for i := range 2*maxGuests + 10 {
		g.failed(fmt.Sprintf("m/%d", i), false, now)
	}
	if n := len(g.unknown); n > maxGuests {
		t.Errorf("%d unknown names are remembered, at most %d", n, maxGuests)
	}
	if !g.failed("m/bob", true, now) || !g.locked("m/bob", now) {
		t.Error("the failures of an account were forgotten among those of unknown names")
	}
}
