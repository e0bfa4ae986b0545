package cluster

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
)

// Value returns a value of a size that is another for each n and generation.
func Value(n, generation, size int) string {
	head := fmt.Sprintf("value-%d-%09d.", generation, n)
	return head + strings.Repeat("v", max(0, size-len(head)))
}

// fillers write at once, each in turns of fillTurn requests that go out together: the server groups the writes of many connections, and
// the client, which runs under the race detector, pays little for a request.
const (
	fillers  = 64
	fillTurn = 16
	readers  = 4
)

// Fill writes n records of a size below a path, many at once:
// path/000000000 and so on, with Value(i, 0, size).
func Fill(t testing.TB, node *Node, path string, n, size int) {
	t.Helper()
	var next atomic.Int64
	var all errgroup.Group
	for range fillers {
		all.Go(func() error {
			w, err := node.pipeline()
			if err != nil {
				return err
			}
			defer w.conn.Close()
			for {
				from := int(next.Add(fillTurn)) - fillTurn
				if from >= n {
					return nil
				}
				if err := w.putAll(path, from, min(from+fillTurn, n), size); err != nil {
					return err
				}
			}
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatalf("fill %s: %v\n%s", node.Name, err, node.LogTail(30))
	}
}

// Shows returns an error unless a node shows each record, path below /v1/ to value of Put, to who holds a token.
func (n *Node) Shows(token string, records map[string]string) error {
	paths := make(chan []string, len(records)/fillTurn+1)
	for turn := range slices.Chunk(slices.Collect(maps.Keys(records)), fillTurn) {
		paths <- turn
	}
	close(paths)
	var all errgroup.Group
	for range readers {
		all.Go(func() error {
			r, err := n.pipeline()
			if err != nil {
				return err
			}
			defer r.conn.Close()
			for turn := range paths {
				if err := r.getAll(token, turn, records); err != nil {
					return fmt.Errorf("%s: %w", n.Name, err)
				}
			}
			return nil
		})
	}
	return all.Wait()
}

// getAll reads records that must be there and have their values.
func (p *pipeline) getAll(token string, paths []string, want map[string]string) error {
	for _, path := range paths {
		fmt.Fprintf(p.out, "GET /v1/%s HTTP/1.1\r\nHost: fill\r\nX-Vault-Token: %s\r\n\r\n", path, token)
	}
	if err := p.out.Flush(); err != nil {
		return err
	}
	for _, path := range paths {
		answer, err := http.ReadResponse(p.in, nil)
		if err != nil {
			return fmt.Errorf("GET %s: %w", path, err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			return fmt.Errorf("GET %s: %w", path, err)
		}
		if got := (&Answer{answer.StatusCode, answer.Header, body}).Data("value"); answer.StatusCode != http.StatusOK || got != want[path] {
			return fmt.Errorf("%s was acknowledged; GET answers %s, %.60q, want %.30q", path, answer.Status, body, want[path])
		}
	}
	return nil
}

// pipeline is a connection on which requests are sent without waiting for the answers of those before.
type pipeline struct {
	node *Node
	conn net.Conn
	out  *bufio.Writer
	in   *bufio.Reader
}

func (n *Node) pipeline() (*pipeline, error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.API, "http://"))
	if err != nil {
		return nil, err
	}
	return &pipeline{n, conn, bufio.NewWriter(conn), bufio.NewReader(conn)}, nil
}

// putAll writes records from, …, to-1 and waits until all are acknowledged. Requests and answers are taken for what they are, lines of text: with the race
// detector package net/http costs more than the server.
func (p *pipeline) putAll(path string, from, to, size int) error {
	head := " HTTP/1.1\r\nHost: fill\r\nX-Vault-Token: " + p.node.Token + "\r\nContent-Length: "
	for i := from; i < to; i++ {
		body := `{"value":"` + Value(i, 0, size) + `"}`
		for _, text := range []string{"PUT /v1/", Key(path, i), head, strconv.Itoa(len(body)), "\r\n\r\n", body} {
			p.out.WriteString(text) // an error shows at Flush
		}
	}
	if err := p.out.Flush(); err != nil {
		return err
	}
	for i := from; i < to; i++ {
		if err := p.answered(); err != nil {
			return fmt.Errorf("PUT %s: %w", Key(path, i), err)
		}
	}
	return nil
}

// answered reads one answer, which must be 204: it ends with an empty line.
func (p *pipeline) answered() error {
	status, err := p.in.ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(status, "HTTP/1.1 204 ") {
		rest := make([]byte, p.in.Buffered())
		n, _ := io.ReadFull(p.in, rest)
		return fmt.Errorf("%s%s", status, rest[:n])
	}
	for {
		line, err := p.in.ReadSlice('\n')
		if err != nil || len(line) == len("\r\n") {
			return err
		}
	}
}

// Key is the path of Fill's record i.
func Key(path string, i int) string { return fmt.Sprintf("%s/%09d", path, i) }
