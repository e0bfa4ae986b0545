package replication

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// A whole history is too long for an index token or a forwarded request. They carry the beginnings of its newest epochs: enough to see, without anything
// else, that the reader's own history has been left.

// maxEpochs is how many beginnings are carried: as many failovers may have been missed.
const maxEpochs = 3

// epochs returns the reigns of a history with which its newest epochs began, the oldest first; the very first is none: nobody was promoted.
func epochs(history []engine.Reign) []engine.Reign {
	var out []engine.Reign
	for i := 1; i < len(history); i++ {
		if history[i].Ordinal > history[i-1].Ordinal {
			r := history[i]
			r.Parent = history[i-1].Fork
			out = append(out, r)
		}
	}
	return out[max(0, len(out)-maxEpochs):]
}

// pathOf is as much of a history as the beginnings of its epochs tell: between two of them the forks of which nothing but the last is known.
func pathOf(met []engine.Reign) []engine.Reign {
	path := make([]engine.Reign, 0, 2*len(met))
	for i, r := range met {
		if i == 0 {
			path = append(path, engine.Reign{Fork: r.Parent})
		} else if before := path[len(path)-1]; before.Fork != r.Parent {
			path = append(path, engine.Reign{Fork: r.Parent, Lineage: before.Lineage})
		}
		path = append(path, r)
	}
	return path
}

// judgePath is judge for such a path. What has no fork in common says nothing.
func judgePath(own, path []engine.Reign) Answer {
	if _, _, ok := lastCommon(path, own); !ok {
		return Answer{}
	}
	d := judge(own, path)
	if d.Kind == Restored { // cannot be seen from beginnings alone
		return Answer{}
	}
	return d
}

// ---- in index tokens

func encodeEpochs(reigns []engine.Reign) string {
	var out []string
	for _, r := range reigns {
		same := 0
		if r.Lineage != (wal.Lineage{}) {
			same = 1
		}
		out = append(out, fmt.Sprintf("%d-%d-%s-%s-%d", r.Ordinal, r.Start, base64.RawStdEncoding.EncodeToString(r.Parent[:]), base64.RawStdEncoding.EncodeToString(r.Fork[:]), same))
	}
	return strings.Join(out, ",")
}

func decodeEpochs(text string) ([]engine.Reign, error) {
	if text == "" {
		return nil, nil
	}
	all := strings.Split(text, ",")
	if len(all) > maxEpochs {
		return nil, ErrIndexToken
	}
	var out []engine.Reign
	for _, one := range all {
		r, err := decodeEpoch(strings.Split(one, "-"))
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func decodeEpoch(f []string) (r engine.Reign, err error) {
	if len(f) != 5 || f[4] != "0" && f[4] != "1" {
		return r, ErrIndexToken
	}
	if r.Ordinal, err = strconv.ParseUint(f[0], 10, 64); err != nil {
		return r, ErrIndexToken
	}
	if r.Start, err = strconv.ParseUint(f[1], 10, 64); err != nil {
		return r, ErrIndexToken
	}
	for i, fork := range []*wal.Fork{&r.Parent, &r.Fork} {
		b, err := base64.RawStdEncoding.Strict().DecodeString(f[2+i])
		if err != nil || len(b) != len(fork) {
			return r, ErrIndexToken
		}
		copy(fork[:], b)
	}
	if f[4] == "1" {
		r.Lineage = sameLog
	}
	return r, nil
}

// sameLog stands, in a token, for the lineage of the log that an epoch left and goes on with.
var sameLog = wal.Lineage{1}

// inTokens are the beginnings of epochs as a token tells them.
func inTokens(history []engine.Reign) []engine.Reign {
	out := epochs(history)
	for i := range out {
		r := engine.Reign{Ordinal: out[i].Ordinal, Start: out[i].Start, Parent: out[i].Parent, Fork: out[i].Fork}
		if reignOf(history, out[i].Parent).Lineage == out[i].Lineage {
			r.Lineage = sameLog
		}
		out[i] = r
	}
	return out
}

// ownLineage gives the epochs of a token that went on with the same log the lineage of this cluster's own log, if it is that one.
func ownLineage(log, met []engine.Reign) []engine.Reign {
	out := make([]engine.Reign, len(met))
	known := wal.Lineage{}
	for i, r := range met {
		if of := reignOf(log, r.Parent); of.Fork == r.Parent {
			known = of.Lineage
		}
		if r.Lineage == sameLog {
			r.Lineage = known
		} else {
			r.Lineage, known = wal.Lineage{0xff}, wal.Lineage{0xff}
		}
		out[i] = r
	}
	return out
}

// ---- what follows

// meetEpochs is meet for the beginnings of epochs. The error is an engine.Fence when this primary must not go on.
func (n *Node) meetEpochs(k Kind, met []engine.Reign, from teller) error {
	set := n.set(k)
	if set == nil || set.Mode != Primary || len(met) == 0 {
		return nil
	}
	own, _ := n.setHistory(k, set, n.engine.Position().Index)
	path := pathOf(met)
	d := judgePath(own, path)
	if d.Kind == NoAnswer {
		return nil
	}
	if err := n.fenceBy(k, d, path, false, from); err != nil {
		return err
	}
	if f := n.fenceOf(k); f != nil {
		return &engine.Fence{Shared: k == Performance, Reason: f.sentence(k)}
	}
	return nil
}

// upTo cuts a history after a fork, nil when it is not in it.
func upTo(history []engine.Reign, fork wal.Fork) []engine.Reign {
	for i := range history {
		if history[i].Fork == fork {
			return history[:i+1]
		}
	}
	return nil
}
