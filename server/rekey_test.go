package server

import (
	"fmt"
	"testing"
)

// rekey makes new shares out of old ones, without verification; wrap asks for them in a wrapped answer.
func (n *shamirNode) rekey(want int, wrap string, old ...string) (next []string) {
	n.t.Helper()
	nonce := n.call("PUT", "sys/rekey/init", `{"secret_shares":3,"secret_threshold":2}`, 200)["nonce"]
	for i, k := range old {
		status := 200
		if i == len(old)-1 {
			status, n.wrapTTL = want, wrap
		}
		got := n.call("PUT", "sys/rekey/update", fmt.Sprintf(`{"key":%q,"nonce":%q}`, k, nonce), status)
		next = texts(got["keys"])
	}
	n.wrapTTL = ""
	return next
}

// TestSharesGivenDirectlyAfterSealingAreThoseInForce rekeys and rotates, seals, and unseals while the last core still closes.
func TestSharesGivenDirectlyAfterSealingAreThoseInForce(t *testing.T) {
	t.Parallel()
	n := runShamir(t, shamirConfig(t))
	old := n.init(`{"secret_shares":3,"secret_threshold":2}`, "keys")
	n.unseal(old[:2]...)
	n.call("POST", "sys/mounts/kv", `{"type":"kv"}`, 204)
	next := n.rekey(200, "", old[:2]...)
	n.call("PUT", "sys/rotate", "", 204)
	n.call("PUT", "kv/app", `{"v":"under the new key"}`, 204)

	n.call("PUT", "sys/seal", "", 204)
	n.call("PUT", "sys/unseal", fmt.Sprintf(`{"key":%q}`, old[0]), 200)
	n.call("PUT", "sys/unseal", fmt.Sprintf(`{"key":%q}`, old[1]), 400)
	if got := n.unseal(next[:2]...); got["sealed"] != false {
		t.Fatalf("after the new shares: %v", got)
	}
	n.call("GET", "kv/app", "", 200)
	n = n.restart()
	n.unseal(next[1:]...)
	n.call("GET", "kv/app", "", 200)
}

// TestARekeyWhoseAnswerIsNotSentChangesNothing asks for a wrapped answer on a node that has no room to keep one.
func TestARekeyWhoseAnswerIsNotSentChangesNothing(t *testing.T) {
	t.Parallel()
	n := runShamir(t, shamirConfig(t))
	old := n.init(`{"secret_shares":3,"secret_threshold":2}`, "keys")
	roomy := n.cfg.MinFree
	n.cfg.MinFree = 1 << 60
	n = n.restart()
	n.unseal(old[:2]...)
	n.rekey(503, "60", old[:2]...)
	n.cfg.MinFree = roomy
	n = n.restart()
	if got := n.unseal(old[1:]...); got["sealed"] != false {
		t.Errorf("the shares of before: %v", got)
	}
}
