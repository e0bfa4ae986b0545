package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The transcripts in testdata/*.txt are run against the program itself: this
// test binary becomes it when beProgram is set. A transcript is a sequence of
// commands, each with what it answers:
//
//	$ lockstep ARGS      run the program; answers follow as "1> " (standard
//	                     output), "2> " (standard error) and "[exit N]"
//	$ start ARGS         run it in the background until it is ready
//	$ stop | $ kill      end that one by SIGTERM, or SIGKILL
//	$ hup                send it SIGHUP and wait until it has reloaded
//	$ log PATTERN        the background program has logged this
//	$ api METHOD PATH [BODY]   a request to it with the token TOKEN
//	$ flip GLOB "KEY"    flip one bit of the value that stands behind a key in the one file that holds it
//	$ remove GLOB        remove files
//	$ cut FILE N         leave the first N bytes of a file
//	$ login              what follows has the token of the last sys/init
//	$ env NAME=VALUE     for what follows
//	# text               a comment
//
// Sections "-- name --" at the end are files of the working directory, in
// which PORT stands for a free port. What differs from run to run is replaced;
// see steady. go test -update rewrites the answers.
const beProgram = "LOCKSTEP_TEST_BE_PROGRAM"

var update = flag.Bool("update", false, "rewrite the transcripts' answers")

func TestMain(m *testing.M) {
	if os.Getenv(beProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("transcripts: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			runTranscript(t, file)
		})
	}
}

func runTranscript(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	commands, files := splitTranscript(string(text))
	s := &script{t: t, dir: t.TempDir(), port: freePorts(t), token: "token-of-the-test", env: append(cleanEnvironment(), beProgram+"=1")}
	s.write(files)
	t.Cleanup(s.cleanUp)
	var got strings.Builder
	for _, line := range strings.Split(strings.TrimRight(commands, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "$ "):
			fmt.Fprintln(&got, line)
			got.WriteString(s.steady(s.do(line[2:])))
		case strings.HasPrefix(line, "1> "), strings.HasPrefix(line, "2> "), strings.HasPrefix(line, "["), line == "1>", line == "2>":
		default:
			fmt.Fprintln(&got, line)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()+strings.TrimPrefix(string(text), commands)), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, want := got.String(), strings.TrimRight(commands, "\n")+"\n"; got != want {
		t.Errorf("%s\n%s", difference(got, want), s.log.String())
	}
}

// difference shows where two texts part.
func difference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		a, b := "(nothing)", "(nothing)"
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return fmt.Sprintf("line %d:\ngot  %s\nwant %s\n\nall that was got:\n%s", i+1, a, b, got)
		}
	}
	return ""
}

var fileHeader = regexp.MustCompile(`(?m)^-- (\S+) --\n`)

func splitTranscript(text string) (commands string, files map[string]string) {
	files = map[string]string{}
	at := fileHeader.FindAllStringSubmatchIndex(text, -1)
	if len(at) == 0 {
		return text, files
	}
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		files[text[m[2]:m[3]]] = text[m[1]:end]
	}
	return text[:at[0][0]], files
}

// script is one transcript at work.
type script struct {
	t    *testing.T
	dir  string
	port int
	env  []string

	background *exec.Cmd
	ended      chan error
	log        logBuffer
	token      string
}

func (s *script) write(files map[string]string) {
	for name, content := range files {
		content = s.expand(content)
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *script) expand(text string) string {
	return strings.NewReplacer("PORT", fmt.Sprint(s.port), "TOKEN", s.token).Replace(text)
}

func (s *script) do(line string) string {
	name, rest, _ := strings.Cut(s.expand(line), " ")
	switch name {
	case "lockstep":
		return s.lockstep(strings.Fields(rest))
	case "start":
		return s.start(strings.Fields(rest))
	case "stop":
		return s.end(syscall.SIGTERM)
	case "kill":
		return s.end(syscall.SIGKILL)
	case "hup":
		return s.hup()
	case "log":
		return s.logged(rest)
	case "api":
		return s.api(strings.SplitN(rest, " ", 3))
	case "flip":
		glob, text, _ := strings.Cut(rest, " ")
		return s.flip(glob, text)
	case "remove":
		return s.remove(rest)
	case "login":
		s.env = append(s.env, "VAULT_TOKEN="+s.token)
		return ""
	case "cut":
		return s.cut(rest)
	case "env":
		s.env = append(s.env, rest)
		return ""
	}
	return "2> no such command in a transcript: " + name + "\n"
}

func (s *script) command(args []string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	return cmd
}

func (s *script) lockstep(args []string) string {
	cmd := s.command(args)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		s.t.Fatalf("run lockstep: %v", err)
	}
	if minted := strings.TrimSpace(out.String()); len(args) > 0 && args[0] == "token" && minted != "" {
		s.token = minted
	}
	answer := prefixed("1> ", out.String()) + prefixed("2> ", words.String())
	if failed != nil {
		answer += fmt.Sprintf("[exit %d]\n", failed.ExitCode())
	}
	return answer
}

func prefixed(prefix, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimRight(prefix+strings.TrimRight(line, "\n"), " ") + "\n")
	}
	return b.String()
}

func (s *script) start(args []string) string {
	s.log.reset()
	cmd := s.command(args)
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.background, s.ended = cmd, make(chan error, 1)
	ended := s.ended
	go func() { ended <- cmd.Wait() }()
	return s.logged(`lockstep: ready:`)
}

// logged waits until the background program has logged a pattern, or ended.
func (s *script) logged(pattern string) string {
	re := regexp.MustCompile(pattern)
	deadline := time.After(2 * time.Minute)
	for !re.MatchString(s.log.String()) {
		select {
		case err := <-s.ended:
			s.ended <- err
			if re.MatchString(s.log.String()) {
				return ""
			}
			return fmt.Sprintf("2> ended without logging %q: %v\n%s", pattern, err, prefixed("2> ", s.log.String()))
		case <-deadline:
			return fmt.Sprintf("2> never logged: %q\n", pattern)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return ""
}

func (s *script) end(sig os.Signal) string {
	if err := s.background.Process.Signal(sig); err != nil {
		return "2> " + err.Error() + "\n"
	}
	err := <-s.ended
	s.background = nil
	if err != nil {
		return fmt.Sprintf("[%v]\n", err)
	}
	return ""
}

func (s *script) hup() string {
	s.log.reset()
	if err := s.background.Process.Signal(syscall.SIGHUP); err != nil {
		return "2> " + err.Error() + "\n"
	}
	return s.logged(`reload`)
}

func (s *script) cleanUp() {
	if s.background != nil {
		s.background.Process.Kill()
		<-s.ended
	}
}

func (s *script) api(words []string) string {
	var body io.Reader
	if len(words) == 3 {
		body = strings.NewReader(words[2])
	}
	r, err := http.NewRequest(words[0], fmt.Sprintf("http://127.0.0.1:%d/v1/%s", s.port, words[1]), body)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", s.token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return "2> " + err.Error() + "\n"
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return "2> " + err.Error() + "\n"
	}
	if m := regexp.MustCompile(`"root_token":"([^"]+)"`).FindSubmatch(text); m != nil {
		s.token = string(m[1])
	}
	data := regexp.MustCompile(`"(data|errors)":(\{[^{}]*\}|\[[^\]]*\])`).Find(text)
	return strings.TrimSpace(fmt.Sprintf("1> %d %s", answer.StatusCode, data)) + "\n"
}

// flip damages the one file of a pattern that holds a key, in the sealed value behind it.
func (s *script) flip(glob, quoted string) string {
	text, err := strconv.Unquote(quoted)
	if err != nil {
		s.t.Fatalf("flip %s: %v", quoted, err)
	}
	files, err := filepath.Glob(filepath.Join(s.dir, glob))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		if !bytes.Contains(content, []byte(text)) {
			continue
		}
		// Every copy: an older page of the file may hold one that is no longer live.
		for at := 0; ; at += len(text) {
			i := bytes.Index(content[at:], []byte(text))
			if i < 0 {
				break
			}
			at += i
			content[at+len(text)+sealedPart] ^= 1
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			s.t.Fatal(err)
		}
		return ""
	}
	return "2> no file holds it\n"
}

// sealedPart is how far behind its key a value is sealed, in the log as in the state.
const sealedPart = 85

func (s *script) remove(glob string) string {
	files, err := filepath.Glob(filepath.Join(s.dir, glob))
	if err != nil || len(files) == 0 {
		return fmt.Sprintf("2> nothing to remove: %v\n", err)
	}
	for _, file := range files {
		if err := os.RemoveAll(file); err != nil {
			s.t.Fatal(err)
		}
	}
	return ""
}

func (s *script) cut(rest string) string {
	file, n, _ := strings.Cut(rest, " ")
	size, err := strconv.ParseInt(n, 10, 64)
	if err == nil {
		err = os.Truncate(filepath.Join(s.dir, file), size)
	}
	if err != nil {
		return "2> " + err.Error() + "\n"
	}
	return ""
}

// steady replaces what differs from run to run.
func (s *script) steady(text string) string {
	text = strings.ReplaceAll(text, s.dir, "WORK")
	text = strings.ReplaceAll(text, fmt.Sprint(s.port), "PORT")
	text = strings.ReplaceAll(text, fmt.Sprint(s.port+1), "NEXT")
	text = strings.ReplaceAll(text, s.token, "TOKEN")
	for _, r := range unsteady {
		text = r.pattern.ReplaceAllString(text, r.with)
	}
	return text
}

var unsteady = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`process \d+`), "process PID"},
	{regexp.MustCompile(`hvs\.\w+`), "TOKEN"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)`), "TIME"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`(fork|chain) [0-9a-f]+`), "$1 HEX"},
	{regexp.MustCompile(`((?i:snapshot|root) +)[0-9a-f]{32,40}`), "${1}HEX"},
	{regexp.MustCompile(`go\d\S* \w+/\w+`), "GO TARGET"},
	{regexp.MustCompile(`("server_time_utc": |"version": |(?m:^1> (?:Version|Written by)  +))[^\s,]+`), "${1}VARIES"},
	{regexp.MustCompile(`(commit   ).*`), "${1}COMMIT"},
	{regexp.MustCompile(`(lockstep )\d+\.\d+\.\d+\S*`), "${1}VERSION"},
	{regexp.MustCompile(`\(\w+ ago\)`), "(AGO)"},
	{regexp.MustCompile(`took="?[^"\s]+"?`), "took=DURATION"},
	{regexp.MustCompile(`\d+ bytes`), "N bytes"},
	{regexp.MustCompile(`\d+ leaves`), "N leaves"}, // cut by a secret key
	{regexp.MustCompile(`/\d{20}-[0-9a-f]+\.wal`), "/SEGMENT.wal"},
}

// freePorts returns a port that is free together with the next one.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		next, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		ln.Close()
		if err == nil {
			next.Close()
			return port
		}
	}
	t.Fatal("no two free ports in a row")
	return 0
}

// cleanEnvironment is the environment without what would steer a client.
func cleanEnvironment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "VAULT_") && !strings.HasPrefix(v, "LOCKSTEP_") && !strings.HasPrefix(v, "NOTIFY_SOCKET") {
			env = append(env, v)
		}
	}
	return env
}
