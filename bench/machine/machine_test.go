package machine

import (
	"math"
	"os"
	"runtime"
	"testing"
)

func TestStealIsTheEighthTimeOfTheFirstLine(t *testing.T) {
	before, err := parseStat([]byte("cpu  100 1 50 1000 20 3 4 10 7 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	after, err := parseStat([]byte("cpu  300 1 150 1200 40 3 4 60 90 90\ncpu0 1 1 1 1 1 1 1 1 1 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := after.Sub(before)
	for _, row := range []struct {
		what      string
		got, want float64
	}{
		{"total", got.Total, 5.7},
		{"idle", got.Idle, 2.2},
		{"steal", got.Steal, 0.5},
		{"steal in percent of a core, over 4 s", got.StealPercent(4), 12.5},
		{"steal over no time", got.StealPercent(0), 0},
	} {
		if math.Abs(row.got-row.want) > 1e-9 {
			t.Errorf("%s: got %g, want %g", row.what, row.got, row.want)
		}
	}
}

func TestWhatIsNoLineOfTimesIsRefused(t *testing.T) {
	for _, text := range []string{"", "cpu", "cpu 1 2 3 4 5 6 7\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 1 2 3 x 5 6 7 8\n", "cpu 1 2 3 -4 5 6 7 8\n"} {
		if _, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestAProcessHasItsTimesBehindAnyName(t *testing.T) {
	got, err := parseProcessStat([]byte("7 (a) b (c)) S 1 7 7 0 -1 4 100 0 0 0 250 150 9 9 20 0 5 0 1 2 3\n"))
	if err != nil || got != 4 {
		t.Errorf("got %g, %v; want 4 s", got, err)
	}
	for _, text := range []string{"", "7 a S 1", "7 (a) S 1 2", "7 (a) S 1 7 7 0 -1 4 100 0 0 0 x 150 9 9\n"} {
		if _, err := parseProcessStat([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestMemoryIsReadByName(t *testing.T) {
	text := []byte("Name:\tx\nVmHWM:\t   20480 kB\nRssAnon:\t    1024 kB\nRssFile:\t 7 kB\n")
	if got := statusKiB(text, "RssAnon:"); got != 1<<20 {
		t.Errorf("RssAnon: got %d", got)
	}
	if got := statusKiB(text, "VmHWM:"); got != 20<<20 {
		t.Errorf("VmHWM: got %d", got)
	}
	if got := statusKiB(text, "Nothing:"); got != 0 {
		t.Errorf("what is not there: got %d", got)
	}
}

func TestThisProcessHasMemoryAndProcessorTime(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has /proc as it is read here")
	}
	if m := ProcessMemory(os.Getpid()); m.Anonymous <= 0 || m.Peak < m.Anonymous {
		t.Errorf("memory: got %+v", m)
	}
	if c := ReadCPU(); c.Total <= 0 || c.Idle > c.Total {
		t.Errorf("processor time of the machine: got %+v", c)
	}
}
