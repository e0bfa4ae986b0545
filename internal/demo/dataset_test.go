package demo

import (
	"context"
	"strings"
	"testing"
)

func TestTheStandardLibraryIsTheDataSet(t *testing.T) {
	records, err := standardLibrary(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	byKey := map[string]Value{}
	for _, r := range records {
		if _, twice := byKey[r.Key]; twice {
			t.Fatalf("key %q is there twice", r.Key)
		}
		if r.Value.Declaration == "" {
			t.Fatalf("%s has no declaration", r.Key)
		}
		byKey[r.Key] = r.Value
	}
	for key, want := range map[string]Value{
		"io/EOF":                  {"var EOF = errors.New(\"EOF\")", "EOF is the error returned by Read"},
		"io/Reader.Read":          {"Read(p []byte) (n int, err error)", ""},
		"net/http/Client.Do":      {"func (c *Client) Do(req *Request) (*Response, error)", "Do sends an HTTP request"},
		"net/http/Client.Timeout": {"Timeout time.Duration", "Timeout specifies a time limit"},
	} {
		got, ok := byKey[key]
		if !ok || got.Declaration != want.Declaration || !strings.HasPrefix(got.Comment, want.Comment) {
			t.Errorf("%s: got %+v, %v; want %+v", key, got, ok, want)
		}
	}
	t.Logf("%d records", len(records))
}
