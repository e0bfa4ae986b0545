package replication

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/storage"
)

// tightening is what an entry took away from somebody, a revocation or a redemption, and the calls that bring it about on another primary, without any secret.
type tightening struct {
	what   string
	repeat []string
}

// tightener finds what the lost entries of one archive took away, told in their order.
type tightener struct {
	api func(ks storage.KeyspaceID, c *storage.Change) (what string, repeat []string) // nil: nothing is known of the API's records
}

func (n *Node) tightener() *tightener {
	t := &tightener{}
	if n.cfg.Tightens != nil {
		t.api = n.cfg.Tightens()
	}
	return t
}

// of lists what an entry took away in the scopes that are taken back.
func (t *tightener) of(e *storage.Entry, taken func(storage.Scope) bool) []tightening {
	var out []tightening
	for i := range e.Blocks {
		b := &e.Blocks[i]
		if !taken(b.Scope) {
			continue
		}
		for j := range b.Changes {
			if b.Keyspace == storage.SystemLocal {
				if x := tighteningOf(&b.Changes[j]); x.what != "" {
					out = append(out, x)
					continue
				}
			}
			if t.api == nil {
				continue
			}
			if what, repeat := t.api(b.Keyspace, &b.Changes[j]); what != "" {
				out = append(out, tightening{what, repeat})
			}
		}
	}
	return out
}

// note tells an archive's writer of them.
func (t *tightener) note(w *archive.Writer, e *storage.Entry, taken func(storage.Scope) bool) {
	for _, x := range t.of(e, taken) {
		w.Tighten(x.what, x.repeat...)
	}
}

func isShared(s storage.Scope) bool { return s == storage.Replicated }
func anyScope(storage.Scope) bool   { return true }

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
