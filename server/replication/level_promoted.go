package replication

import (
	"fmt"
	"strings"

	"github.com/lockstepdb/lockstep/server/engine"
)

// A promoted cluster goes on with the level that it finds: what an operator asked for is not given up in silence. It has no secondaries at first, so that its answers
// are 409, those to logins too, until as many follow as the level asks for. Who promotes may say that the level ends; later that takes a token, which nobody may have.

// successionOf are the sets whose primary a promotion makes.
func successionOf(k Kind) []Kind {
	if k == DR {
		return kinds // the former primary's part in the performance set, too
	}
	return []Kind{k}
}

// levelsFound returns the levels with which a promotion would go on.
func (n *Node) levelsFound(k Kind) (map[Kind]Level, error) {
	found := map[Kind]Level{}
	for _, of := range successionOf(k) {
		l, err := n.readLevel(of)
		if err != nil {
			return nil, err
		}
		if l.Secondaries > 0 {
			found[of] = l
		}
	}
	return found, nil
}

// levelsGoOn warns, after a promotion, of the levels that its answers wait for.
func (n *Node) levelsGoOn(k Kind, async bool) (warning string, err error) {
	found, err := n.levelsFound(k)
	if err != nil || async || len(found) == 0 {
		return "", err
	}
	return " " + levelsText(found) + ". Lower it with primary/synchronous if they are not to come.", nil
}

func levelsText(found map[Kind]Level) string {
	var which []string
	for _, k := range kinds {
		if l, ok := found[k]; ok {
			which = append(which, fmt.Sprintf("%s of the %s set", l, k))
		}
	}
	return "The level of before goes on (" + strings.Join(which, ", ") + "): writes and logins are answered 409 until as many secondaries follow"
}

// endLevels are the writes by which a promotion ends the levels of before, if its caller said so.
func (in *intent) endLevels(k Kind) (writes []engine.Write) {
	if !in.Async {
		return nil
	}
	for _, of := range successionOf(k) {
		writes = append(writes, remove(recordLevel(of)))
	}
	return writes
}
