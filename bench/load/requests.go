package load

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Put describes writes of records of one size at random keys.
type Put struct {
	Path   string // before the key's number, such as /v1/kv/
	Host   string
	Token  string
	Header string     // further header lines, each with its end; may be empty
	Keys   int        // how many keys there are
	Size   int        // bytes of a value
	Before string     // of the body, before the value's text; `{"value":"` when empty
	After  string     // and after it; `"}`
	Next   func() int // chooses the key; nil: at random
	Stride int        // Fill writes every so manieth key; 1 when 0
}

// keyDigits is the length of a key, so that a request keeps its length whatever its key is.
const keyDigits = 9

// Key returns the name of key i.
func Key(i int) string { return fmt.Sprintf("%0*d", keyDigits, i) }

// Source returns the writes of one client. The request is made once; each call changes key and value in place.
func (p Put) Source(rng *rand.Rand) Source {
	before, after := p.Before, p.After
	if before == "" {
		before, after = `{"value":"`, `"}`
	}
	start := "PUT " + p.Path
	text := start + strings.Repeat("0", keyDigits) + " HTTP/1.1\r\nHost: " + p.Host + "\r\n"
	if p.Token != "" {
		text += "X-Vault-Token: " + p.Token + "\r\n"
	}
	text += p.Header + fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(before)+p.Size+len(after), before)
	valueAt := len(text)
	request := append([]byte(text), Text(rng, p.Size)...)
	value := request[valueAt:]
	request = append(request, after...)
	key := request[len(start) : len(start)+keyDigits]
	value = request[valueAt : valueAt+len(value)]
	next := p.Next
	if next == nil {
		next = func() int { return rng.IntN(p.Keys) }
	}
	return func() []byte {
		writeKey(key, next())
		refresh(value, rng)
		return request
	}
}

// Get describes reads at random keys.
type Get struct {
	Path, Host, Token, Header string
	Keys                      int
}

// Source returns the reads of one client.
func (g Get) Source(rng *rand.Rand) Source {
	start := "GET " + g.Path
	text := start + strings.Repeat("0", keyDigits) + " HTTP/1.1\r\nHost: " + g.Host + "\r\n"
	if g.Token != "" {
		text += "X-Vault-Token: " + g.Token + "\r\n"
	}
	request := []byte(text + g.Header + "\r\n")
	key := request[len(start) : len(start)+keyDigits]
	return func() []byte {
		writeKey(key, rng.IntN(g.Keys))
		return request
	}
}

// Mix takes the first source with the share given, else the second.
func Mix(rng *rand.Rand, share float64, first, second Source) Source {
	return func() []byte {
		if rng.Float64() < share {
			return first()
		}
		return second()
	}
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// Text returns random text of a size, as incompressible as its letters allow.
func Text(rng *rand.Rand, size int) []byte {
	text := make([]byte, size)
	for i := range text {
		text[i] = letters[rng.Uint64()&63]
	}
	return text
}

// refresh changes the beginning of a value, so that no two writes have the same; all of it anew would cost the driver
// more than the rest of a request.
func refresh(value []byte, rng *rand.Rand) {
	r := rng.Uint64()
	for i := range value[:min(10, len(value))] {
		value[i] = letters[r&63]
		r >>= 6
	}
}

// writeKey writes the digits of a key's number.
func writeKey(to []byte, n int) {
	for i := len(to) - 1; i >= 0; i-- {
		to[i] = byte('0' + n%10)
		n /= 10
	}
}
