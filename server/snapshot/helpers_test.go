package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"testing"
)

// members is everything that stands in an archive: padding and headers' own bytes are no part of it.
func members(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(append(out, h.Name...), body...)
	}
}
