package load

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestAnswersAreReadToTheirEndAndNotBeyond(t *testing.T) {
	const next = "HTTP/1.1 204 No Content\r\n\r\n"
	for _, row := range []struct {
		name, text string
		body       string
		status     int  // of a refusal
		broken     bool // an error that is not about the status
	}{
		{name: "no content", text: "HTTP/1.1 204 No Content\r\nDate: today\r\n\r\n"},
		{name: "a body with a length", text: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", body: "hello"},
		{name: "a name in small letters, blanks around the value", text: "HTTP/1.1 200 OK\r\ncontent-length: \t5 \r\n\r\nhello", body: "hello"},
		{name: "an empty body", text: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{name: "chunks", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", body: "hello0123456789"},
		{name: "a refusal with its body", text: "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull", status: 503},
		{name: "a redirect is no success", text: "HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\n\r\n", status: 307},
		{name: "a connection that is closed", text: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", broken: true},
		{name: "an answer that nobody asked for", text: "HTTP/1.1 100 Continue\r\n\r\n", broken: true},
		{name: "another version", text: "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", broken: true},
		{name: "no length", text: "HTTP/1.1 200 OK\r\n\r\n", broken: true},
		{name: "two lengths", text: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", broken: true},
		{name: "a negative length", text: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", broken: true},
		{name: "a chunk longer than it says", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nhello\r\n0\r\n\r\n", broken: true},
		{name: "half of a body", text: "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello", broken: true},
	} {
		in := bufio.NewReader(strings.NewReader(row.text + next))
		a := answer{keep: true}
		err := a.read(in)
		var refused *StatusError
		switch {
		case row.status != 0:
			if !errors.As(err, &refused) || refused.Status != row.status {
				t.Errorf("%s: got error %v, want status %d", row.name, err, row.status)
			}
		case row.broken:
			if err == nil || errors.As(err, &refused) {
				t.Errorf("%s: got error %v, want one about the answer", row.name, err)
			}
			continue
		case err != nil || string(a.body) != row.body:
			t.Errorf("%s: got %q, error %v; want %q", row.name, a.body, err, row.body)
		}
		if rest, _ := io.ReadAll(in); string(rest) != next {
			t.Errorf("%s: what follows it is %q, want %q", row.name, rest, next)
		}
	}
}

func TestAHeaderThatIsAskedForIsKept(t *testing.T) {
	a := answer{header: "x-vault-index"}
	text := "HTTP/1.1 204 No Content\r\nX-Vault-Index: abc=\r\nDate: today\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
	in := bufio.NewReader(strings.NewReader(text))
	for _, want := range []string{"abc=", ""} {
		if err := a.read(in); err != nil || a.value != want {
			t.Errorf("got %q, %v; want %q", a.value, err, want)
		}
	}
}

// FuzzReadAnswer demands that what is accepted here package net/http accepts too, with the same status and body.
func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 204 No Content\r\nDate: today\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 503 No\r\nContent-Length: 1\r\n\r\nx"))
	f.Fuzz(func(t *testing.T, text []byte) {
		a := answer{keep: true, header: "x-vault-index"}
		if err := a.read(bufio.NewReader(bytes.NewReader(text))); err != nil {
			return
		}
		want, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), nil)
		if err != nil {
			// It judges names and values of headers that do not matter here.
			if strings.Contains(err.Error(), "malformed MIME header") || strings.Contains(err.Error(), "malformed HTTP") {
				return
			}
			t.Fatalf("accepted %q, net/http says %v", text, err)
		}
		defer want.Body.Close()
		wantBody, err := io.ReadAll(want.Body)
		if err != nil || want.StatusCode < 200 || want.StatusCode > 299 || !bytes.Equal(a.body, wantBody) {
			t.Fatalf("accepted %q with %q, net/http says %d, %q, %v", text, a.body, want.StatusCode, wantBody, err)
		}
	})
}
