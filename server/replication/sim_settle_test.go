package replication

import (
	"fmt"

	"github.com/lockstepdb/lockstep/wal"
)

// settle is the end of a run: an operator chooses one primary, has all others follow it, and everything must come to rest.
func (s *sim) settle(choice int) {
	for _, c := range s.clusters {
		c.restart()
		c.commit()
	}
	w := s.winner(choice)
	if w == nil {
		s.fail("no cluster can be made the primary")
		return
	}
	s.note("-- %s is to win", w)
	leaders := map[string]*simCluster{w.site: w}
	for _, site := range []string{"p", "s", "s2"} {
		if leaders[site] == nil {
			leaders[site] = s.leader(site)
		}
	}
	for _, c := range s.clusters {
		if leaders[c.site] != c {
			c.keepMember()
			c.demote(DR)
			c.repoint(DR, leaders[c.site])
		}
	}
	for _, c := range s.clusters {
		if leaders[c.site] == c && c != w {
			c.demote(Performance)
			if c.role[Performance].mode == "" { // promoted before it had heard of its primary's part: it begins as an empty one
				c.st.cursor = wal.Position{}
				c.enrol(Performance, w)
			}
			c.repoint(Performance, w)
		}
	}
	recovered := map[*simCluster]int{}
	for quiet, round := 0, 0; quiet < 4 && s.err == nil; round++ {
		if round > 600 {
			s.fail("it does not come to rest: %s", s.describe())
			return
		}
		before := s.progress()
		s.round()
		for _, c := range s.clusters {
			if leaders[c.site] != c || !c.role[DR].fenced && !c.role[Performance].fenced && !c.stopped {
				continue
			}
			if recovered[c]++; recovered[c] > 1+len(s.clusters) {
				c.fail("recover does not end a conflict")
				return
			}
			s.note("-- recover on %s, met %s", c, simRivals(c))
			c.recover()
			s.recoverings++
		}
		for _, c := range s.clusters { // those that were refused are told again
			for _, k := range kinds {
				if r := c.role[k]; r.mode == Secondary && r.state.Name == StateIdle {
					rewound := r.rewound
					c.repoint(k, r.feeder)
					r.rewound = rewound
				}
			}
		}
		s.checkStates()
		quiet++
		if s.progress() != before {
			quiet = 0
		}
	}
	if s.err == nil {
		s.checkEnd(w)
		s.checkTokens(true)
	}
}

func simRivals(c *simCluster) string {
	out := ""
	for _, k := range kinds {
		for _, h := range c.role[k].rivals {
			out += fmt.Sprint(k, simPath(h), " ")
		}
	}
	return out
}

// winner is a performance primary, made if there is none; a complete copy if there is one.
func (s *sim) winner(choice int) *simCluster {
	for _, complete := range []bool{true, false} {
		var can []*simCluster
		for _, c := range s.clusters {
			if c.role[DR].mode == Primary && c.role[Performance].mode == Primary && (c.whole() || !complete) && !c.stopped {
				can = append(can, c)
			}
		}
		if len(can) > 0 {
			return can[choice%len(can)]
		}
		for _, k := range []Kind{Performance, DR} {
			for _, c := range s.clusters {
				if c.role[k].mode != Secondary || !c.role[k].joined || complete && !c.whole() || k == Performance && c.role[DR].mode != Primary {
					continue
				}
				if c.forced(k); c.role[Performance].mode == Secondary && c.role[Performance].joined {
					c.forced(Performance)
				}
				if c.role[Performance].mode == Primary {
					c.recover() // of those that stopped
					return c
				}
			}
		}
	}
	return nil
}

// leader is the DR primary of a site, made if there is none.
func (s *sim) leader(site string) *simCluster {
	var last *simCluster
	for _, c := range s.clusters {
		if c.site == site && c.role[DR].mode == Primary && (last == nil || last.stopped) {
			last = c
		}
	}
	if last != nil {
		return last
	}
	for _, complete := range []bool{true, false} {
		for _, c := range s.clusters {
			if c.site == site && c.role[DR].joined && (c.whole() || !complete) {
				c.forced(DR)
				return c
			}
		}
	}
	return nil
}

func (s *sim) round() {
	for _, c := range s.clusters {
		c.checkpoint()
		for _, k := range kinds {
			c.timer(k)
			c.dial(k)
		}
		c.keepMember()
	}
	for _, n := range s.conns {
		for range 4 {
			n.deliver(false)
			n.fed.feed(n, 4)
			n.deliver(true)
		}
	}
}

// progress changes while anything moves.
func (s *sim) progress() string {
	out := ""
	for _, c := range s.clusters {
		out += fmt.Sprint(c.end(), c.st.at, c.st.cursor, c.consistent(), c.role[DR].state.Name, c.role[Performance].state.Name, c.role[DR].fenced, c.role[Performance].fenced)
	}
	return out
}

func (s *sim) describe() string {
	out := ""
	for _, c := range s.clusters {
		out += fmt.Sprintf("\n%s: end %s cursor %s", c, simPlace(c.end()), simPlace(c.st.cursor))
		for _, k := range kinds {
			r := c.role[k]
			out += fmt.Sprintf("; %s %s feeder %v %v fenced %v lives %d seen %s", k, r.mode, r.feeder, r.state, r.fenced, r.lives, simPath(r.seen))
		}
	}
	return out
}
