package client

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ask makes the client of an environment ask for its health.
func ask(env map[string]string) error {
	c, err := FromEnvironment(func(name string) string { return env[name] })
	if err != nil {
		return err
	}
	return c.Do(context.Background(), "GET", "sys/health?activecode=299", nil, nil)
}

func TestAWrongAddressOrCertificateIsExplained(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	plain, secure := httptest.NewServer(answer), httptest.NewTLSServer(answer)
	defer plain.Close()
	defer secure.Close()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(secure.URL, "https://")
	for _, c := range []struct {
		name string
		env  map[string]string
		want string // in the error; empty: none
	}{
		{"plain HTTP", map[string]string{"VAULT_ADDR": plain.URL}, ""},
		{"the CA's file", map[string]string{"VAULT_ADDR": secure.URL, "VAULT_CACERT": ca}, ""},
		{"the CA's directory", map[string]string{"VAULT_ADDR": secure.URL, "VAULT_CAPATH": dir}, ""},
		{"no verification", map[string]string{"VAULT_ADDR": secure.URL, "VAULT_SKIP_VERIFY": "true"}, ""},
		{"our name wins", map[string]string{"VAULT_ADDR": "nonsense", "LOCKSTEP_ADDR": plain.URL}, ""},
		{"an unknown CA", map[string]string{"VAULT_ADDR": secure.URL}, "set VAULT_CACERT"},
		{"no scheme", map[string]string{"VAULT_ADDR": host}, "VAULT_ADDR=" + host + ": scheme missing: write https://" + host},
		{"another scheme", map[string]string{"LOCKSTEP_ADDR": "ftp://x"}, "LOCKSTEP_ADDR=ftp://x: want"},
		{"TLS asked of plain HTTP", map[string]string{"VAULT_ADDR": "https" + strings.TrimPrefix(plain.URL, "http")}, "set VAULT_ADDR to http://"},
		{"plain HTTP asked of TLS", map[string]string{"VAULT_ADDR": "http://" + host}, "set VAULT_ADDR to https://"},
		{"no answer to skip-verify", map[string]string{"VAULT_ADDR": secure.URL, "VAULT_SKIP_VERIFY": "maybe"}, "want true or false"},
		{"an empty directory", map[string]string{"VAULT_ADDR": secure.URL, "VAULT_CAPATH": t.TempDir()}, "holds no file"},
		{"nobody there", map[string]string{"VAULT_ADDR": "http://127.0.0.1:1"}, "GET http://127.0.0.1:1/v1/sys/health: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := ask(c.env)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want …%s…", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "?") {
				t.Errorf("the query is shown: %v", err)
			}
		})
	}
}
