package replication

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/wal"
)

// Whoever promotes is told the price before. Without force a promotion is done only if nothing can be lost as far as can be known here: the primary handed over and
// everything has arrived, or it is connected, everything has arrived, and it will be fenced.

// Preflight is what a promotion would find now.
type Preflight struct {
	Ready   bool   // it would be done without force
	Verdict string // a sentence
	Refused string // it would be refused, with force too; else ""

	Index        uint64 // up to where this cluster has its primary's entries
	PrimaryIndex uint64 // the primary's last, as last heard of
	Lag          uint64 // entries known to be missing
	LagBytes     uint64
	LagTime      time.Duration
	LastContact  time.Time // zero: not known
	Age          time.Duration
	Connected    bool
	HandedOver   bool // the primary was demoted and said where it ends
	Others       []sibling

	LostKnown    uint64  // writes that would be lost for certain, or as far as is known
	LostEstimate uint64  // with those that the primary may have taken since, at its last rate
	Rate         float64 // entries a second
	Exact        bool    // LostKnown is all there can be
	Does         []string
	Levels       map[Kind]Level // with which it would go on
}

// PromotePreflight says what a promotion of this secondary would find now.
func (n *Node) PromotePreflight(k Kind) (*Preflight, error) {
	set := n.set(k)
	switch {
	case set == nil:
		return nil, refuse("%s replication is disabled here: only a secondary can be promoted", k)
	case set.Mode == Primary:
		return nil, refuse("this cluster is the %s primary, not a secondary: there is nothing to promote", k)
	}
	return n.preflightOf(k, set)
}

func (n *Node) preflightOf(k Kind, set *setConfig) (*Preflight, error) {
	l := n.link[k].get()
	p, bye, err := n.figures(k, &l)
	if err != nil {
		return nil, err
	}
	p.Does = promotionDoes(k)
	if p.Levels, err = n.levelsFound(k); err != nil {
		return nil, err
	}
	if len(p.Levels) > 0 {
		p.Does = append(p.Does, levelsText(p.Levels)+"; with synchronous=async it ends")
	}
	switch {
	case !set.Joined:
		p.Refused = "this cluster is still being filled for the first time and holds no complete copy: wait, or promote another secondary"
	case k == Performance:
		if err := n.lacksNothing(); err != nil {
			p.Verdict = err.Error()
			return p, nil
		}
	}
	if p.Refused != "" {
		p.Verdict = p.Refused
		return p, nil
	}
	reason := n.unfit(&l)
	if reason == "" {
		if reason, err = n.lacksConfirmed(k); err != nil {
			return nil, err
		}
	}
	switch {
	case reason != "":
		p.Verdict = reason
	case bye != nil && p.Lag == 0 && bye.Own:
		p.Exact, p.LostKnown, p.LostEstimate = true, 0, 0
		if p.Ready, p.Verdict, err = n.formerVerdict(k, bye); err != nil {
			return nil, err
		}
	case bye != nil && p.Lag == 0:
		p.Ready, p.Exact, p.LostKnown, p.LostEstimate = true, true, 0, 0
		p.Verdict = "ready: the primary was demoted and everything that it wrote is here: a promotion loses nothing"
	case bye != nil:
		p.Exact = true
		p.Verdict = fmt.Sprintf("the primary was demoted at index %d, and %d entries of it are not here: promote a secondary that has them", p.PrimaryIndex, p.Lag)
	case p.Connected && p.Lag == 0:
		p.Ready = true
		p.Verdict = "ready: the primary is connected and everything that it wrote is here. It is fenced as soon as it hears of the promotion; what it acknowledges until then is lost. Demote it first to lose nothing"
	case p.Connected:
		p.Verdict = fmt.Sprintf("replication is catching up: %d entries of the primary are not here yet", p.Lag)
	default:
		p.Verdict = "the primary cannot be reached and did not hand over: " + p.loss()
	}
	if ahead := p.furthest(); ahead != "" && !p.Ready {
		p.Verdict += "; " + ahead
	}
	return p, nil
}

// formerVerdict judges the promotion of a cluster that was the primary itself and was demoted. Nobody tells it of a successor, so only without secondaries it can know
// that there is none.
func (n *Node) formerVerdict(k Kind, bye *farewell) (ready bool, verdict string, err error) {
	d, err := n.demotionOf(k)
	if err != nil {
		return false, "", err
	}
	var known []string
	if d != nil {
		for _, s := range d.Secondaries {
			if s.Set == k {
				known = append(known, s.ID)
			}
		}
		if len(known) == 0 {
			return true, "ready: this cluster was the primary until it was demoted, it has everything, and it had no secondary that could have been promoted", nil
		}
	}
	return false, fmt.Sprintf("this cluster was the primary until it was demoted (%s) and has heard of nobody since: another may have been promoted, and both would take writes. Ask its secondaries (%s): "+
		"if one of them is the primary, let this cluster follow it (%s/secondary/update-primary); if none is, pass force, which loses nothing",
		stamp(time.Unix(bye.At, 0)), orElse(strings.Join(known, ", "), "not known"), k), nil
}

// figures fills in positions, times and what may be lost.
func (n *Node) figures(k Kind, l *linkState) (*Preflight, *farewell, error) {
	at := n.placeOf(k)
	p := &Preflight{
		Index: at.Index, PrimaryIndex: l.RemoteEnd.Index, LagBytes: l.LagBytes, LagTime: l.LagTime, LastContact: l.Primary.LastHeartbeat,
		Others: l.Others, Rate: l.Rate, Connected: l.Connection == "ready" && n.recent(l.Primary.LastHeartbeat),
	}
	if p.LastContact.IsZero() { // from before the start
		c, err := n.contact(k)
		if err != nil {
			return nil, nil, err
		}
		if c != nil {
			p.PrimaryIndex, p.LastContact, p.Rate, p.Others = c.Index, time.Unix(c.At, 0), c.Rate, c.Others
		}
	}
	bye, err := n.farewell(k)
	if err != nil {
		return nil, nil, err
	}
	if bye != nil {
		p.HandedOver, p.PrimaryIndex = true, bye.Position.Index
	}
	p.PrimaryIndex = max(p.PrimaryIndex, at.Index)
	p.Lag = p.PrimaryIndex - at.Index
	if !p.LastContact.IsZero() {
		p.Age = max(0, n.now().Sub(p.LastContact))
	}
	if !p.Connected && !p.HandedOver {
		p.LagTime += p.Age
	}
	p.LostKnown = p.Lag
	p.LostEstimate = p.Lag
	if !p.HandedOver && !p.Connected {
		p.LostEstimate += uint64(math.Ceil(p.Rate * p.Age.Seconds()))
	}
	return p, bye, nil
}

// unfit says why a secondary would not be a whole primary now, whatever its primary has, "" when it would.
func (n *Node) unfit(l *linkState) string {
	switch s := n.engine.SyncState(); {
	case s != nil:
		return "replication is catching up: a synchronisation has not ended"
	case !l.Machine.Consistent(), l.Machine.NeedsDiff, l.Machine.Name == StateMerkleDiff, l.Machine.Name == StateMerkleSync:
		return fmt.Sprintf("replication is catching up: this cluster is in %s", l.Machine.Shown())
	case n.engine.NeedsRepair() != "":
		return fmt.Sprintf("this cluster's data need a repair (%s)", n.engine.NeedsRepair())
	case n.engine.ReindexInterrupted():
		return "this cluster's index is being rebuilt"
	}
	return ""
}

// loss is what a promotion would lose, in words.
func (p *Preflight) loss() string {
	contact := "nothing was heard of it since this cluster's start, so nobody knows how much was written since"
	if !p.LastContact.IsZero() {
		contact = fmt.Sprintf("last heard of %v ago", p.Age.Round(time.Second))
	}
	text := fmt.Sprintf("at least %d writes would be lost (this cluster is at index %d, the primary's last known is %d; %s)", p.LostKnown, p.Index, p.PrimaryIndex, contact)
	if p.LostEstimate > p.LostKnown {
		text += fmt.Sprintf(", about %d if it went on at %.1f writes a second", p.LostEstimate, p.Rate)
	}
	return text
}

// furthest names a secondary that has more than this one.
func (p *Preflight) furthest() string {
	best := sibling{Index: p.Index}
	for _, o := range p.Others {
		if o.Index > best.Index {
			best = o
		}
	}
	if best.ID == "" {
		return ""
	}
	return fmt.Sprintf("secondary %s had index %d when last heard of and would lose less", best.ID, best.Index)
}

func promotionDoes(k Kind) []string {
	does := []string{
		"begins an epoch of its own: this cluster takes writes within moments, keeps its data and the id of the set",
		"knows no secondaries: give each, the former primary too, a new activation token for update-primary; none is copied anew",
		"tells the former primary at its known addresses until it is heard; that one then takes no more writes",
	}
	if k == DR {
		return append(does, "takes the former primary's part in a performance set as well; its performance secondaries follow by themselves")
	}
	return append(does, "makes clients log in anew here: tokens are local to a cluster")
}

// Describe is the preflight for the API.
func (p *Preflight) Describe() map[string]any {
	others := []map[string]any{}
	for _, o := range p.Others {
		others = append(others, map[string]any{"node_id": o.ID, "index": o.Index, "connected": o.Connected})
	}
	out := map[string]any{
		"ready": p.Ready, "force_needed": !p.Ready && p.Refused == "", "verdict": p.Verdict,
		"index": p.Index, "primary_index": p.PrimaryIndex, "lag_entries": p.Lag, "lag_bytes": p.LagBytes, "lag_ms": uint64(max(0, p.LagTime.Milliseconds())),
		"primary_connected": p.Connected, "handed_over": p.HandedOver, "other_secondaries": others,
		"lost_writes": map[string]any{"at_least": p.LostKnown, "estimate": p.LostEstimate, "exact": p.Exact, "rate_per_second": math.Round(p.Rate*10) / 10},
		"does":        p.Does,
	}
	if len(p.Levels) > 0 {
		levels := map[string]any{}
		for k, l := range p.Levels {
			levels[string(k)] = l.String()
		}
		out["synchronous"] = levels
	}
	if !p.LastContact.IsZero() {
		out["last_contact"], out["last_contact_age_ms"] = stamp(p.LastContact), uint64(p.Age.Milliseconds())
	}
	return out
}

// mayPromote refuses a promotion without force that would lose something.
func (n *Node) mayPromote(k Kind, set *setConfig) error {
	if k == Performance {
		if err := n.lacksNothing(); err != nil {
			return err
		}
	}
	p, err := n.preflightOf(k, set)
	if err != nil || p.Ready {
		return err
	}
	text := p.Verdict
	if !strings.Contains(text, "would be lost") {
		text += fmt.Sprintf(" (this cluster is at index %d, the primary's last known is %d)", p.Index, p.PrimaryIndex)
	}
	return notReady("%s", text)
}

// ---- what is kept of the primary for the time when it is away

// contactEvery is how often the newest word of the primary is made durable.
const contactEvery = 10 * time.Second

// rateTime is for how long a primary's rate of writes is measured at a time.
const rateTime = 10 * time.Second

// noteContact keeps what a secondary last heard of its primary (node scope).
func noteContact(k Kind) string { return "replication/" + string(k) + "/contact" }

// contactRecord is that, as stored (JSON).
type contactRecord struct {
	Index  uint64    `json:"index"`
	At     int64     `json:"at"` // Unix seconds
	Rate   float64   `json:"rate"`
	Others []sibling `json:"others,omitempty"`
}

// rateMark is where a measurement began.
type rateMark struct {
	At     time.Time
	Index  uint64
	Stored time.Time // when the contact was last made durable
	Rated  bool      // with a rate
}

// keepContact takes a heartbeat into account, durably now and then: a promotion after a restart is to know how old this cluster's data are.
func (n *Node) keepContact(k Kind, h *heartbeat, now time.Time) error {
	var before, store *contactRecord
	if n.link[k].get().RateFrom.Stored.IsZero() { // the first since the start: what is stored tells how fast the primary wrote
		var err error
		if before, err = n.contact(k); err != nil {
			return err
		}
	}
	n.link[k].update(func(l *linkState) {
		l.Others = h.Others
		m := &l.RateFrom
		if before != nil && l.Rate == 0 {
			l.Rate = before.Rate
		}
		if m.At.IsZero() || h.Position.Index < m.Index {
			m.At, m.Index = now, h.Position.Index
		}
		if took := now.Sub(m.At); took > 0 && (took >= rateTime || l.Rate == 0) {
			l.Rate = float64(h.Position.Index-m.Index) / took.Seconds()
			if took >= rateTime {
				m.At, m.Index = now, h.Position.Index
			}
		}
		if now.Sub(m.Stored) >= contactEvery || l.Rate > 0 && !m.Rated {
			m.Stored, m.Rated = now, l.Rate > 0
			store = &contactRecord{Index: h.Position.Index, At: now.Unix(), Rate: l.Rate, Others: h.Others}
		}
	})
	if store == nil {
		return nil
	}
	return n.engine.NodeSet(map[string][]byte{noteContact(k): mustJSON(store)})
}

func (n *Node) contact(k Kind) (*contactRecord, error) {
	b := n.engine.NodeGet(noteContact(k))
	if b == nil {
		return nil, nil
	}
	c := new(contactRecord)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("the stored word of the %s primary does not decode: %w", k, err)
	}
	return c, nil
}

// standings are a set's secondaries, as a heartbeat tells one of them of the others.
func (n *Node) standings(to peer) []sibling {
	peers, _ := n.peers.all(to.Kind)
	var out []sibling
	for _, p := range peers {
		if p.ID != to.ID && len(out) < maxStandings && p.Acked != (wal.Position{}) {
			out = append(out, sibling{ID: p.ID, Index: p.Acked.Index, Connected: p.Streams > 0 && n.recent(p.LastHeartbeat)})
		}
	}
	return out
}
