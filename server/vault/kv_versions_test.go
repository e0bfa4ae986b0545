package vault_test

import (
	"testing"

	"github.com/lockstepdb/lockstep/server/vault"
)

func TestAKeyWithAllItsVersionsCanBeRemoved(t *testing.T) {
	c := ready(t)
	vault.SeedVersions(t, c.core, "secret/big", 2000)
	c.must(204, "DELETE", "secret/metadata/big", "")
	c.must(404, "GET", "secret/data/big?version=1", "")
	c.must(400, "PUT", "secret/config", `{"max_versions":2001}`)
	c.must(204, "PUT", "secret/config", `{"max_versions":2000}`)
}

func TestVersionsBeyondALoweredMaximumGoWithTheNextWrites(t *testing.T) {
	c := ready(t)
	vault.SeedVersions(t, c.core, "secret/big", 4500)
	c.must(204, "PUT", "secret/metadata/big", `{"max_versions":1}`)
	for i, oldest := range []string{`2001`, `4001`, `4503`} {
		c.must(200, "PUT", "secret/data/big", `{"data":{"a":2}}`)
		if g := c.must(200, "GET", "secret/metadata/big", ""); !same(g.at("data.oldest_version"), oldest) {
			t.Errorf("write %d: oldest version %v, want %s", i+1, g.at("data.oldest_version"), oldest)
		}
	}
	c.must(404, "GET", "secret/data/big?version=4502", "")
	c.must(204, "DELETE", "secret/metadata/big", "")
}
