package vault

import (
	"fmt"
	"strings"

	"github.com/lockstepdb/lockstep/storage"
)

// maxTightened bounds what is remembered of one archive: beyond it a token that was made and revoked there is named, and a policy more than once.
const maxTightened = 1 << 16

// Tightens begins to look through changes that are taken back for those that took rights away (replication.Config.Tightens). A token of which only the end is
// among them lives on where they never came; a policy says there what it said before.
func Tightens() func(ks storage.KeyspaceID, c *storage.Change) (what string, repeat []string) {
	seen := map[string]struct{}{}
	first := func(key string) bool {
		_, had := seen[key]
		if !had && len(seen) < maxTightened {
			seen[key] = struct{}{}
		}
		return !had
	}
	return func(ks storage.KeyspaceID, c *storage.Change) (string, []string) {
		key := string(c.Key)
		accessor, ofToken := strings.CutPrefix(key, accessorPrefix)
		policy, ofPolicy := strings.CutPrefix(key, policyPrefix)
		switch {
		case ks == private.id && ofToken && c.Op == storage.Put:
			first(key)
		case ks == private.id && ofToken && c.Op == storage.Delete && first(key):
			return fmt.Sprintf("the client token with accessor %s was revoked, or had ended", accessor),
				[]string{fmt.Sprintf("POST /v1/auth/token/revoke-accessor {\"accessor\":%q}", accessor)}
		case ks == shared.id && ofPolicy && c.Op == storage.Delete && first(key+" removed"):
			return fmt.Sprintf("policy %q was removed", policy), []string{"DELETE /v1/sys/policies/acl/" + policy}
		case ks == shared.id && ofPolicy && c.Op == storage.Put && first(key):
			return fmt.Sprintf("policy %q was written: its text then is in the archive, and what it allows now is from before", policy), []string{"POST /v1/sys/policies/acl/" + policy}
		}
		return "", nil
	}
}
