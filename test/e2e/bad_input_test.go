package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// place is what must not change when something bad was sent.
type place struct {
	Index uint64
	Root  string
}

func placeOf(n *cluster.Node) place {
	s := n.MustStatus(cluster.DR)
	return place{s.LastDRWAL, s.MerkleRoot}
}

// TestBadInput sends what no client sends. Each case gets a clear refusal and
// leaves the store where it was; the harness sees to it that no log holds a
// stack trace.
func TestBadInput(t *testing.T) {
	t.Parallel()
	primary := cluster.New(t, "primary", cluster.Options{})
	primary.Start()
	primary.Init()
	primary.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	primary.MustDo("PUT", "kv/here", `{"value":"before"}`, 200, 204)
	primary.EnablePrimary(cluster.DR)
	primary.EnablePrimary(cluster.Performance)
	other := cluster.New(t, "other", cluster.Options{})
	other.Start()
	other.Init()
	other.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	other.MustDo("PUT", "kv/mine", `{"value":"kept"}`, 200, 204)

	t.Run("bodies", func(t *testing.T) { badBodies(t, primary) })
	t.Run("tokens", func(t *testing.T) { badActivationTokens(t, primary, other) })
	t.Run("unwrap without a certificate request leaves the token unspent", func(t *testing.T) { unwrapWithoutRequest(t, primary) })
	t.Run("cluster port", func(t *testing.T) { garbageOnClusterPort(t, primary) })

	if value, found, err := primary.Get(context.Background(), "kv/here"); err != nil || !found || value != "before" {
		t.Errorf("the record written before: %q, %t, %v", value, found, err)
	}
	primary.Stop()
	other.Stop()
	primary.MustCheck()
	other.MustCheck()
}

func badBodies(t *testing.T, n *cluster.Node) {
	deep := strings.Repeat("[", 200_000)
	for _, c := range []struct {
		name, method, path, body string
		want                     []int
	}{
		{"an object that ends early", "PUT", "kv/x", `{"value":"x"`, []int{400}},
		{"a bare word", "PUT", "kv/x", `value`, []int{400}},
		{"an array", "PUT", "kv/x", `[1,2]`, []int{400}},
		{"a number", "POST", "sys/mounts/y", `7`, []int{400}},
		{"bytes that are no text", "PUT", "kv/x", "\xff\xfe\x00\x01", []int{400}},
		{"two hundred thousand brackets", "PUT", "kv/x", deep, []int{400}},
		{"text behind the object", "PUT", "kv/x", `{"value":"x"} trailing`, []int{400}},
		{"a mount whose type is a number", "POST", "sys/mounts/y", `{"type":3}`, []int{400}},
		{"a mount of an unknown type", "POST", "sys/mounts/y", `{"type":"no-such"}`, []int{400}},
		{"an id that is a list", "POST", "sys/replication/dr/primary/secondary-token", `{"id":["a"]}`, []int{400}},
		{"no id", "POST", "sys/replication/dr/primary/secondary-token", `{}`, []int{400}},
		{"a time to live that is none", "POST", "sys/replication/dr/primary/secondary-token", `{"id":"q","ttl":"soon"}`, []int{400}},
		{"a path that climbs", "PUT", "kv/../sys/policies/acl/x", `{"policy":""}`, []int{301, 307, 308, 400, 404}},
		{"a method that nothing knows", "BREW", "kv/x", ``, []int{400, 405}},
		{"33 MiB", "PUT", "kv/x", `{"value":"` + strings.Repeat("a", 33<<20) + `"}`, []int{413}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := placeOf(n)
			answer, err := n.Do(context.Background(), c.method, c.path, []byte(c.body))
			if err != nil {
				if c.name == "33 MiB" { // the server may hang up on what it does not want to read
					return
				}
				t.Fatal(err)
			}
			ok := false
			for _, code := range c.want {
				ok = ok || answer.Status == code
			}
			if !ok {
				t.Errorf("status %d, want %v: %.300s", answer.Status, c.want, answer.Body)
			}
			refusal(t, answer)
			if after := placeOf(n); after != before {
				t.Errorf("the store moved from %+v to %+v", before, after)
			}
		})
	}
}

// refusal demands that an error answer says something, and nothing about the program's insides.
func refusal(t *testing.T, a *cluster.Answer) {
	t.Helper()
	if a.Status < 400 || a.Status == http.StatusMethodNotAllowed {
		return
	}
	var body struct {
		Errors []string `json:"errors"`
	}
	if err := json.Unmarshal(a.Body, &body); err != nil {
		t.Errorf("the refusal is no JSON: %.300s", a.Body)
	}
	for _, word := range []string{"goroutine", ".go:", "runtime error", "panic"} {
		if strings.Contains(string(a.Body), word) {
			t.Errorf("the refusal shows the program's insides: %.300s", a.Body)
		}
	}
}

func badActivationTokens(t *testing.T, primary, other *cluster.Node) {
	genuine := primary.SecondaryToken(cluster.DR, "genuine")
	foreign := foreignToken(t)
	expired := expiredToken(t, primary)
	spent := spentToken(t, primary)
	_, wrong, _ := ed25519.GenerateKey(rand.Reader)

	for _, c := range []struct{ name, token string }{
		{"an empty one", ""},
		{"no token at all", "hello"},
		{"three empty parts", ".."},
		{"a megabyte of dots", strings.Repeat(".", 1<<20)},
		{"alg none", resign(t, genuine, `{"alg":"none","typ":"JWT"}`, nil, func([]byte) []byte { return nil })},
		{"HS256 keyed with a guess", resign(t, genuine, `{"alg":"HS256","typ":"JWT"}`, nil, func(b []byte) []byte {
			m := hmac.New(sha256.New, []byte("guess"))
			m.Write(b)
			return m.Sum(nil)
		})},
		{"signed by a stranger", resign(t, genuine, "", nil, func(b []byte) []byte { return ed25519.Sign(wrong, b) })},
		{"a changed subject under the old signature", resign(t, genuine, "", map[string]any{"sub": "somebody"}, nil)},
		{"a later expiry under the old signature", resign(t, genuine, "", map[string]any{"exp": time.Now().Add(240 * time.Hour).Unix()}, nil)},
		{"one of the performance set", primary.SecondaryToken(cluster.Performance, "for-performance")},
		{"one of another cluster", foreign},
		{"an expired one", expired},
		{"a spent one", spent},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := placeOf(primary)
			body, _ := json.Marshal(map[string]string{"token": c.token, "primary_api_addr": primary.API})
			answer, err := other.Do(context.Background(), "POST", "sys/replication/dr/secondary/enable", body)
			if err != nil {
				t.Fatal(err)
			}
			if answer.Status < 400 {
				t.Fatalf("accepted: status %d: %s", answer.Status, answer.Body)
			}
			refusal(t, answer)
			t.Logf("%d %s", answer.Status, bytes.TrimSpace(answer.Body))
			if s := other.MustStatus(cluster.DR); s.Mode != "disabled" {
				t.Errorf("mode %q after the refusal, want disabled", s.Mode)
			}
			if value, found, err := other.Get(context.Background(), "kv/mine"); err != nil || !found || value != "kept" {
				t.Errorf("the record of the refused cluster: %q, %t, %v", value, found, err)
			}
			if after := placeOf(primary); c.name != "a spent one" && after != before {
				t.Errorf("the primary's store moved from %+v to %+v", before, after)
			}
		})
	}
	if strings.Contains(primary.Log()+other.Log(), genuine) {
		t.Error("a log holds an activation token")
	}
}

// resign takes a token apart and puts it together with another header, other
// claims and another signature; nil keeps the signature.
func resign(t *testing.T, token, header string, claims map[string]any, sign func([]byte) []byte) string {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("an activation token has %d parts, want 3", len(parts))
	}
	if header != "" {
		parts[0] = base64.RawURLEncoding.EncodeToString([]byte(header))
	}
	if claims != nil {
		text, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]any{}
		if err := json.Unmarshal(text, &all); err != nil {
			t.Fatal(err)
		}
		for k, v := range claims {
			all[k] = v
		}
		text, _ = json.Marshal(all)
		parts[1] = base64.RawURLEncoding.EncodeToString(text)
	}
	if sign != nil {
		parts[2] = base64.RawURLEncoding.EncodeToString(sign([]byte(parts[0] + "." + parts[1])))
	}
	return strings.Join(parts, ".")
}

// foreignToken is a good token of a set that the primary knows nothing of.
func foreignToken(t *testing.T) string {
	stranger := cluster.New(t, "stranger", cluster.Options{})
	stranger.Start()
	stranger.Init()
	stranger.EnablePrimary(cluster.DR)
	token := stranger.SecondaryToken(cluster.DR, "guest")
	stranger.Stop()
	return token
}

func expiredToken(t *testing.T, primary *cluster.Node) string {
	answer := primary.MustDo("POST", "sys/replication/dr/primary/secondary-token", `{"id":"late","ttl":"1s"}`, 200)
	var wrapped struct {
		WrapInfo struct{ Token string } `json:"wrap_info"`
	}
	if err := json.Unmarshal(answer.Body, &wrapped); err != nil || wrapped.WrapInfo.Token == "" {
		t.Fatalf("no token in %s", answer.Body)
	}
	body, _ := json.Marshal(map[string]string{"token": wrapped.WrapInfo.Token})
	cluster.Eventually(t, cluster.Deadline, "the token has expired", func() (bool, string) {
		answer, err := primary.Do(context.Background(), "POST", "sys/wrapping/lookup", body)
		if err != nil {
			return false, err.Error()
		}
		return answer.Status >= 400, fmt.Sprintf("%d %s", answer.Status, answer.Body)
	})
	return wrapped.WrapInfo.Token
}

// spentToken enrols a cluster with a token and returns that token.
func spentToken(t *testing.T, primary *cluster.Node) string {
	first := cluster.New(t, "first", cluster.Options{})
	first.Start()
	first.Init()
	token := primary.SecondaryToken(cluster.DR, "first")
	if _, err := first.Client().Logical().Write("sys/replication/dr/secondary/enable", map[string]any{"token": token}); err != nil {
		t.Fatal(err)
	}
	cluster.WaitConverged(t, cluster.Deadline, primary, first, cluster.DR)
	first.Stop()
	return token
}

func unwrapWithoutRequest(t *testing.T, primary *cluster.Node) {
	token := primary.SecondaryToken(cluster.DR, "patient")
	body, _ := json.Marshal(map[string]string{"token": token})
	for range 2 {
		answer := primary.MustDo("POST", "sys/wrapping/unwrap", string(body), 400)
		refusal(t, answer)
	}
	patient := cluster.New(t, "patient", cluster.Options{})
	patient.Start()
	patient.Init()
	if _, err := patient.Client().Logical().Write("sys/replication/dr/secondary/enable", map[string]any{"token": token}); err != nil {
		t.Fatalf("the token was spent by an unwrap without a certificate request: %v", err)
	}
	cluster.WaitConverged(t, cluster.Deadline, primary, patient, cluster.DR)
	patient.Stop()
}

func garbageOnClusterPort(t *testing.T, primary *cluster.Node) {
	noise := make([]byte, 64<<10)
	_, _ = rand.Read(noise)
	stranger := selfSigned(t)
	for _, c := range []struct {
		name string
		tls  bool
		send func(net.Conn) error
	}{
		{"noise", false, func(c net.Conn) error { _, err := c.Write(noise); return err }},
		{"an HTTP request", false, func(c net.Conn) error { _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); return err }},
		{"half a TLS record", false, func(c net.Conn) error {
			if _, err := c.Write([]byte{22, 3, 1, 255, 255, 1}); err != nil {
				return err
			}
			return c.(*net.TCPConn).CloseWrite()
		}},
		{"TLS without a certificate", true, func(c net.Conn) error {
			return talk(tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}))
		}},
		{"TLS with a stranger's certificate", true, func(c net.Conn) error {
			return talk(tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{stranger}}))
		}},
		{"TLS 1.2", true, func(c net.Conn) error {
			return talk(tls.Client(c, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := placeOf(primary)
			conn, err := net.DialTimeout("tcp", primary.Cluster, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			if err := c.send(conn); c.tls {
				if err == nil {
					t.Error("the cluster port talked to a stranger")
				}
				t.Logf("refused: %v", err)
			} else {
				var slow net.Error
				if _, err := io.Copy(io.Discard, conn); errors.As(err, &slow) && slow.Timeout() {
					t.Error("the cluster port keeps a connection that sends nothing it knows")
				}
			}
			if after := placeOf(primary); after != before {
				t.Errorf("the store moved from %+v to %+v", before, after)
			}
		})
	}
}

// talk finishes a handshake and asks for an answer: with TLS 1.3 a refused
// client certificate shows only at the first read. nil means that the server
// talked to a stranger.
func talk(c *tls.Conn) error {
	if err := c.Handshake(); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	// An HTTP/2 preface and an empty SETTINGS frame.
	if _, err := c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	b := make([]byte, 1)
	if _, err := c.Read(b); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return nil
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "dr-1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
