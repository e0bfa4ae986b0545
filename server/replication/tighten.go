package replication

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lockstepdb/lockstep/storage"
)

// tightenings names what an entry took away from somebody, a revocation or a redemption, without any secret.
func tightenings(e *storage.Entry) []string {
	var out []string
	for i := range e.Blocks {
		if e.Blocks[i].Keyspace != storage.SystemLocal {
			continue
		}
		for j := range e.Blocks[i].Changes {
			if what := tightening(&e.Blocks[i].Changes[j]); what != "" {
				out = append(out, what)
			}
		}
	}
	return out
}

func tightening(c *storage.Change) string {
	for _, k := range kinds {
		if id, ok := strings.CutPrefix(string(c.Key), recordPrefix(k)); ok {
			var rec secondaryRecord
			switch {
			case c.Op == storage.Delete:
				return fmt.Sprintf("%s secondary %q was removed", k, id)
			case json.Unmarshal(c.Value, &rec) == nil && rec.State == secondaryRevoked:
				return fmt.Sprintf("%s secondary %q was revoked", k, id)
			}
		}
		if jti, ok := strings.CutPrefix(string(c.Key), activationPrefix(k)); ok && c.Op == storage.Put {
			var rec activationRecord
			if json.Unmarshal(c.Value, &rec) == nil && rec.Request != "" {
				return fmt.Sprintf("the %s activation token with jti %s was redeemed", k, jti)
			}
		}
	}
	return ""
}
