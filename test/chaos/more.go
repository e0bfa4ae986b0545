package chaos

import "math/rand/v2"

// Steps that only plans with more have: those without stay what their seeds have always given.
const (
	stepFence       = "forced promotion of which the former primary hears"
	stepCommand     = "lockstep failover"
	stepCommandFail = "lockstep failover by force"
	stepSnapshot    = "snapshot"
)

// keptSteps of the plan are carried out beside the added ones: a round is not to be twice as long.
const keptSteps = 5

// addMore gives a plan each step that the older kinds of plans lack, from a stream of numbers of its own.
func (p *plan) addMore() {
	r := rand.New(rand.NewPCG(p.seed, 2))
	p.synchronous = r.IntN(2) == 0
	p.steps = p.steps[:keptSteps]
	for _, what := range p.topology.added() {
		p.steps = append(p.steps, step{what: what, after: 15 + r.IntN(35), pick: r.IntN(60), how: r.IntN(60)})
	}
	r.Shuffle(len(p.steps), func(i, j int) { p.steps[i], p.steps[j] = p.steps[j], p.steps[i] })
}

// added are the steps that addMore gives to a plan of this topology.
func (t topology) added() []string {
	all := []string{stepFence, stepSnapshot, stepSnapshot}
	for _, s := range t.sites {
		if len(s) > 1 {
			return append(all, stepCommand, stepCommandFail)
		}
	}
	return all
}
