package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestTheRestoreRunbookIsWhatATranscriptRuns compares the commands of the page with those of testdata/snapshot.txt.
func TestTheRestoreRunbookIsWhatATranscriptRuns(t *testing.T) {
	page, err := os.ReadFile("../../docs/runbooks/restore.md")
	if err != nil {
		t.Fatal(err)
	}
	transcript, err := os.ReadFile("testdata/snapshot.txt")
	if err != nil {
		t.Fatal(err)
	}
	names := strings.NewReplacer("/var/backups/lockstep.snapshot", "a.snapshot", "/etc/lockstep/lockstep.hcl", "b.hcl")
	commands := regexp.MustCompile(`(?m)^lockstep .*$`).FindAllString(string(page), -1)
	if len(commands) < 6 {
		t.Errorf("the page has %d commands only: %q", len(commands), commands)
	}
	for _, c := range commands {
		if !strings.Contains(string(transcript), "\n$ "+names.Replace(c)+"\n") {
			t.Errorf("the page says %q, and the transcript does not run %q", c, names.Replace(c))
		}
	}
}
