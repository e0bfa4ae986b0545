package client

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// FromEnvironment returns the client that VAULT_ADDR, VAULT_TOKEN,
// VAULT_CACERT, VAULT_CAPATH and VAULT_SKIP_VERIFY describe; the same names
// with LOCKSTEP_ win. VAULT_CACERT wins over VAULT_CAPATH.
func FromEnvironment(getenv func(string) string) (*Client, error) {
	look := func(name string) (value, from string) {
		for _, prefix := range []string{"LOCKSTEP_", "VAULT_"} {
			if v := getenv(prefix + name); v != "" {
				return v, prefix + name
			}
		}
		return "", ""
	}
	address, from := look("ADDR")
	switch {
	case address == "":
		address = DefaultAddress
	case !strings.Contains(address, "://"):
		return nil, fmt.Errorf("%s=%s: scheme missing: write https://%s, or http:// where TLS is off", from, address, address)
	case !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://"):
		return nil, fmt.Errorf("%s=%s: want an address that begins with https:// or http://", from, address)
	}
	token, _ := look("TOKEN")
	c := New(address, token, 1)
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if text, from := look("SKIP_VERIFY"); text != "" {
		skip, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%s=%s: want true or false", from, text)
		}
		config.InsecureSkipVerify = skip
	}
	var err error
	if file, _ := look("CACERT"); file != "" {
		config.RootCAs, err = trusted([]string{file})
	} else if dir, _ := look("CAPATH"); dir != "" {
		config.RootCAs, err = trustedIn(dir)
	}
	if err != nil {
		return nil, err
	}
	c.HTTP.Transport.(*http.Transport).TLSClientConfig = config
	return c, nil
}

// trusted returns the CAs of PEM files, the only ones that are then believed.
func trusted(files []string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the CA's certificate: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", file)
		}
	}
	return pool, nil
}

// trustedIn takes every file of a directory.
func trustedIn(dir string) (*x509.CertPool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the CAs' certificates: %w", err)
	}
	var files []string
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		// Through links: a CA's directory is often full of them.
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			files = append(files, file)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no file with a CA's certificate", dir)
	}
	return trusted(files)
}
