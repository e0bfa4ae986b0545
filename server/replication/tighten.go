package replication

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lockstepdb/lockstep/storage"
)

// tightening is what an entry took away from somebody, a revocation or a redemption, and the calls that bring it about on another primary, without any secret.
type tightening struct {
	what   string
	repeat []string
}

func tightenings(e *storage.Entry) []tightening {
	var out []tightening
	for i := range e.Blocks {
		if e.Blocks[i].Keyspace != storage.SystemLocal {
			continue
		}
		for j := range e.Blocks[i].Changes {
			if t := tighteningOf(&e.Blocks[i].Changes[j]); t.what != "" {
				out = append(out, t)
			}
		}
	}
	return out
}

func tighteningOf(c *storage.Change) tightening {
	for _, k := range kinds {
		calls := func(id string, names ...string) (out []string) {
			if k == DR { // a promoted cluster knows no DR secondary of the former primary, and none of its tokens
				return nil
			}
			for _, name := range names {
				out = append(out, fmt.Sprintf("POST /v1/sys/replication/%s/primary/%s {\"id\":%q}", k, name, id))
			}
			return out
		}
		if id, ok := strings.CutPrefix(string(c.Key), recordPrefix(k)); ok {
			var rec secondaryRecord
			switch {
			case c.Op == storage.Delete:
				return tightening{fmt.Sprintf("%s secondary %q was removed", k, id), calls(id, "revoke-secondary")}
			case json.Unmarshal(c.Value, &rec) == nil && rec.State == secondaryRevoked:
				return tightening{fmt.Sprintf("%s secondary %q was revoked", k, id), calls(id, "revoke-secondary")}
			}
		}
		if jti, ok := strings.CutPrefix(string(c.Key), activationPrefix(k)); ok && c.Op == storage.Put {
			var rec activationRecord
			if json.Unmarshal(c.Value, &rec) == nil && rec.Request != "" { // the token is of the former primary's key, and good for nothing now: the secondary needs another
				return tightening{fmt.Sprintf("the %s activation token of secondary %q with jti %s was redeemed", k, rec.ID, jti), calls(rec.ID, "revoke-secondary", "secondary-token")}
			}
		}
	}
	return tightening{}
}
