package replication

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/token"
)

// Limits of the calls to a primary's API.
const (
	apiTime     = 20 * time.Second // for each call
	maxAnswer   = 8 << 20          // bytes of an answer
	maxCABytes  = 1 << 20          // of ca_file, or of all files in ca_path
	maxFailText = 512              // of a primary's error in ours
)

// unreachable is an error text that tools know, which errors.Is finds as ErrUnreachable.
type unreachable struct{ err error }

func (u *unreachable) Error() string   { return u.err.Error() }
func (u *unreachable) Unwrap() []error { return []error{ErrUnreachable, u.err} }

func unreachablef(format string, args ...any) error {
	return &unreachable{fmt.Errorf(format, args...)}
}

// primaryAPI is the API listener of a primary, as a future secondary calls it.
type primaryAPI struct {
	base   *url.URL
	roots  *x509.CertPool // from ca_file or ca_path; nil: the token's fingerprint, else the system's
	claims token.Claims
	now    func() time.Time
	client *http.Client
}

// newPrimaryAPI checks address and CA parameters. Nothing is dialled yet.
func newPrimaryAPI(p SecondaryEnable, c token.Claims, now func() time.Time) (*primaryAPI, error) {
	addr := p.PrimaryAPIAddr
	if addr == "" {
		addr = c.Addr
	}
	if addr == "" {
		return nil, refuse("the token names no API address of the primary: give primary_api_addr")
	}
	base, err := url.Parse(strings.TrimRight(addr, "/"))
	if err != nil || (base.Scheme != "https" && base.Scheme != "http") || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Path != "" {
		return nil, refuse("the primary's API address must be https://host:port (or http://): give primary_api_addr")
	}
	roots, err := readRoots(p.CAFile, p.CAPath)
	if err != nil {
		return nil, refuse("%v", err)
	}
	a := &primaryAPI{base: base, roots: roots, claims: c, now: now}
	a.client = &http.Client{
		Transport: &http.Transport{
			DialContext:       (&net.Dialer{Timeout: dialTime}).DialContext,
			DialTLSContext:    a.dialTLS,
			DisableKeepAlives: true,
		},
		// The token goes where the operator said and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       apiTime,
	}
	return a, nil
}

// readRoots reads the CAs that vouch for the primary's API listener, from files on this server; nil when none are named.
func readRoots(file, dir string) (*x509.CertPool, error) {
	files := []string{file}
	what := "ca_file"
	if file == "" {
		if dir == "" {
			return nil, nil
		}
		what = "ca_path"
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("ca_path cannot be read: %w", err)
		}
		files = nil
		for _, e := range entries {
			if !e.IsDir() {
				files = append(files, filepath.Join(dir, e.Name()))
			}
		}
	}
	p, found, left := x509.NewCertPool(), false, int64(maxCABytes)
	for _, f := range files {
		b, err := readLimited(f, left)
		if err != nil {
			return nil, fmt.Errorf("%s cannot be read: %w", what, err)
		}
		left -= int64(len(b))
		found = p.AppendCertsFromPEM(b) || found
	}
	if !found {
		return nil, fmt.Errorf("%s holds no PEM certificate", what)
	}
	return p, nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes of certificates", path, maxCABytes)
	}
	return b, err
}

// hostPort is what is dialled.
func (a *primaryAPI) hostPort() string {
	port := a.base.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[a.base.Scheme]
	}
	return net.JoinHostPort(a.base.Hostname(), port)
}

// dialTLS connects to the API listener. With ca_file or ca_path those vouch for it. Without, the fingerprint in the token does: a Lockstep primary that is
// asked by the set's server name shows a certificate of the set's CA. A listener that does not (something stands before it) must be trusted by this system.
func (a *primaryAPI) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	if a.roots != nil {
		return handshake(ctx, addr, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: a.base.Hostname(), RootCAs: a.roots, Time: a.now})
	}
	name := serverName(Kind(a.claims.Kind), a.claims.Set)
	conn, pinErr := handshake(ctx, addr, &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: name,
		InsecureSkipVerify: true, // verified below: of the CA only the hash is known
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := verifyPinned(cs.PeerCertificates, a.claims.CAHash, name, a.now())
			return err
		},
	})
	if pinErr == nil {
		return conn, nil
	}
	conn, err := handshake(ctx, addr, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: a.base.Hostname(), Time: a.now})
	if err != nil {
		return nil, fmt.Errorf("%w (and by the token's fingerprint: %w); give ca_file or ca_path", err, pinErr)
	}
	return conn, nil
}

func handshake(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTime}, Config: cfg}
	ctx, cancel := context.WithTimeout(ctx, 2*dialTime)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

// health is what sys/health tells anybody.
type health struct {
	Initialized bool   `json:"initialized"`
	Sealed      bool   `json:"sealed"`
	Version     string `json:"version"`
	Time        int64  `json:"server_time_utc"`
	asked       time.Time
	answered    time.Time
}

// health asks sys/health; every status is an answer.
func (a *primaryAPI) health(ctx context.Context) (*health, error) {
	h := &health{asked: a.now()}
	_, body, err := a.call(ctx, http.MethodGet, "/v1/sys/health", nil)
	if err != nil {
		return nil, err
	}
	h.answered = a.now()
	if err := json.Unmarshal(body, h); err != nil || h.Version == "" {
		return nil, errors.New("what answers there is not the API of a primary: give its API address, not its cluster address, as primary_api_addr")
	}
	return h, nil
}

// skew is the least difference of clocks that the answer leaves possible: the primary tells whole seconds, at some moment between question and answer.
func (h *health) skew() time.Duration {
	early, late := time.Unix(h.Time, 0), time.Unix(h.Time+1, 0)
	switch {
	case early.After(h.answered):
		return early.Sub(h.answered)
	case late.Before(h.asked):
		return late.Sub(h.asked)
	}
	return 0
}

// statusError is an answer of the primary that is no success.
type statusError struct {
	code int
	text string // its own errors, shortened
}

func (e *statusError) Error() string {
	out := fmt.Sprintf("error response unwrapping secondary token; status code is %d, message is %q", e.code, fmt.Sprintf("%d %s", e.code, http.StatusText(e.code)))
	if e.text != "" {
		out += ": " + e.text
	}
	return out
}

// post sends a body and returns the envelope's data; a status other than 2xx is a *statusError.
func (a *primaryAPI) post(ctx context.Context, path string, in any, data any) error {
	code, body, err := a.call(ctx, http.MethodPost, path, mustJSON(in))
	if err != nil {
		return err
	}
	var env struct {
		Data   json.RawMessage `json:"data"`
		Errors []string        `json:"errors"`
	}
	decodeErr := json.Unmarshal(body, &env)
	if code < 200 || code > 299 {
		text := strings.Join(env.Errors, "; ")
		return &statusError{code: code, text: text[:min(len(text), maxFailText)]}
	}
	if decodeErr != nil || len(env.Data) == 0 {
		return &statusError{code: code, text: "the answer holds no data"}
	}
	if err := json.Unmarshal(env.Data, data); err != nil {
		return &statusError{code: code, text: "the answer does not decode"}
	}
	return nil
}

func (a *primaryAPI) call(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.base.String()+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Vault-Request", "true")
	res, err := a.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("%s %s: the answer has more than %d bytes", method, path, maxAnswer)
	}
	return res.StatusCode, b, err
}
