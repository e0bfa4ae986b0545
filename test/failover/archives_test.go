package failover

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// archives asks a cluster about its archives, by the way that its part has; rest is "" for the list, or "/" and an id. from is where a page begins.
func (s *set) archives(m *member, rest string, from uint64, into any) {
	s.t.Helper()
	var a *cluster.Answer
	if s.kind == cluster.DR && m.MustStatus(cluster.DR).Mode == "secondary" {
		body := fmt.Sprintf(`{"dr_operation_token":%q,"limit":1000,"from":%d}`, s.op, from)
		a = m.MustDo("POST", "sys/replication/dr/secondary/divergence"+rest, body, 200)
	} else {
		a = m.MustDo("GET", fmt.Sprintf("sys/replication/divergence%s?limit=1000&from=%d", rest, from), "", 200)
	}
	envelope := struct {
		Data any `json:"data"`
	}{into}
	if err := json.Unmarshal(a.Body, &envelope); err != nil {
		s.t.Fatal(err)
	}
}

// archivesOf lists a cluster's archives.
func (s *set) archivesOf(m *member) []string {
	s.t.Helper()
	var list struct {
		Keys []string `json:"keys"`
	}
	s.archives(m, "", 0, &list)
	return list.Keys
}

// lost returns the paths below kv/ of the puts that a cluster's archives call lost, and how often each is there.
func (s *set) lost(m *member) map[string]int {
	s.t.Helper()
	all := map[string]int{}
	for _, id := range s.archivesOf(m) {
		for from, more := uint64(0), true; more; {
			var page struct {
				Next  uint64
				Items []struct {
					Op, Key, Mount string
					Lost           bool
				}
			}
			s.archives(m, "/"+id, from, &page)
			for _, it := range page.Items {
				if it.Lost && it.Op == "put" && it.Mount == "kv/" {
					all[it.Key]++
				}
			}
			from, more = page.Next, page.Next > 0
		}
	}
	return all
}

// archived demands that a cluster's archives hold exactly some parts of the story.
func (s *set) archived(m *member, prefixes ...string) {
	s.t.Helper()
	got := s.lost(m)
	for _, prefix := range prefixes {
		for i := range count {
			if key := strings.TrimPrefix(cluster.Key("kv/"+prefix, i), "kv/"); got[key] == 0 {
				s.t.Errorf("%s was acknowledged, lost, and is not in the archives of %s", key, m.Name)
			} else {
				delete(got, key)
			}
		}
	}
	if len(got) > 0 {
		s.t.Errorf("the archives of %s hold what was not lost: %v", m.Name, got)
	}
}
