package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// running is a server of a test.
type running struct {
	t    *testing.T
	cfg  *Config
	url  string
	stop context.CancelFunc
	done chan error
	log  *syncBuffer
}

// testConfig is a development server's, on ports of its own.
func testConfig(t *testing.T) *Config {
	t.Helper()
	cfg := DevConfig(fmt.Sprintf("127.0.0.1:%d", freePair(t)), t.TempDir(), "root-of-the-test")
	cfg.MinFree = 16 << 20
	return cfg
}

func freePair(t *testing.T) int {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		next, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		ln.Close()
		if err == nil {
			next.Close()
			return port
		}
	}
	t.Fatal("no two free ports in a row")
	return 0
}

// runServer starts a server and waits until it is ready.
func runServer(t *testing.T, cfg *Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, cfg: cfg, stop: cancel, done: make(chan error, 1), log: &syncBuffer{}}
	cfg.Logger = hclog.New(&hclog.LoggerOptions{Name: "lockstep", Level: hclog.Debug, Output: r.log})
	ready := make(chan Addresses, 1)
	cfg.Ready = func(a Addresses) { ready <- a }
	go func() { r.done <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err, ok := <-r.done; ok && err != nil && !t.Failed() {
			t.Errorf("the server ended with %v", err)
		}
	})
	select {
	case a := <-ready:
		r.url = a.API
	case err := <-r.done:
		close(r.done)
		t.Fatalf("the server ended: %v\n%s", err, r.log)
	}
	return r
}

// end waits for the end, which the test asked for or caused.
func (r *running) end() error {
	err := <-r.done
	close(r.done)
	return err
}

func (r *running) do(method, path, body string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", r.cfg.Dev.RootToken)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func (r *running) mustDo(method, path, body string, want int) string {
	r.t.Helper()
	got, text := r.do(method, path, body)
	if got != want {
		r.t.Fatalf("%s %s: got %d %s, want %d\n%s", method, path, got, text, want, r.log)
	}
	return text
}

func TestAServerKeepsWhatItAcknowledgedOverAStop(t *testing.T) {
	cfg := testConfig(t)
	r := runServer(t, cfg)
	r.mustDo("PUT", "secret/data/app", `{"data":{"k":"v"}}`, 200)
	r.stop()
	if err := r.end(); err != nil {
		t.Fatalf("stopped with %v", err)
	}
	if strings.Contains(r.log.String(), cfg.Dev.RootToken) {
		t.Error("the log holds the root token")
	}
	again := *cfg
	r = runServer(t, &again)
	if got := r.mustDo("GET", "secret/data/app", "", 200); !strings.Contains(got, `"k":"v"`) {
		t.Errorf("got %s", got)
	}
}

func TestMintingATokenOfflineKeepsTheLogThatSecondariesNeed(t *testing.T) {
	cfg := testConfig(t)
	r := runServer(t, cfg)
	r.mustDo("PUT", "sys/replication/dr/primary/enable", "{}", 200)
	r.mustDo("PUT", "sys/replication/dr/primary/secondary-token", `{"id":"eu"}`, 200)
	r.mustDo("PUT", "secret/data/app", `{"data":{"a":"b"}}`, 200)
	r.stop()
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if _, err := MintRootOffline(t.Context(), cfg, Unsealer{}, hclog.NewNullLogger()); err != nil {
		t.Fatal(err)
	}
	s, err := InspectLive(cfg.DataDir, Unsealer{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.Log.First(); got != 1 {
		t.Errorf("the log begins at %d, want 1", got)
	}
}

func TestTheSecondServerOnADirectoryIsRefused(t *testing.T) {
	r := runServer(t, testConfig(t))
	second := testConfig(t)
	second.DataDir = r.cfg.DataDir
	second.Logger = hclog.NewNullLogger()
	err := Run(context.Background(), second)
	var inUse *InUse
	if !errors.As(err, &inUse) || inUse.PID != os.Getpid() {
		t.Errorf("got %v, want *InUse with this process's id", err)
	}
}

func TestAPortInUseEndsTheStartAndFreesTheDirectory(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cfg := DevConfig(ln.Addr().String(), t.TempDir(), "root")
	cfg.Logger = hclog.NewNullLogger()
	if err := Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Errorf("got %v, want an error that names the address", err)
	}
	if lockedByOther(cfg.DataDir) {
		t.Error("the data directory is still locked")
	}
}

func TestAClusterPortInUseEndsTheServer(t *testing.T) {
	cfg := testConfig(t)
	_, n, err := splitAddress(cfg.Listener.Address)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", n+1))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cfg.Logger = hclog.NewNullLogger()
	if err := Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Errorf("got %v, want an error that names the address", err)
	}
}

func TestAFailedCommitEndsTheServerAndNamesTheFile(t *testing.T) {
	cfg := testConfig(t)
	var broken atomic.Bool
	cfg.Seam = func(file string, commit func() error) error {
		if broken.Load() && strings.HasSuffix(file, ".wal") {
			return errors.New("the disk is gone")
		}
		return commit()
	}
	r := runServer(t, cfg)
	r.mustDo("PUT", "secret/data/app", `{"data":{"k":"v"}}`, 200)
	broken.Store(true)
	if code, text := r.do("PUT", "secret/data/app", `{"data":{"k":"lost"}}`); code == 200 {
		t.Errorf("a write that could not be made durable was acknowledged: %s", text)
	}
	err := r.end()
	if err == nil || !strings.Contains(err.Error(), ".wal") || !strings.Contains(err.Error(), "the disk is gone") {
		t.Errorf("ended with %v, want the file and the cause", err)
	}
	broken.Store(false)
	again := *cfg
	r = runServer(t, &again)
	if got := r.mustDo("GET", "secret/data/app", "", 200); !strings.Contains(got, `"k":"v"`) {
		t.Errorf("got %s", got)
	}
}

func TestReloadTakesANewCertificateAndLogLevel(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	first := writeCertificate(t, certFile, keyFile, 1)
	file := filepath.Join(dir, "lockstep.hcl")
	write := func(level string) {
		text := fmt.Sprintf("log_level = %q\nmin_free = \"16MiB\"\nstorage \"bbolt\" {\n path = %q\n}\nlistener \"tcp\" {\n address = \"127.0.0.1:%d\"\n"+
			" tls_cert_file = %q\n tls_key_file = %q\n}\n", level, filepath.Join(dir, "data"), freePair(t), certFile, keyFile)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("info")
	cfg, err := ReadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	reload := make(chan struct{})
	cfg.Reload, cfg.Dev = reload, &Dev{RootToken: "root"}
	r := runServer(t, cfg)
	if got := served(t, r.url); !got.Equal(first) {
		t.Fatal("the server shows another certificate than the configured one")
	}

	second := writeCertificate(t, certFile, keyFile, 2)
	write("error")
	reload <- struct{}{}
	reload <- struct{}{} // taken only when the first has been done
	if got := served(t, r.url); !got.Equal(second) {
		t.Error("the new certificate is not served")
	}
	if cfg.Logger.GetLevel() != hclog.Error {
		t.Errorf("log level is %v, want error", cfg.Logger.GetLevel())
	}

	if err := os.WriteFile(certFile, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	reload <- struct{}{}
	reload <- struct{}{}
	if got := served(t, r.url); !got.Equal(second) {
		t.Error("a broken file replaced the certificate")
	}
	if !strings.Contains(r.log.String(), "nothing was changed") {
		t.Error("the log does not tell that the reload failed")
	}
}

// served returns the certificate that an address shows.
func served(t *testing.T, url string) *x509.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestAHugeHeaderIsRefused(t *testing.T) {
	r := runServer(t, testConfig(t))
	req, err := http.NewRequest("GET", r.url+"/v1/sys/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Big", strings.Repeat("x", 2*maxHeaderBytes))
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d, want %d", answer.StatusCode, http.StatusRequestHeaderFieldsTooLarge)
	}
}

// decoded returns a JSON answer.
func decoded(t *testing.T, text string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.NewDecoder(bytes.NewReader([]byte(text))).Decode(&out); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}
