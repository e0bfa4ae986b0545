// Package client makes requests to a cluster's HTTP API for the operator's
// commands and the demo. It never repeats a request by itself.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// DefaultAddress is asked when no environment variable names another.
const DefaultAddress = "https://127.0.0.1:8200"

const (
	timeout   = 60 * time.Second
	maxAnswer = 64 << 20
)

// Client asks one cluster. It is safe for concurrent use.
type Client struct {
	Address string // URL, without the path
	Token   string // secret; may be empty
	HTTP    *http.Client
}

// New returns a client that keeps up to connections idle ones open.
func New(address, token string, connections int) *Client {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: connections, MaxIdleConnsPerHost: connections,
		IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true}
	return &Client{Address: strings.TrimSuffix(address, "/"), Token: token, HTTP: &http.Client{Transport: t, Timeout: timeout}}
}

// APIError is an answer that is an error.
type APIError struct {
	Method, Path string
	Status       int
	Errors       []string
}

func (e *APIError) Error() string {
	what := strings.Join(e.Errors, "; ")
	if what == "" {
		what = http.StatusText(e.Status)
	}
	return fmt.Sprintf("%s %s: %d: %s", e.Method, e.Path, e.Status, what)
}

// Do makes a request below /v1/. body, when not nil, is sent as JSON. The
// answer is decoded into out, when that is not nil. An answer of 400 or more is
// an *APIError; out is then filled as far as the answer goes.
func (c *Client) Do(ctx context.Context, method, path string, body, out any) error {
	request, err := c.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	answer, err := c.HTTP.Do(request)
	if err != nil {
		return c.explain(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	if answer.StatusCode == http.StatusBadRequest && bytes.HasPrefix(text, []byte("Client sent an HTTP request to an HTTPS server")) {
		return fmt.Errorf("%s %s: the server at %s speaks TLS: set VAULT_ADDR to https://…", method, bare(path), c.Address)
	}
	return decode(method, bare(path), answer.StatusCode, text, out)
}

func (c *Client) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("%s %s: encode the request: %w", method, path, err)
		}
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.Address+"/v1/"+path, content)
	if err != nil {
		return nil, fmt.Errorf("make a request to %s: %w", c.Address, err)
	}
	if c.Token != "" {
		r.Header.Set("X-Vault-Token", c.Token)
	}
	r.Header.Set("X-Vault-Request", "true")
	return r, nil
}

func decode(method, path string, status int, text []byte, out any) error {
	if out != nil && len(text) > 0 {
		if err := json.Unmarshal(text, out); err != nil && status < 400 {
			return fmt.Errorf("%s %s: the answer is no JSON of the form expected: %w", method, path, err)
		}
	}
	if status < 400 {
		return nil
	}
	failed := &APIError{Method: method, Path: path, Status: status}
	var said struct{ Errors []string }
	if json.Unmarshal(text, &said) == nil {
		failed.Errors = said.Errors
	}
	return failed
}
