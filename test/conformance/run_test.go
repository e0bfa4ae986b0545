package conformance

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// answer is what a server said.
type answer struct {
	status int
	header http.Header
	body   []byte
	json   any // nil without a body, or when that is no JSON
}

func send(n *cluster.Node, token, method, path, body string, headers [][2]string) (*answer, error) {
	native := strings.HasPrefix(path, "/")
	if !native {
		path = "/v1/" + path
	}
	req, err := http.NewRequestWithContext(context.Background(), method, n.API+path, strings.NewReader(strings.ReplaceAll(body, "⏎", "\n")))
	if err != nil {
		return nil, err
	}
	if native && body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	for _, h := range headers {
		if req.Header.Get("Content-Type") != "" && h[0] == "Content-Type" {
			req.Header.Del(h[0])
		}
		req.Header.Add(h[0], h[1])
	}
	got, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer got.Body.Close()
	a := &answer{status: got.StatusCode, header: got.Header}
	if a.body, err = io.ReadAll(io.LimitReader(got.Body, 16<<20)); err != nil {
		return nil, err
	}
	a.json, _ = decode(a.body)
	if a.status >= 400 {
		run.refusal(method+" "+path+" at "+n.Name, a.body)
	}
	return a, nil
}

// walker walks one table.
type walker struct {
	w       *world
	vars    map[string]string
	passed  []int // lines of marks of pending that are not needed any more
	pending int   // rows and expectations that were not there, as marked
}

// row walks a row's steps; the error says what was otherwise than told.
func (k *walker) row(r *row) error {
	for _, s := range r.steps {
		var err error
		switch {
		case s.run != "":
			err = k.do(s)
		case s.until && r.pending == "":
			err = k.await(s, awaited)
		case s.until:
			err = k.await(s, shortly)
		default:
			err = k.request(s, true)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.at, err)
		}
	}
	return nil
}

func (k *walker) do(s *step) error {
	n := k.w.nodes[s.node]
	if n == nil {
		return fmt.Errorf("there is no node %q", s.node)
	}
	switch s.run {
	case "kill":
		n.Kill()
	case "start":
		n.Start()
	case "launch":
		n.Launch()
	case "stop":
		n.Stop()
	case "mint":
		n.MintToken()
	case "rot":
		rotLeaf(k.w.t, n)
	}
	return nil
}

// rotLeaf changes a byte of the sum of an index leaf in a stopped node's state file, in every copy that lies there.
func rotLeaf(t testing.TB, n *cluster.Node) {
	t.Helper()
	file := filepath.Join(n.Store(), "state.db")
	var leaf []byte
	cluster.Offset(t, file, func(buckets []string, _, value []byte) int {
		if strings.HasPrefix(buckets[0], "l") && len(value) >= 32 { // "l" and a keyspace's id: its leaves
			leaf = bytes.Clone(value)
		}
		return -1
	})
	text, err := os.ReadFile(file)
	if err != nil || leaf == nil {
		t.Fatalf("%s has no index leaf: %v", file, err)
	}
	for from := 0; ; {
		at := bytes.Index(text[from:], leaf)
		if at < 0 {
			return
		}
		cluster.FlipByte(t, file, int64(from+at+12), 0x40) // behind level and count
		from += at + len(leaf)
	}
}

// awaited is how long until waits: longer than anything that a healthy server on a busy machine takes.
// A row that is pending is not worth that.
const (
	awaited = time.Minute
	shortly = 3 * time.Second
)

func (k *walker) await(s *step, limit time.Duration) error {
	end := time.Now().Add(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := k.request(s, false)
		if err == nil {
			return k.request(s, true)
		}
		if time.Now().After(end) {
			return err
		}
		<-tick.C
	}
}

var variableForm = regexp.MustCompile(`\$\{([^}]+)\}`)

// fill puts values in the place of variables.
func (k *walker) fill(text string) (string, error) {
	var missing error
	out := variableForm.ReplaceAllStringFunc(text, func(v string) string {
		name := v[2 : len(v)-1]
		if value, ok := k.vars[name]; ok {
			return value
		}
		value, ok := k.w.variable(name)
		if !ok {
			missing = fmt.Errorf("nothing was kept as %q", name)
		}
		return value
	})
	return out, missing
}

// request sends a step's request and judges the answer; final counts marks.
func (k *walker) request(s *step, final bool) error {
	n := k.w.nodes[s.node]
	if n == nil {
		return fmt.Errorf("there is no node %q", s.node)
	}
	path, err := k.fill(s.path)
	if err != nil {
		return err
	}
	body, err := k.fill(s.body)
	if err != nil {
		return err
	}
	if err := k.guard(n, s, path, body); err != nil {
		return err
	}
	token, err := k.fill(s.who)
	if s.who == token && err == nil {
		token, err = k.w.token(s.node, s.who)
	}
	if err != nil {
		return err
	}
	headers := slices.Clone(s.headers)
	for i := range headers {
		if headers[i][1], err = k.fill(headers[i][1]); err != nil {
			return err
		}
	}
	a, err := send(n, token, s.method, path, body, headers)
	if err != nil {
		return err
	}
	return k.judge(s, a, final)
}

// guard demands that whoever may not make a request is refused: without a
// token, with one that was revoked or is not of here, or lacks the capability.
func (k *walker) guard(n *cluster.Node, s *step, path, body string) error {
	if s.guard == "" {
		return nil
	}
	others := []string{"nobody", "foreign", "revoked", "weak"}
	if s.guard == "sudo" {
		others = append(others, "plain")
	}
	for _, who := range others {
		token, err := k.w.token(s.node, who)
		if err != nil {
			return err
		}
		a, err := send(n, token, s.method, path, body, s.headers)
		if err != nil {
			return err
		}
		if a.status != http.StatusForbidden || match(a.json, "errors", "~ permission denied") != nil {
			return fmt.Errorf("%s %s by %s: %d %s, want 403 permission denied", s.method, path, who, a.status, a.body)
		}
	}
	return nil
}

// secretPlace is where answers hold secrets; what is kept from there is looked for in refusals and logs.
var secretPlace = regexp.MustCompile(`(^|\.)(token|client_token|secret_id|otp|encoded_token)$|^keys(_base64)?\.`)

// run is what all requests of this process' conformance run heard.
var run = &heard{secrets: map[string]bool{}, refusals: map[string]string{}}

func (k *walker) judge(s *step, a *answer, final bool) error {
	if !slices.Contains(s.status, a.status) {
		return fmt.Errorf("%s %s by %s: %d, want %v: %s", s.method, s.path, s.who, a.status, s.status, a.body)
	}
	var wrong []error
	for _, e := range s.expect {
		err := k.expect(&e, a)
		switch {
		case e.pending == "" && err != nil:
			wrong = append(wrong, fmt.Errorf("%s: %w", e.at, err))
		case e.pending != "" && err != nil && final:
			k.pending++
		case e.pending != "" && final:
			k.passed = append(k.passed, e.line)
		}
	}
	if wrong != nil {
		return fmt.Errorf("%w\nthe whole answer: %d %s", errors.Join(wrong...), a.status, a.body)
	}
	for _, keep := range s.keep {
		v, ok := find(a.json, keep[1])
		if !ok {
			return fmt.Errorf("%s is not there to keep: %s", keep[1], a.body)
		}
		k.vars[keep[0]] = strings.Trim(text(v), `"`)
		if secretPlace.MatchString(keep[1]) {
			run.secret(k.vars[keep[0]])
		}
	}
	for _, d := range s.decode {
		token, err := reveal(a.json, d[1], k.vars[d[2]])
		if err != nil {
			return fmt.Errorf("%w: %s", err, a.body)
		}
		k.vars[d[0]] = token
		run.secret(token, k.vars[d[2]])
	}
	return nil
}

// reveal gives the token at a place, as the clients do: the exclusive or of what was encoded and the one-time password.
func reveal(body any, place, otp string) (string, error) {
	v, _ := find(body, place)
	encoded, _ := v.(string)
	token, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil || len(token) != len(otp) || otp == "" {
		return "", fmt.Errorf("%s is no token hidden by a password of %d characters: %v", place, len(otp), err)
	}
	for i := range token {
		token[i] ^= otp[i]
	}
	return string(token), nil
}

func (k *walker) expect(e *expectation, a *answer) error {
	want, err := k.fill(e.want)
	if err != nil {
		return err
	}
	if name, ok := strings.CutPrefix(e.place, "header."); ok {
		values := make([]any, 0, 1)
		for _, v := range a.header.Values(name) {
			values = append(values, v)
		}
		return match(map[string]any{"header": values}, "header.0", want)
	}
	if e.place == "empty" {
		if len(a.body) > 0 {
			return fmt.Errorf("there is a body: %s", a.body)
		}
		return nil
	}
	return match(a.json, e.place, want)
}

// walk walks a table's rows in order.
func walk(t *testing.T, w *world, tab *table) {
	k := &walker{w: w.with(t, tab.nodes), vars: map[string]string{}}
	for _, r := range tab.rows {
		before := *k
		err := k.row(r)
		name := fmt.Sprintf("%s (%s) %s", strings.Join(r.ids, " "), r.at, r.title)
		switch {
		case r.pending != "" && err != nil:
			k.pending, k.passed = before.pending+1, before.passed
			t.Logf("pending %s: %s: %.300s", r.pending, name, err)
		case r.pending != "":
			k.passed = append(k.passed, r.marked)
		case err != nil:
			t.Errorf("%s: %v", name, err)
		}
	}
	k.w.tellSecrets()
	own := map[string]*cluster.Node{}
	for _, special := range tab.nodes {
		own[special.name] = k.w.nodes[special.name]
	}
	run.demandNoLeak(t, own)
	if *unmark {
		takeMarks(t, tab, k.passed)
		return
	}
	for _, line := range k.passed {
		t.Errorf("%s.table:%d: holds, and is marked as pending: take the mark away (go test ./conformance -unmark does)", tab.name, line)
	}
	t.Logf("%d rows, %d pending", len(tab.rows), k.pending)
}

var unmark = flag.Bool("unmark", false, "take the mark of pending from rows that pass")

// takeMarks writes a table without the marks of pending in some lines.
func takeMarks(t *testing.T, tab *table, lines []int) {
	t.Helper()
	file := filepath.Join("testdata", tab.name+".table")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if slices.Contains(lines, number) {
			m := pendingForm.FindStringSubmatch(strings.TrimRight(line, "\n"))
			if m == nil {
				continue // the mark of a row has a line of its own
			}
			line = m[1] + "\n"
		}
		out.WriteString(line)
	}
	if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
