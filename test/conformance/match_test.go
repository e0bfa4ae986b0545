package conformance

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// decode keeps numbers as they were written.
func decode(body []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

// find returns what is at a place, members and elements joined by dots; "." is the whole. An element is named by its number, or
// by a member that it alone has: node_id=dr-1.
func find(v any, place string) (any, bool) {
	if place == "." {
		return v, true
	}
	for name := range strings.SplitSeq(place, ".") {
		switch in := v.(type) {
		case map[string]any:
			inner, ok := in[name]
			if !ok {
				return nil, false
			}
			v = inner
		case []any:
			i := element(in, name)
			if i < 0 {
				return nil, false
			}
			v = in[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// element returns which element of an array a name stands for; -1: none.
func element(in []any, name string) int {
	if member, want, ok := strings.Cut(name, "="); ok {
		return slices.IndexFunc(in, func(e any) bool {
			object, _ := e.(map[string]any)
			return object[member] == want
		})
	}
	i, err := strconv.Atoi(name)
	if err != nil || i < 0 || i >= len(in) {
		return -1
	}
	return i
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// texts are the shapes that a string can have.
var texts = map[string]func(string) bool{
	"string": func(string) bool { return true },
	"uuid":   uuidForm.MatchString,
	"hex40":  func(s string) bool { b, err := hex.DecodeString(s); return err == nil && len(b) == 20 },
	"time":   func(s string) bool { _, err := time.Parse(time.RFC3339Nano, s); return err == nil },
	"epoch":  func(s string) bool { _, err := strconv.ParseInt(s, 10, 64); return err == nil },
	"base64": func(s string) bool { b, err := base64.StdEncoding.DecodeString(s); return err == nil && len(b) > 0 },
}

// match says what is wrong with what is at a place, or nil.
func match(body any, place, want string) error {
	got, there := find(body, place)
	kind, arg, _ := strings.Cut(want, " ")
	arg = strings.TrimSpace(arg)
	if kind == "absent" {
		if there {
			return fmt.Errorf("%s is there: %s", place, text(got))
		}
		return nil
	}
	if !there {
		return fmt.Errorf("%s is not there, want %s", place, want)
	}
	ok, err := is(got, kind, arg)
	if err != nil {
		return fmt.Errorf("%s %s: %w", place, want, err)
	}
	if !ok {
		return fmt.Errorf("%s is %s, want %s", place, text(got), want)
	}
	return nil
}

func is(got any, kind, arg string) (bool, error) {
	if shape, ok := texts[kind]; ok {
		s, isText := got.(string)
		return isText && shape(s), nil
	}
	switch kind {
	case "any":
		return true, nil
	case "null":
		return got == nil, nil
	case "bool":
		_, ok := got.(bool)
		return ok, nil
	case "number":
		_, ok := got.(json.Number)
		return ok, nil
	case "object":
		_, ok := got.(map[string]any)
		return ok, nil
	case "array":
		_, ok := got.([]any)
		return ok, nil
	case "~":
		return contains(got, arg), nil
	case ">":
		n, ok := got.(json.Number)
		if !ok {
			return false, nil
		}
		f, err := n.Float64()
		low, err2 := strconv.ParseFloat(arg, 64)
		return f > low, firstOf(err, err2)
	case "=", "!=", "has":
		want, err := decode([]byte(arg))
		if err != nil {
			return false, err
		}
		if kind == "has" {
			list, _ := got.([]any)
			return slices.ContainsFunc(list, func(e any) bool { return reflect.DeepEqual(e, want) }), nil
		}
		return reflect.DeepEqual(got, want) == (kind == "="), nil
	}
	return false, fmt.Errorf("unknown shape")
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// contains reports whether a string, or one of an array's, contains a text.
func contains(got any, part string) bool {
	switch v := got.(type) {
	case string:
		return strings.Contains(v, part)
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return contains(e, part) })
	}
	return false
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

func TestShapes(t *testing.T) {
	body, err := decode([]byte(`{"a":{"b":[1,"two",{"c":null}]},"id":"0d1f0000-0000-4000-8000-0123456789ab","n":12345678901234567890,
		"at":"2031-01-02T03:04:05.5Z","root":"00112233445566778899aabbccddeeff00112233","epoch":"-62135596800","no":false,
		"list":[7,{"id":"x"},{"id":"y","n":1}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		place, want string
		ok          bool
	}{
		{"a.b", "array", true}, {"a.b", "object", false}, {"a.b.0", "number", true}, {"a.b.1", "number", false},
		{"a.b.2.c", "null", true}, {"a.b.3", "any", false}, {"a.b.3", "absent", true}, {"a", "absent", false},
		{"id", "uuid", true}, {"root", "uuid", false}, {"root", "hex40", true}, {"at", "hex40", false}, {"at", "time", true}, {"epoch", "time", false},
		{"epoch", "epoch", true}, {"n", "epoch", false}, {"n", "> 5", true}, {"n", "= 12345678901234567890", true}, {"n", "= 12345678901234567891", false},
		{"epoch", "> 5", false}, {"a.b", `has "two"`, true}, {"a.b", `has "tw"`, false}, {"a.b", "~ tw", true}, {"no", "= false", true},
		{"no", "!= false", false}, {"no", "bool", true}, {"at", "what", false}, {".", "object", true}, {"a.b", `= [1,"two",{"c":null}]`, true},
		{"list.id=y.n", "= 1", true}, {"list.id=x.n", "absent", true}, {"list.id=z", "absent", true}, {"list.id=y", "absent", false},
	} {
		if err := match(body, tc.place, tc.want); (err == nil) != tc.ok {
			t.Errorf("%s %s: got %v, want %t", tc.place, tc.want, err, tc.ok)
		}
	}
}
