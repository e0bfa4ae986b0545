package replication

import (
	"encoding/hex"
	"strings"
)

// coverageStatus adds to an element of secondaries what that secondary may have, and the root of it here.
func (n *Node) coverageStatus(k Kind, id string, s map[string]any) {
	takes := wholeOf(k)
	if k == Performance {
		c, err := n.coverOf(id)
		if err != nil {
			n.log.Error("status cannot tell what a secondary may have", "secondary", id, "error", err)
			return
		}
		takes = c.takes
		if !c.whole {
			s["filtered_mounts"] = n.leftOutPaths(id)
		}
	}
	totals, _ := n.engine.Totals()
	root := rootOfTaken(takes, totals)
	s["merkle_root"] = hex.EncodeToString(root[:])
}

func (n *Node) leftOutPaths(id string) []string {
	paths, _, err := n.DynamicFilter(id)
	if err != nil {
		n.log.Error("status cannot list what a paths filter leaves out", "secondary", id, "error", err)
	}
	return append([]string{}, paths...)
}

// lackStatus adds which mounts this cluster, a secondary, does not hold.
func (n *Node) lackStatus(k Kind, out map[string]any) {
	if k != Performance {
		return
	}
	filtered, filling, err := n.Lacking()
	if err != nil {
		n.log.Error("status cannot tell what this cluster lacks", "error", err)
		return
	}
	out["filtered_mounts"], out["filling_mounts"] = filtered, filling
}

// lacksNothing refuses to make a primary of a secondary that does not hold all that is shared.
func (n *Node) lacksNothing() error {
	filtered, filling, err := n.Lacking()
	if err != nil {
		return err
	}
	if lacking := append(filtered, filling...); len(lacking) > 0 {
		return refuse("this cluster lacks mounts (%s), which its paths filter leaves out or which are still being received: remove the filter on the primary and wait, promote another "+
			"secondary, or pass force=true: then these mounts are not available in this set until they are disabled", strings.Join(lacking, ", "))
	}
	return nil
}
