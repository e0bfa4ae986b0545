package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// Stream makes a request below /v1/ whose answer is read as it comes, in any time. An answer of 400 or more is an *APIError.
func (c *Client) Stream(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, error) {
	r, err := c.request(ctx, method, path, nil)
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Body = io.NopCloser(body)
	}
	patient := *c.HTTP
	patient.Timeout = 0
	answer, err := patient.Do(r)
	if err != nil {
		return nil, c.explain(err)
	}
	if answer.StatusCode < http.StatusBadRequest {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return nil, decode(method, bare(path), answer.StatusCode, text, nil)
}

// Send is Stream whose answer is decoded into out.
func (c *Client) Send(ctx context.Context, method, path string, body io.Reader, out any) error {
	answer, err := c.Stream(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	text, err := io.ReadAll(io.LimitReader(answer, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return decode(method, bare(path), http.StatusOK, text, out)
}
