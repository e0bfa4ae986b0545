package chaos

import (
	"net/http"
	"slices"
	"strings"
)

// secondaries: a performance secondary shows a prefix of its primary's order, never goes back, and has what an index token names.
func (v *verdict) secondaries() {
	type session struct {
		on   *member
		life int
	}
	sessions := map[session][]*op{}
	for _, o := range v.ops {
		if o.direct || o.kind != read {
			continue
		}
		if o.outcome == refused && o.status == http.StatusConflict {
			v.lostIndex(o)
		}
		if o.outcome != done {
			continue
		}
		if o.warned || !v.calm(o) {
			v.tally.skipped++
			continue
		}
		s := session{o.on, o.life}
		sessions[s] = append(sessions[s], o)
	}
	for _, reads := range sessions {
		v.prefix(reads)
	}
}

// lostIndex: an index token is called lost only when its write was.
func (v *verdict) lostIndex(o *op) {
	v.tally.lostTold++
	x := v.byToken[o.asked]
	if x == nil || x.fate != (fate{}) || strings.Contains(o.detail, "cannot be placed") {
		return
	}
	v.fault("an index token is answered as lost, and its write is there: %s\n  written by %s", o, x)
}

// prefix judges the reads of one secondary, in the order of their calls.
func (v *verdict) prefix(reads []*op) {
	ended := slices.SortedFunc(slices.Values(reads), func(a, b *op) int { return int(a.ret - b.ret) })
	var floor, of *op // the latest write that the secondary is known to have, and by which read
	next := 0
	for _, o := range reads {
		for ; next < len(ended) && ended[next].ret < o.call; next++ {
			if x := v.byValue[ended[next].got]; ended[next].found && x.settled() && (floor == nil || before(x, floor) > 0) {
				floor, of = x, ended[next]
			}
		}
		least, why := floor, of
		if x := v.byToken[o.asked]; o.asked != "" && x.settled() && (least == nil || before(x, least) > 0) {
			least, why = x, o
		}
		v.tally.reads++
		if least != nil {
			v.atLeast(o, least, why)
		}
	}
}

// settled tells whether a write was acknowledged, with a place, and stays.
func (o *op) settled() bool {
	return o != nil && o.outcome == done && !o.mismatch && !o.idle && o.at.index > 0 && o.fate == (fate{})
}

// atLeast demands that a read shows its key as it was after a write, or later.
func (v *verdict) atLeast(o, least, why *op) {
	var newest *op // of this key, up to least
	removedLater := false
	for _, x := range v.byKey[o.key] {
		if !x.kind.writes() || x.outcome == refused || x.mismatch {
			continue
		}
		if x.settled() && before(x, least) <= 0 && (newest == nil || before(x, newest) > 0) {
			newest = x
		}
	}
	if newest == nil {
		return
	}
	for _, x := range v.byKey[o.key] {
		if x.kind == remove && x.outcome != refused && (!x.settled() || before(x, newest) >= 0) && x.call < o.ret {
			removedLater = true
		}
	}
	shown := v.byValue[o.got]
	switch {
	case !o.found && newest.kind != remove && !removedLater:
	case o.found && shown.settled() && before(shown, newest) < 0:
	case o.found && shown != nil && shown.fate.lostIn > 0 && least.reign >= shown.fate.lostIn:
	default:
		return
	}
	v.fault("a secondary is behind what it had shown or was asked for: %s\n  it must have %s\n  as it showed in %s\n  which is after %s", o, newest, why, least)
}
