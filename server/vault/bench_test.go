package vault_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// BenchmarkKV1 is what the API costs around the engine, without a network.
func BenchmarkKV1(b *testing.B) {
	c := ready(b)
	value := `{"value":"` + strings.Repeat("x", 1000) + `"}`
	var n atomic.Int64
	serve := func(b *testing.B, method, path, body string, want int) {
		req := httptest.NewRequest(method, "/v1/"+path, strings.NewReader(body))
		req.Header.Set("X-Vault-Token", c.root)
		w := httptest.NewRecorder()
		c.core.ServeHTTP(w, req)
		if w.Code != want {
			b.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	b.Run("put", func(b *testing.B) {
		b.SetParallelism(32)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				serve(b, http.MethodPut, "kv/bench/"+strings.Repeat("k", int(n.Add(1)%64)+1), value, http.StatusNoContent)
			}
		})
	})
	b.Run("get", func(b *testing.B) {
		c.must(204, "PUT", "kv/bench/one", value)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				serve(b, http.MethodGet, "kv/bench/one", "", http.StatusOK)
			}
		})
	})
}
