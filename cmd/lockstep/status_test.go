package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

func TestStatusShowsWhatAPathsFilterLeavesOut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, status, want string }{
		{"a filtered secondary", `{"mode":"secondary","merkle_root":"aa","filtered_mounts":["a/","b/"],"filling_mounts":["c/"]}`,
			"Performance secondary\nRoot aa\nFiltered mounts a/, b/\nFilling mounts c/\n"},
		{"a secondary without a filter", `{"mode":"secondary","merkle_root":"aa","filtered_mounts":[],"filling_mounts":[]}`,
			"Performance secondary\nRoot aa\n"},
		{"each secondary's own root on the primary", `{"mode":"primary","merkle_root":"aa","secondaries":[
			{"node_id":"eu","connection_status":"connected","merkle_root":"bb","filtered_mounts":["a/","b/"]},
			{"node_id":"us","connection_status":"connected","merkle_root":"aa","lag_entries":0}]}`,
			"Performance primary\nRoot aa\n secondary eu connected root bb without a/, b/\n secondary us connected lag 0 entries root aa\n"},
	} {
		var s clusterStatus
		if err := json.Unmarshal([]byte(c.status), &s.Replication.Performance); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := s.print(&b); err != nil {
			t.Fatal(err)
		}
		_, got, _ := strings.Cut(regexp.MustCompile(` +`).ReplaceAllString(b.String(), " "), "DR")
		_, got, _ = strings.Cut(got, "\n\n")
		if got != c.want {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, got, c.want)
		}
	}
}
