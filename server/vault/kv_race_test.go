package vault_test

import (
	"fmt"
	"sync"
	"testing"
)

// atOnce runs n calls together and returns their statuses.
func atOnce(n int, call func(i int) got) []int {
	out := make([]int, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { out[i] = call(i).status })
	}
	wg.Wait()
	return out
}

func TestOfManyCreatesWithoutUpdateOneSucceeds(t *testing.T) {
	c := ready(t)
	c.must(204, "PUT", "sys/policies/acl/creates", `{"policy":"path \"kv/*\" { capabilities = [\"create\"] }\npath \"secret/*\" { capabilities = [\"create\"] }"}`)
	token := c.token(`{"policies":["creates"]}`)
	for _, kind := range []struct{ path, body string }{
		{"kv/race-%d", `{"by":"%d"}`},
		{"secret/data/race-%d", `{"data":{"by":"%d"}}`},
		{"secret/metadata/bare-%d", `{"custom_metadata":{"by":"%d"}}`},
	} {
		for round := range 4 {
			path, won := fmt.Sprintf(kind.path, round), 0
			for _, status := range atOnce(16, func(i int) got { return c.call("PUT", path, token, fmt.Sprintf(kind.body, i)) }) {
				switch status {
				case 200, 204:
					won++
				case 403:
				default:
					t.Errorf("%s: status %d", path, status)
				}
			}
			if won != 1 {
				t.Errorf("%s: %d creates succeeded, want 1", path, won)
			}
		}
	}
}

func TestAnUpdateWithoutCreateDoesNotBringBackWhatWasDeleted(t *testing.T) {
	c := ready(t)
	c.must(204, "PUT", "sys/policies/acl/updates", `{"policy":"path \"kv/*\" { capabilities = [\"update\"] }\npath \"secret/*\" { capabilities = [\"update\"] }"}`)
	token := c.token(`{"policies":["updates"]}`)
	for _, kind := range []struct{ write, remove, body string }{
		{"kv/gone-%d", "kv/gone-%d", `{"a":1}`},
		{"secret/data/gone-%d", "secret/metadata/gone-%d", `{"data":{"a":1}}`},
	} {
		for round := range 4 {
			write, remove := fmt.Sprintf(kind.write, round), fmt.Sprintf(kind.remove, round)
			if g := c.call("PUT", write, token, kind.body); g.status != 403 {
				t.Errorf("update of nothing: %v", g)
			}
			if g := c.call("PUT", write, c.root, kind.body); g.status >= 300 {
				t.Fatalf("write: %v", g)
			}
			atOnce(16, func(i int) got {
				if i == 3 {
					return c.call("DELETE", remove, c.root, "")
				}
				return c.call("PUT", write, token, kind.body)
			})
			if g := c.call("GET", write, c.root, ""); g.status != 404 {
				t.Errorf("%s after its delete: %v", write, g)
			}
		}
	}
}

func TestPatchesAtOnceAreAllMerged(t *testing.T) {
	c := ready(t)
	c.must(200, "PUT", "secret/data/p", `{"data":{}}`)
	const patches = 12
	for _, status := range atOnce(patches, func(i int) got {
		body := fmt.Sprintf(`{"data":{"k%d":%d}}`, i, i)
		g := c.call("PATCH", "secret/data/p", c.root, body)
		for g.status == 409 { // others came first too often
			g = c.call("PATCH", "secret/data/p", c.root, body)
		}
		return g
	}) {
		if status != 200 {
			t.Errorf("patch: status %d, want 200", status)
		}
	}
	g := c.must(200, "GET", "secret/data/p", "")
	for i := range patches {
		if !same(g.at(fmt.Sprintf("data.data.k%d", i)), fmt.Sprint(i)) {
			t.Errorf("patch %d is lost: %v", i, g)
		}
	}
	if !same(g.at("data.metadata.version"), fmt.Sprint(patches+1)) {
		t.Errorf("version: %v, want %d", g, patches+1)
	}
}
