package server

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keyFiles makes a self-signed certificate and returns its files.
func keyFiles(t *testing.T, serial int64) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writeCertificate(t, certFile, keyFile, serial)
	return certFile, keyFile
}

func TestCertificatesOfClients(t *testing.T) {
	certFile, keyFile := keyFiles(t, 1)
	known, knownKey := keyFiles(t, 2)
	other, otherKey := keyFiles(t, 3)
	bundle := filepath.Join(t.TempDir(), "clients.pem")
	trust := func(file string) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(bundle, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust(known)
	cfg := testConfig(t)
	reload := make(chan struct{})
	cfg.Reload = reload
	l := &cfg.Listener
	l.TLSDisable, l.TLSCertFile, l.TLSKeyFile = false, certFile, keyFile
	l.TLSClientCAFile, l.TLSRequireClientCert = bundle, true
	r := runServer(t, cfg)
	ask := func(certFile, keyFile string) error {
		client := &tls.Config{InsecureSkipVerify: true}
		if certFile != "" {
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			if err != nil {
				t.Fatal(err)
			}
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		transport := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		answer, err := (&http.Client{Transport: transport}).Get(r.url + "/v1/sys/health")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != 200 || answer.ProtoMajor != 2 {
			return fmt.Errorf("%s %s", answer.Proto, answer.Status)
		}
		return nil
	}
	if err := ask(known, knownKey); err != nil {
		t.Errorf("with a certificate that is trusted: %v", err)
	}
	for name, files := range map[string][2]string{"without": {}, "with another's": {other, otherKey}} {
		if err := ask(files[0], files[1]); err == nil {
			t.Errorf("%s certificate a client was served", name)
		}
	}
	trust(other)
	reload <- struct{}{}
	reload <- struct{}{} // taken only when the first has been done
	if err := ask(other, otherKey); err != nil {
		t.Errorf("with a certificate that is trusted since the reload: %v", err)
	}
	if err := ask(known, knownKey); err == nil {
		t.Error("what is trusted no more was served")
	}
}

func TestListenerMistakes(t *testing.T) {
	for _, c := range []struct{ name, settings, want string }{
		{"all of them right", "tls_cert_file = \"/c\"\n tls_key_file = \"/k\"\n tls_client_ca_file = \"/a\"\n tls_require_and_verify_client_cert = true\n tls_cipher_suites = \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\"\n" +
			" http_read_header_timeout = \"5s\"\n http_read_timeout = 20\n http_write_timeout = \"1m\"\n http_idle_timeout = \"3m\"\n max_connections = 100\n rate_limit = 50.5\n rate_limit_per_address = \"0.5\"\n telemetry { unauthenticated_metrics_access = true }", ""},
		{"whose certificates", "tls_cert_file = \"/c\"\n tls_key_file = \"/k\"\n tls_require_and_verify_client_cert = true", "c.hcl:5: tls_require_and_verify_client_cert needs tls_client_ca_file"},
		{"both ways", "tls_cert_file = \"/c\"\n tls_key_file = \"/k\"\n tls_client_ca_file = \"/a\"\n tls_disable_client_certs = true", "c.hcl:6: tls_disable_client_certs makes"},
		{"without TLS", "tls_disable = 1\n tls_client_ca_file = \"/a\"", "c.hcl:4: certificates of clients need TLS"},
		{"suites that have no effect", "tls_cert_file = \"/c\"\n tls_key_file = \"/k\"\n tls_min_version = \"tls13\"\n tls_cipher_suites = \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"", "c.hcl:6: tls_cipher_suites: TLS 1.3 takes no choice"},
		{"a suite of TLS 1.3", "tls_cert_file = \"/c\"\n tls_key_file = \"/k\"\n tls_cipher_suites = \"TLS_AES_128_GCM_SHA256\"", "c.hcl:5: tls_cipher_suites: cipher suite TLS_AES_128_GCM_SHA256 is of TLS 1.3"},
		{"a suite that is not safe", "tls_cert_file = \"/c\"\n tls_key_file = \"/k\"\n tls_cipher_suites = \"TLS_RSA_WITH_RC4_128_SHA\"", "not known or not safe"},
		{"no suite for HTTP/2", "tls_cert_file = \"/c\"\n tls_key_file = \"/k\"\n tls_cipher_suites = \"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384\"", "HTTP/2 demands"},
		{"no time at all", "tls_disable = 1\n http_write_timeout = \"1ms\"", "c.hcl:4: http_write_timeout: 1ms is too little"},
		{"no rate", "tls_disable = 1\n rate_limit = 0", "c.hcl:4: rate_limit: want requests a second"},
		{"a rate that is none", "tls_disable = 1\n rate_limit_per_address = \"NaN\"", "c.hcl:4: rate_limit_per_address: want requests a second"},
		{"no connections", "tls_disable = 1\n max_connections = 0", "c.hcl:4: max_connections: want a whole number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseConfig("c.hcl", []byte("storage \"bbolt\" { path = \"/d\" }\nlistener \"tcp\" {\n "+c.settings+"\n}\n"))
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v, want %s", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			l := got.Listener
			if l.ReadHeaderTimeout != 5*time.Second || l.ReadTimeout != 20*time.Second || l.WriteTimeout != time.Minute || l.IdleTimeout != 3*time.Minute ||
				l.MaxConnections != 100 || l.RateLimit != 50.5 || l.RateLimitPerAddress != 0.5 || !l.OpenMetrics || !l.TLSRequireClientCert || l.TLSClientCAFile != "/a" {
				t.Errorf("got %+v", l)
			}
		})
	}
}

// A client that reads nothing must not hold an answer for ever.
func TestAClientThatDoesNotReadIsLetGo(t *testing.T) {
	ended := make(chan error, 1)
	big := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, err := w.Write(make([]byte, 64<<20))
		ended <- err
	})
	srv := httptest.NewServer(patience{big, time.Minute, 100 * time.Millisecond})
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("64 MiB were written to a client that reads nothing")
		}
	case <-time.After(time.Minute):
		t.Error("the answer still waits for the client")
	}
}

func TestCipherSuitesAreUsed(t *testing.T) {
	certFile, keyFile := keyFiles(t, 1)
	cfg := testConfig(t)
	cfg.Listener.TLSDisable, cfg.Listener.TLSCertFile, cfg.Listener.TLSKeyFile = false, certFile, keyFile
	cfg.Listener.TLSCipherSuites = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
	r := runServer(t, cfg)
	address := strings.TrimPrefix(r.url, "https://")
	dial := func(suite uint16) error {
		c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
		if err == nil {
			err = c.Close()
		}
		return err
	}
	if err := dial(tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256); err != nil {
		t.Errorf("the suite that is configured: %v", err)
	}
	if err := dial(tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384); err == nil {
		t.Error("a suite that is not configured was taken")
	}
}
