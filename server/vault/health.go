package vault

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
)

// likeStandby says why this cluster serves reads and takes no writes of its own clients, as a standby does: a full disk, a log that a failed
// commit closed, a primary that another has overtaken. nil for one that takes them, and for a secondary: what its clients write the primary takes.
func (c *Core) likeStandby() error {
	if c.mode(dr) == replication.Secondary || c.mode(performance) == replication.Secondary {
		return nil
	}
	err := c.engine.Writable()
	if errors.Is(err, engine.ErrInconsistent) {
		return nil
	}
	return err
}

// standbyCode is the status of a cluster that is like a standby.
func standbyCode(h *http.Request, codes map[string]int) (int, error) {
	if text, given := h.URL.Query()["standbyok"]; given {
		ok, err := strconv.ParseBool(orTrue(text[0]))
		if err != nil {
			return 0, &refusal{kind: errInvalid}
		}
		if ok {
			return codes["activecode"], nil
		}
	}
	return codes["standbycode"], nil
}

// orTrue lets a parameter without a value mean yes.
func orTrue(text string) string {
	if text == "" {
		return "true"
	}
	return text
}

// healthReplication adds what a secondary knows of its link, as numbers here.
func (c *Core) healthReplication(body map[string]any) {
	n := c.node.Load()
	if n == nil {
		return
	}
	fenced := map[string]any{}
	for _, k := range []replication.Kind{dr, performance} {
		if f := n.Fenced(k); f != nil {
			fenced[string(k)] = f
		}
	}
	if len(fenced) > 0 {
		body["fenced"] = fenced
	}
	for _, k := range []replication.Kind{dr, performance} {
		if n.Mode(k) != replication.Secondary {
			continue
		}
		list, _ := n.Status(k)["primaries"].([]map[string]any)
		if len(list) == 0 {
			continue
		}
		for to, from := range map[string]string{
			"clock_skew_ms": "clock_skew_ms", "echo_duration_ms": "last_heartbeat_duration_ms", "replication_primary_canary_age_ms": "replication_primary_canary_age_ms",
		} {
			text, _ := list[0][from].(string)
			if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
				body[to] = ms
			}
		}
	}
}

// syncWarning goes with what is read while a performance secondary is being synced: some records are older than others.
const syncWarning = "this secondary is being synced from its primary (merkle-sync): what is read now may mix older and newer records, until sys/replication/status shows stream-wals"

// warnOfSync adds the warning to an answer of shared data that a sync is changing, also to the one that there is nothing, or no mount.
func (c *Core) warnOfSync(r *request, rep *reply, err error) error {
	if r.op&(opRead|opList) == 0 || r.mount != nil && r.mount.Local || c.mode(performance) != replication.Secondary || c.engine.SyncState() == nil {
		return err
	}
	if rep != nil {
		rep.warn(syncWarning)
	}
	var none *refusal
	if errors.As(err, &none) && (none.kind == errNotFound || none.kind == errUnsupported) {
		return &refusal{kind: none.kind, say: none.say, warnings: []string{syncWarning}}
	}
	return err
}
