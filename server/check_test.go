package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckLooksAtWhatTheFileNames(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writeCertificate(t, certFile, keyFile, 1) // for 127.0.0.1
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(dir, "lockstep.hcl")
	check := func(api, address, data string) error {
		text := fmt.Sprintf("api_addr = %q\nstorage \"bbolt\" {\n path = %q\n}\nlistener \"tcp\" {\n address = %q\n tls_cert_file = %q\n tls_key_file = %q\n}\n",
			api, data, address, certFile, keyFile)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Check(context.Background(), file)
	}
	free, data := fmt.Sprintf("127.0.0.1:%d", freePair(t)), filepath.Join(dir, "deep", "data")
	if err := check("https://127.0.0.1:8200", free, data); err != nil {
		t.Errorf("nothing is wrong, and yet: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(data)); !errors.Is(err, os.ErrNotExist) {
		t.Error("the check made a directory")
	}
	for _, c := range []struct{ name, api, address, data, want string }{
		{"a name that the certificate does not hold", "https://127.0.0.2:8200", free, data, "lockstep.hcl:1: api_addr: the certificate does not hold for it"},
		{"an address in use", "https://127.0.0.1:8200", taken.Addr().String(), data, "lockstep.hcl:6: cannot listen on " + taken.Addr().String()},
		{"a file for a data directory", "https://127.0.0.1:8200", free, certFile, "lockstep.hcl:3: path: " + certFile + " is no directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := check(c.api, c.address, c.data)
			if err == nil || !IsMistakes(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
