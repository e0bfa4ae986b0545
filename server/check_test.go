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

func TestCheckNamesAKeyFileThatCannotUnseal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, keyFile := filepath.Join(dir, "lockstep.hcl"), filepath.Join(dir, "unseal.key")
	text := fmt.Sprintf("storage \"bbolt\" {\n path = %q\n}\nlistener \"tcp\" {\n address = \"127.0.0.1:%d\"\n tls_disable = true\n}\nseal \"file\" {\n path = %q\n}\n",
		filepath.Join(dir, "data"), freePair(t), keyFile)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	const key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
	for _, c := range []struct {
		name, content string
		mode          os.FileMode
		want          string
	}{
		{"missing", "", 0, "lockstep.hcl:9: seal: key file " + keyFile + " is missing"},
		{"readable by others", key, 0o644, "lockstep.hcl:9: seal: key file " + keyFile + " can be read by others (mode 0644): chmod 600 it"},
		{"no key", "secret words", 0o600, "lockstep.hcl:9: seal: key file " + keyFile + " holds no key of 256 bit"},
		{"a key", key, 0o600, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.mode != 0 {
				if err := os.WriteFile(keyFile, []byte(c.content), c.mode); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(keyFile, c.mode); err != nil { // whatever the umask, and of a file that was there
					t.Fatal(err)
				}
			}
			err := Check(context.Background(), file)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v, want no mistake", err)
			case c.want != "" && (err == nil || !IsMistakes(err) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			case err != nil && strings.Contains(err.Error(), "secret words"):
				t.Errorf("the error tells what the key file holds: %v", err)
			}
		})
	}
}
