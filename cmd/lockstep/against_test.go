package main

import (
	"strings"
	"testing"
)

func TestValuesAreComparedAsWhatTheyMean(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{`{"a":1,"b":[true,null]}`, ` { "b" : [ true , null ], "a" : 1 } `, true},
		{`"\u00e9"`, `"é"`, true},
		{`{"a":1}`, `{"a":1.0}`, false}, // a number is what was written
		{`{"a":12345678901234567890}`, `{"a":12345678901234567891}`, false},
		{`{"a":1}`, `{"a":"1"}`, false},
		{`[1,2]`, `[2,1]`, false},
	} {
		a, err := sumOf([]byte(c.a))
		if err != nil {
			t.Fatal(err)
		}
		b, err := sumOf([]byte(c.b))
		if err != nil {
			t.Fatal(err)
		}
		if (a == b) != c.same {
			t.Errorf("%s and %s: same is %v, want %v", c.a, c.b, a == b, c.same)
		}
	}
}

func FuzzList(f *testing.F) {
	f.Add("{\"path\":\"a/b\",\"value\":{}}\n\n{\"path\":\"a/b\",\"value\":1}")
	f.Add("{\"path\":\"a\"}")
	f.Add("[1]")
	f.Fuzz(func(t *testing.T, text string) {
		want, err := decodeList("list", strings.NewReader(text))
		if err != nil {
			if !strings.Contains(err.Error(), "list") {
				t.Errorf("the error does not name the list: %v", err)
			}
			return
		}
		if _, ok := want[""]; ok {
			t.Error("an empty path was accepted")
		}
	})
}
