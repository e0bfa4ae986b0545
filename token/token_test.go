package token_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/token"
)

var (
	now   = time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	key   = ed25519.NewKeyFromSeed([]byte("this set's seed, of 32 bytes....")[:32])
	other = ed25519.NewKeyFromSeed([]byte("another set's seed, of 32 bytes.")[:32])
	pub   = key.Public().(ed25519.PublicKey)
)

const set, kind = "7d0e8c1a-0000-4000-8000-000000000001", "dr"

func claims() token.Claims {
	return token.Claims{
		ID: "00112233445566778899aabbccddeeff", Set: set, Secondary: "eu-dr", Kind: kind, Addr: "https://10.0.0.1:8200",
		CAHash: [32]byte{1, 2, 3}, Epoch: "aabbccdd",
		IssuedAt: now, NotBefore: now.Add(-5 * time.Second), Expires: now.Add(30 * time.Minute),
	}
}

func mint(t testing.TB, k ed25519.PrivateKey, c token.Claims) string {
	t.Helper()
	a, err := token.Mint(k, c)
	if err != nil {
		t.Fatal(err)
	}
	return a.Reveal()
}

func TestVerifyReturnsWhatWasMinted(t *testing.T) {
	got, err := token.Verify(mint(t, key, claims()), pub, set, kind, now)
	if err != nil {
		t.Fatal(err)
	}
	if got != claims() {
		t.Errorf("got %+v, want %+v", got, claims())
	}
	peeked, err := token.Peek(mint(t, key, claims()))
	if err != nil || peeked != claims() {
		t.Errorf("peek: got %+v, %v, want %+v", peeked, err, claims())
	}
}

// raw builds a token from any header and payload, signed by sign.
func raw(header, payload map[string]any, sign func(string) []byte) string {
	enc := func(v any) string { b, _ := json.Marshal(v); return base64.RawURLEncoding.EncodeToString(b) }
	text := enc(header) + "." + enc(payload)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign(text))
}

func ed(k ed25519.PrivateKey) func(string) []byte {
	return func(s string) []byte { return ed25519.Sign(k, []byte(s)) }
}

func header(alg string) map[string]any { return map[string]any{"alg": alg, "typ": "JWT"} }

// payload is what Mint writes, changed; a nil value removes the claim.
func payload(change map[string]any) map[string]any {
	p := map[string]any{
		"jti": "00112233445566778899aabbccddeeff", "iss": set, "sub": "eu-dr", "aud": []string{kind},
		"iat": now.Unix(), "nbf": now.Unix() - 5, "exp": now.Unix() + 1800,
		"type": "wrapping", "addr": "", "accessor": "", "ca": strings.Repeat("01", 32),
	}
	for k, v := range change {
		if v == nil {
			delete(p, k)
		} else {
			p[k] = v
		}
	}
	return p
}

func TestVerifyRefusesForgedTokens(t *testing.T) {
	hs256 := func(secret []byte) func(string) []byte {
		return func(s string) []byte { m := hmac.New(sha256.New, secret); m.Write([]byte(s)); return m.Sum(nil) }
	}
	none := func(string) []byte { return nil }
	with := func(h map[string]any, k string, v any) map[string]any { h = maps.Clone(h); h[k] = v; return h }
	good := mint(t, key, claims())
	tests := []struct {
		name string
		text string
		want error
	}{
		{"algorithm none without a signature", raw(header("none"), payload(nil), none), token.ErrInvalid},
		{"algorithm none in other letters", raw(header("nOnE"), payload(nil), none), token.ErrInvalid},
		{"algorithm none with the good signature", raw(header("none"), payload(nil), ed(key)), token.ErrInvalid},
		{"HS256 with the public key as secret", raw(header("HS256"), payload(nil), hs256(pub)), token.ErrInvalid},
		{"ES256", raw(header("ES256"), payload(nil), ed(key)), token.ErrInvalid},
		{"no algorithm", raw(map[string]any{"typ": "JWT"}, payload(nil), ed(key)), token.ErrInvalid},
		{"another set's key", raw(header("EdDSA"), payload(nil), ed(other)), token.ErrInvalid},
		{"no signature", raw(header("EdDSA"), payload(nil), none), token.ErrInvalid},
		{"a critical extension", raw(with(header("EdDSA"), "crit", []string{"b64"}), payload(nil), ed(key)), token.ErrMalformed},
		{"a key id in the header", raw(with(header("EdDSA"), "kid", "../../key"), payload(nil), ed(key)), token.ErrMalformed},
		{"another audience", raw(header("EdDSA"), payload(map[string]any{"aud": "performance"}), ed(key)), token.ErrInvalid},
		{"two audiences", raw(header("EdDSA"), payload(map[string]any{"aud": []string{kind, "performance"}}), ed(key)), token.ErrMalformed},
		{"no audience", raw(header("EdDSA"), payload(map[string]any{"aud": nil}), ed(key)), token.ErrMalformed},
		{"another issuer", raw(header("EdDSA"), payload(map[string]any{"iss": "another"}), ed(key)), token.ErrInvalid},
		{"no issuer", raw(header("EdDSA"), payload(map[string]any{"iss": nil}), ed(key)), token.ErrMalformed},
		{"no subject", raw(header("EdDSA"), payload(map[string]any{"sub": nil}), ed(key)), token.ErrMalformed},
		{"another type", raw(header("EdDSA"), payload(map[string]any{"type": "batch"}), ed(key)), token.ErrMalformed},
		{"no type", raw(header("EdDSA"), payload(map[string]any{"type": nil}), ed(key)), token.ErrMalformed},
		{"expired", raw(header("EdDSA"), payload(map[string]any{"exp": now.Unix() - 1}), ed(key)), token.ErrExpired},
		{"expires now", raw(header("EdDSA"), payload(map[string]any{"exp": now.Unix()}), ed(key)), token.ErrExpired},
		{"no expiry", raw(header("EdDSA"), payload(map[string]any{"exp": nil}), ed(key)), token.ErrMalformed},
		{"an expiry that is no number", raw(header("EdDSA"), payload(map[string]any{"exp": "tomorrow"}), ed(key)), token.ErrMalformed},
		{"not yet valid", raw(header("EdDSA"), payload(map[string]any{"nbf": now.Unix() + 10}), ed(key)), token.ErrNotYet},
		{"no start", raw(header("EdDSA"), payload(map[string]any{"nbf": nil}), ed(key)), token.ErrMalformed},
		{"issued in the future", raw(header("EdDSA"), payload(map[string]any{"iat": now.Unix() + 10}), ed(key)), token.ErrNotYet},
		{"an id that is too short", raw(header("EdDSA"), payload(map[string]any{"jti": "0011"}), ed(key)), token.ErrMalformed},
		{"no CA fingerprint", raw(header("EdDSA"), payload(map[string]any{"ca": nil}), ed(key)), token.ErrMalformed},
		{"a payload that is no object", "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.W10.AA", token.ErrMalformed},
		{"padding behind the signature", good + "=", token.ErrMalformed},
		{"a signature cut by one letter", good[:len(good)-1], token.ErrMalformed},
		{"a space before it", " " + good, token.ErrMalformed},
		{"a newline behind it", good + "\n", token.ErrMalformed},
		{"empty", "", token.ErrMalformed},
		{"two dots", "..", token.ErrMalformed},
		{"a MiB of dots", strings.Repeat(".", 1<<20), token.ErrMalformed},
		{"a MiB of letters", strings.Repeat("A", 1<<20), token.ErrMalformed},
		{"a fourth part", good + ".AA", token.ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := token.Verify(tt.text, pub, set, kind, now)
			if err == nil {
				t.Fatal("accepted")
			}
			// A cut or padded signature may be either: only that it is refused, and how it is called, matters.
			if !errors.Is(err, tt.want) && !(errors.Is(tt.want, token.ErrMalformed) && errors.Is(err, token.ErrInvalid)) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if c != (token.Claims{}) {
				t.Errorf("claims returned with an error: %+v", c)
			}
			if part := strings.Trim(tt.text, ". "); len(part) > 20 && strings.Contains(err.Error(), part[:20]) {
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
}

func TestVerifyTakesRawTokensLikeMintedOnes(t *testing.T) {
	// Shows that the table above fails for the reasons it names and not because raw makes bad tokens.
	if _, err := token.Verify(raw(header("EdDSA"), payload(nil), ed(key)), pub, set, kind, now); err != nil {
		t.Error(err)
	}
}

func TestEveryFlippedByteIsRefused(t *testing.T) {
	good := mint(t, key, claims())
	for i := range good {
		b := []byte(good)
		b[i] ^= 1
		if _, err := token.Verify(string(b), pub, set, kind, now); err == nil {
			t.Errorf("accepted with byte %d changed", i)
		}
	}
}

func TestVerifyNeedsSomethingToVerifyAgainst(t *testing.T) {
	good := mint(t, key, claims())
	for name, f := range map[string]func() error{
		"no set":  func() error { _, err := token.Verify(good, pub, "", kind, now); return err },
		"no kind": func() error { _, err := token.Verify(good, pub, set, "", now); return err },
		"no key":  func() error { _, err := token.Verify(good, nil, set, kind, now); return err },
	} {
		if err := f(); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("%s: got %v, want %v", name, err, token.ErrInvalid)
		}
	}
}

func TestMintRefusesWhatVerifyWould(t *testing.T) {
	tests := map[string]func(*token.Claims){
		"no id":         func(c *token.Claims) { c.ID = "" },
		"no set":        func(c *token.Claims) { c.Set = "" },
		"no secondary":  func(c *token.Claims) { c.Secondary = "" },
		"no kind":       func(c *token.Claims) { c.Kind = "" },
		"a long adress": func(c *token.Claims) { c.Addr = strings.Repeat("x", token.MaxSize) },
	}
	for name, change := range tests {
		c := claims()
		change(&c)
		if _, err := token.Mint(key, c); err == nil {
			t.Errorf("%s: minted", name)
		}
	}
	if _, err := token.Mint(nil, claims()); err == nil {
		t.Error("no key: minted")
	}
}

func TestTokensPrintRedacted(t *testing.T) {
	a, err := token.Mint(key, claims())
	if err != nil {
		t.Fatal(err)
	}
	js, err := json.Marshal(map[string]any{"token": a})
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprint(a), fmt.Sprintf("%v %+v %s %#v", a, a, a, a), string(js)} {
		if strings.Contains(out, a.Reveal()[:20]) {
			t.Errorf("the token shows in %q", out)
		}
	}
}

func FuzzVerify(f *testing.F) {
	good := mint(f, key, claims())
	f.Add(good)
	f.Add(raw(header("none"), payload(nil), func(string) []byte { return nil }))
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := token.Verify(text, pub, set, kind, now)
		if err == nil && (text != good || c != claims()) {
			t.Errorf("accepted %q", text)
		}
	})
}

func FuzzPeek(f *testing.F) {
	f.Add(mint(f, key, claims()))
	f.Add(raw(header("EdDSA"), payload(nil), ed(other)))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := token.Peek(text)
		if err != nil {
			if !errors.Is(err, token.ErrMalformed) {
				t.Errorf("got %v, want %v", err, token.ErrMalformed)
			}
			return
		}
		if len(text) > token.MaxSize || c.ID == "" || c.Set == "" || c.Secondary == "" || c.Kind == "" || c.Expires.IsZero() {
			t.Errorf("claims are missing: %+v", c)
		}
	})
}
