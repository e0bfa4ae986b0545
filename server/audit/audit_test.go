package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/audit"
)

var salt = []byte("the device's own")

func options(t *testing.T, given map[string]string) *audit.Options {
	t.Helper()
	o, err := audit.ParseOptions(given)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func entry() *audit.Entry {
	return &audit.Entry{
		Time: time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC),
		Auth: &audit.Auth{ClientToken: "planted-token", Accessor: "planted-accessor", Policies: []string{"app"}},
		Request: audit.Request{ID: "id-1", Operation: "update", Path: "kv/a", ClientToken: "planted-token", Accessor: "planted-accessor",
			Data: map[string]any{"name": "planted-value", "list": []any{"planted-value", true, json.Number("7"), nil}, "deep": map[string]any{"x": "planted-value"}}},
	}
}

func TestNothingSecretIsWrittenAndEqualTextsLookAlike(t *testing.T) {
	var out bytes.Buffer
	d := audit.NewDevice(options(t, map[string]string{"file_path": "stdout"}), salt, &out)
	e := entry()
	e.Response = &audit.Response{
		Auth: &audit.Auth{ClientToken: "planted-given", Accessor: "planted-accessor"}, Data: map[string]any{"keys": []any{"planted-value"}},
		WrapInfo: &audit.WrapInfo{Token: "planted-wrap", Accessor: "planted-accessor", TTL: 60},
	}
	if err := d.Log(e); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "planted") {
		t.Fatalf("a secret is in the entry: %s", out.String())
	}
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	value := d.Hash("planted-value")
	request := got["request"].(map[string]any)
	data := request["data"].(map[string]any)
	list := data["list"].([]any)
	if data["name"] != value || list[0] != value || list[1] != true || list[2] != 7.0 || list[3] != nil || data["deep"].(map[string]any)["x"] != value {
		t.Errorf("request data: %v", data)
	}
	response := got["response"].(map[string]any)
	if response["data"].(map[string]any)["keys"].([]any)[0] != value || response["wrap_info"].(map[string]any)["token"] != d.Hash("planted-wrap") ||
		response["auth"].(map[string]any)["client_token"] != d.Hash("planted-given") {
		t.Errorf("response: %v", response)
	}
	auth := got["auth"].(map[string]any)
	if auth["client_token"] != d.Hash("planted-token") || auth["accessor"] != d.Hash("planted-accessor") || request["client_token"] != d.Hash("planted-token") ||
		got["type"] != "response" || got["time"] != "2031-02-03T04:05:06Z" || request["path"] != "kv/a" {
		t.Errorf("entry: %v", got)
	}
	if e.Auth.ClientToken != "planted-token" || e.Request.Data.(map[string]any)["name"] != "planted-value" {
		t.Error("recording changed the entry, which the next device needs")
	}
	if audit.Hash([]byte("another"), "planted-value") == value {
		t.Error("the hash does not depend on the salt")
	}
}

func TestWhatHasManyValuesIsOneHash(t *testing.T) {
	many := func(n int) []any {
		list := make([]any, n)
		for i := range list {
			list[i] = "x"
		}
		return list
	}
	keys := func(n int) map[string]any { return map[string]any{"keys": many(n)} } // n+1 values
	one := func(text string) any { return map[string]any{"hashed": audit.Hash(salt, text)} }
	asJSON := func(v any) string { text, _ := json.Marshal(v); return string(text) }
	for _, c := range []struct {
		what           string
		request        any
		text           string
		response       any
		elide          string
		wantQ, wantAns any // nil: each value by itself
	}{
		{what: "as many as may be", request: keys(511), text: "sent", response: keys(511), elide: "false"},
		{what: "one more", request: keys(512), text: "sent", response: keys(512), elide: "false", wantQ: one("sent"), wantAns: one(asJSON(keys(512)))},
		{what: "a query, whose text is not kept", request: keys(512), response: keys(1), elide: "false", wantQ: one(asJSON(keys(512)))},
		{what: "many deep inside", request: map[string]any{"a": []any{map[string]any{"b": many(600)}}}, text: "deep", response: keys(1), elide: "false", wantQ: one("deep")},
		{what: "a list that is left out", request: nil, response: keys(600), elide: "true", wantAns: map[string]any{"keys": 600.0}},
	} {
		var out bytes.Buffer
		e := entry()
		e.Request.Operation, e.Request.Data, e.Request.Text, e.Response = "list", c.request, c.text, &audit.Response{Data: c.response}
		if err := audit.NewDevice(options(t, map[string]string{"file_path": "stdout", "elide_list_responses": c.elide}), salt, &out).Log(e); err != nil {
			t.Fatal(err)
		}
		var got struct{ Request, Response struct{ Data any } }
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		for _, side := range []struct{ given, got, want any }{{c.request, got.Request.Data, c.wantQ}, {c.response, got.Response.Data, c.wantAns}} {
			want := asJSON(side.want)
			if side.want == nil {
				want = strings.ReplaceAll(asJSON(side.given), `"x"`, `"`+audit.Hash(salt, "x")+`"`)
			}
			if asJSON(side.got) != want {
				t.Errorf("%s: got %.200s, want %.200s", c.what, asJSON(side.got), want)
			}
		}
	}
}

func TestEmptyTextsStayEmpty(t *testing.T) {
	var out bytes.Buffer
	e := entry()
	e.Request.Data = map[string]any{"a": []any{"", ""}, "b": ""}
	if err := audit.NewDevice(options(t, map[string]string{"file_path": "stdout"}), salt, &out).Log(e); err != nil {
		t.Fatal(err)
	}
	if want := `"data":{"a":["",""],"b":""}`; !strings.Contains(out.String(), want) {
		t.Errorf("got %s, want %s", out.String(), want)
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		what  string
		given map[string]string
		want  string // in the refusal; "": taken
	}{
		{"a file", map[string]string{"file_path": "/var/log/audit.log"}, ""},
		{"standard output", map[string]string{"file_path": "stdout"}, ""},
		{"everything", map[string]string{"file_path": "/a", "mode": "0640", "prefix": "", "hmac_accessor": "false", "elide_list_responses": "true", "format": "json", "log_raw": "false"}, ""},
		{"mode as it is", map[string]string{"file_path": "/a", "mode": "0000"}, ""},
		{"no path", map[string]string{}, "needs file_path"},
		{"a relative path", map[string]string{"file_path": "audit.log"}, "absolute"},
		{"a path that climbs", map[string]string{"file_path": "/var/../etc/x"}, "absolute"},
		{"values in the clear", map[string]string{"file_path": "/a", "log_raw": "true"}, "log_raw"},
		{"another format", map[string]string{"file_path": "/a", "format": "jsonx"}, "json"},
		{"executable", map[string]string{"file_path": "/a", "mode": "0700"}, "not safe"},
		{"set-uid", map[string]string{"file_path": "/a", "mode": "4600"}, "not safe"},
		{"writable for the world", map[string]string{"file_path": "/a", "mode": "0602"}, "not safe"},
		{"a mode that is none", map[string]string{"file_path": "/a", "mode": "rw"}, "octal"},
		{"readable for the world", map[string]string{"file_path": "/a", "mode": "0644"}, "not safe"},
		{"writable for the group", map[string]string{"file_path": "/a", "mode": "0660"}, "not safe"},
		{"a prefix", map[string]string{"file_path": "/a", "prefix": "ssh-ed25519 "}, "prefix is not supported"},
		{"something unknown", map[string]string{"file_path": "/a", "colour": "red"}, "colour"},
	} {
		_, err := audit.ParseOptions(c.given)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
	}
}

func TestFileDevice(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	d := audit.NewDevice(options(t, map[string]string{"file_path": path, "mode": "0640"}), salt, nil)
	defer d.Close()
	log := func() {
		t.Helper()
		if err := d.Log(entry()); err != nil {
			t.Fatal(err)
		}
	}
	lines := func(path string) int {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), "\n")
	}
	log()
	log()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode of the file: %v %v", info, err)
	}
	if got := lines(path); got != 2 {
		t.Errorf("after two entries: %d lines", got)
	}
	rotated := path + ".1"
	if err := os.Rename(path, rotated); err != nil {
		t.Fatal(err)
	}
	log()
	if got := lines(rotated); got != 3 {
		t.Errorf("before it is told of the rotation: %d lines in the old file", got)
	}
	if err := d.Reopen(); err != nil {
		t.Fatal(err)
	}
	log()
	if a, b := lines(rotated), lines(path); a != 3 || b != 1 {
		t.Errorf("after it: %d lines in the old file, %d in the new", a, b)
	}
}

func TestFilesThatAreNoAuditLogsAreRefusedUntouched(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(write("target", ""), link); err != nil {
		t.Fatal(err)
	}
	toKernel := filepath.Join(dir, "kernel")
	if err := os.Symlink("/proc/self", toKernel); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, path, want string }{
		{"a configuration", write("lockstep.hcl", "listener \"tcp\" {}\n"), "something else"},
		{"a JSON file", write("config.json", `{"listener":{}}`), "something else"},
		{"a link", link, "symbolic link"},
		{"the process itself", "/proc/self/mem", "belongs to the kernel"},
		{"a file reached through the kernel", "/proc/self/root" + filepath.Join(dir, "x"), "belongs to the kernel"},
		{"the process, by a link on the way", filepath.Join(toKernel, "mem"), "belongs to the kernel"},
		{"a setting of the kernel", "/sys/kernel/x", "belongs to the kernel"},
		{"a device", "/dev/full", "belongs to the kernel"},
		{"a pipe", pipe, "no plain file"},
		{"a directory", dir, "cannot be opened"},
		{"a directory that is not there", filepath.Join(dir, "no", "audit.log"), "no such file"},
	} {
		var before []byte
		endless := c.path == pipe || strings.HasPrefix(c.path, "/dev/") || strings.HasSuffix(c.path, "/mem")
		if !endless {
			before, _ = os.ReadFile(c.path)
		}
		err := audit.NewDevice(options(t, map[string]string{"file_path": c.path}), salt, nil).Log(entry())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
		if endless {
			continue
		}
		if after, _ := os.ReadFile(c.path); !bytes.Equal(before, after) {
			t.Errorf("%s was changed", c.what)
		}
	}
}

func TestTry(t *testing.T) {
	there := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(there, nil, 0o604); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, path, mode, want string }{
		{"a new file", there + ".new", "0600", ""},
		{"a new file whose mode is to be left alone", there + ".none", "0000", "make the file first"},
		{"a file whose mode is left alone", there, "0000", ""},
	} {
		d := audit.NewDevice(options(t, map[string]string{"file_path": c.path, "mode": c.mode}), salt, nil)
		err := d.Try(entry())
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
		text, _ := os.ReadFile(c.path)
		if got := strings.Count(string(text), "\n"); (got == 1) != (c.want == "") {
			t.Errorf("%s: %d lines were written", c.what, got)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(there); err != nil || info.Mode().Perm() != 0o604 {
		t.Errorf("the mode that was to be left alone: %v %v", info, err)
	}
}

// halfWriter writes half of what it is given when it is told to fail.
type halfWriter struct {
	bytes.Buffer
	fail bool
}

func (w *halfWriter) Write(p []byte) (int, error) {
	if w.fail {
		n, _ := w.Buffer.Write(p[:len(p)/2])
		return n, errors.New("no space left")
	}
	return w.Buffer.Write(p)
}

func TestAHalfWrittenLineDoesNotSpoilTheNext(t *testing.T) {
	w := &halfWriter{fail: true}
	d := audit.NewDevice(options(t, map[string]string{"file_path": "stdout"}), salt, w)
	if err := d.Log(entry()); err == nil {
		t.Fatal("a failed write was taken for good")
	}
	w.fail = false
	if err := d.Log(entry()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(w.String()), "\n")
	if len(lines) != 2 || json.Valid([]byte(lines[0])) || !json.Valid([]byte(lines[1])) {
		t.Errorf("lines: %q", lines)
	}
}

func TestInside(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(filepath.Join(data, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(data, filepath.Join(dir, "way")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		filepath.Join(data, "x"): true, filepath.Join(data, "sub", "x"): true, filepath.Join(dir, "x"): false, filepath.Join(dir, "way", "sub", "x"): true,
		filepath.Join(dir, "database"): false, "stdout": false,
	} {
		if got := options(t, map[string]string{"file_path": path}).Inside(data); got != want {
			t.Errorf("%s inside %s: got %v", path, data, got)
		}
	}
}

func FuzzParseOptions(f *testing.F) {
	f.Add("file_path", "/a", "mode", "0600")
	f.Add("mode", "99999999999999", "prefix", "\n")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		o, err := audit.ParseOptions(map[string]string{a: b, c: d})
		if err != nil {
			return
		}
		if o.FilePath != "stdout" && !filepath.IsAbs(o.FilePath) {
			t.Errorf("took the path %q", o.FilePath)
		}
		if o.Mode != 0 && o.Mode != 0o600 && o.Mode != 0o640 {
			t.Errorf("took mode %v", o.Mode)
		}
	})
}
