package demo

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// widest are lines as long as they become.
func widest() []line {
	root := strings.Repeat("0123456789", 4)
	second := line{name: "perf", role: "performance secondary", state: "bootstrapping", index: 1_234_567, lag: 654_321, ms: 123_456,
		digests: []string{root}, perSecond: 12_345, secondary: true, answered: true, same: true}
	down := line{name: "dr", role: "dr secondary", state: "no answer", index: 1_234_567, ms: 123_456, secondary: true}
	return []line{
		{name: "primary", role: "primary", state: "running", index: 1_234_567, digests: []string{root, root}, perSecond: 12_345, answered: true},
		down, second,
	}
}

func TestNoRowIsAsWideAsTheTerminal(t *testing.T) {
	for _, width := range []int{1, 20, 80, 100, 111, 112, 160, 300} {
		drawn := rows(widest(), 123_456, width)
		for _, r := range drawn {
			if got := utf8.RuneCountInString(r); got >= width {
				t.Errorf("at %d columns a row has %d: %q", width, got, r)
			}
		}
		if got := height(drawn, width); got != len(drawn) {
			t.Errorf("at %d columns %d rows take %d lines", width, len(drawn), got)
		}
	}
}

func TestWhatATerminalOf80ColumnsShowsIsWhole(t *testing.T) {
	drawn := strings.Join(rows(widest(), 123_456, 80), "\n")
	for _, want := range []string{"writes/s", "01234567 01234567\n", "01234567 = primary\n"} {
		if !strings.Contains(drawn, want) {
			t.Errorf("%q is not in\n%s", want, drawn)
		}
	}
}

func TestRowsDrawnOnAWiderTerminalAreCountedAsTheyWrap(t *testing.T) {
	if got, want := height([]string{"", "123456789", "1234567890", "12345678901"}, 10), 5; got != want {
		t.Errorf("got %d lines, want %d", got, want)
	}
}

func TestALineForALogIsShort(t *testing.T) {
	if got := oneLine(widest(), 123_456); len(got) > 180 {
		t.Errorf("%d characters: %s", len(got), got)
	}
}
