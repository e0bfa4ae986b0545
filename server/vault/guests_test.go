package vault

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// TestTooManyLoginsAtOnce holds all places where passwords are checked: who comes then is told to come again, and writes nothing.
func TestTooManyLoginsAtOnce(t *testing.T) {
	c := &Core{}
	c.guests.init()
	var leave []func()
	for i := range maxWaiting {
		out, err := c.guests.enter(fmt.Sprintf("10.0.%d.1:1234", i/maxFromOne))
		if err != nil {
			t.Fatalf("login %d: %v", i, err)
		}
		leave = append(leave, out)
	}
	_, err := c.checkPassword(t.Context(), "10.9.9.9:1", nil, "x", func() error { return nil })
	a := c.encodeError(&request{}, err)
	if a.status != 429 || !a.wait || !strings.Contains(string(a.body), "too many logins") {
		t.Errorf("got %d %s, to wait: %v; want 429 that says when to come again", a.status, a.body, a.wait)
	}
	w := httptest.NewRecorder()
	if a.write(w); w.Header().Get("Retry-After") != busyWait {
		t.Errorf("Retry-After is %q", w.Header().Get("Retry-After"))
	}
	if c.guests.waiting != maxWaiting || len(c.guests.checks) != 0 {
		t.Errorf("%d wait and %d are checked, want %d and 0", c.guests.waiting, len(c.guests.checks), maxWaiting)
	}
	for _, out := range leave {
		out()
	}
	if c.guests.waiting != 0 || len(c.guests.from) != 0 {
		t.Errorf("after all have left %d wait, from %d addresses", c.guests.waiting, len(c.guests.from))
	}
}

// TestManyLoginsOfOneAddressKeepNobodyElseOut fills what one address may have and every slot in which a stranger's password is checked.
func TestManyLoginsOfOneAddressKeepNobodyElseOut(t *testing.T) {
	c := &Core{}
	c.guests.init()
	c.guests.cost = bcrypt.MinCost
	for _, address := range []string{"[2001:db8::%d]:1", "10.0.0.1:%d"} {
		var leave func()
		for i := range maxFromOne {
			var err error
			if leave, err = c.guests.enter(fmt.Sprintf(address, i+1)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.guests.enter(fmt.Sprintf(address, 999)); !errors.Is(err, errBusy) {
			t.Errorf("one more of %s: %v, want it refused", address, err)
		}
		leave()
	}
	hash, err := c.hashPassword(t.Context(), "right")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := c.checkPassword(t.Context(), "10.0.0.2:1", hash, "right", func() error { return nil }); err != nil || !ok {
		t.Errorf("another address: %v, %v, want it let in", ok, err)
	}
	for range cap(c.guests.checks) {
		c.guests.checks <- struct{}{}
	}
	if _, err := c.hashPassword(t.Context(), "new"); err != nil { // waits for no stranger, or this test does not end
		t.Errorf("a password set by somebody with a token: %v", err)
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
