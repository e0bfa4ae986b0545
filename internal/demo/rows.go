package demo

import (
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A terminal that does not tell its width has that of old; below the other
// one the table leaves out the roles, which the names tell too.
const (
	defaultWidth = 80
	wideTable    = 112
)

// width returns how many columns the terminal has now.
func (t *table) width() int {
	f, ok := t.out.(*os.File)
	if !ok {
		return defaultWidth
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return defaultWidth
	}
	return int(size.Col)
}

// height returns how many lines of a terminal the rows take.
func height(rows []string, width int) int {
	n := 0
	for _, r := range rows {
		n += max(1, (utf8.RuneCountInString(r)+width-1)/width)
	}
	return n
}

// rows returns the table, no row as wide as the terminal: a full one would
// move the cursor to the next line on some.
func rows(lines []line, acknowledged, width int) []string {
	wide := width >= wideTable
	header, length := "index", 8
	if wide {
		header, length = "last index", 12
	}
	out := []string{"", row(wide, "cluster", "role", "state", header, "lag", "lag ms", "writes/s", "verified digest")}
	for _, l := range lines {
		index, lag, ms := "-", "-", "-"
		if l.answered {
			index = fmt.Sprint(l.index)
			if l.secondary {
				lag, ms = fmt.Sprint(l.lag), fmt.Sprint(l.ms)
			}
		}
		out = append(out, row(wide, l.name, l.role, l.state, index, lag, ms, fmt.Sprintf("%.0f", l.perSecond), l.digest(length)))
	}
	out = append(out, fmt.Sprintf("  %d writes acknowledged", acknowledged))
	for i, r := range out {
		out[i] = cut(r, width-1)
	}
	return out
}

func row(wide bool, name, role, state, index, lag, ms, perSecond, digest string) string {
	if wide {
		return fmt.Sprintf("  %-10s %-21s %-13s %10s %8s %8s %8s  %s", name, role, state, index, lag, ms, perSecond, digest)
	}
	return fmt.Sprintf("  %-7s %-13s %8s %7s %8s %8s  %s", name, state, index, lag, ms, perSecond, digest)
}

func cut(s string, length int) string {
	if runes := []rune(s); len(runes) > length {
		return string(runes[:max(length, 0)])
	}
	return s
}

// digest returns the digests' beginnings, and whether they are the primary's.
func (l line) digest(length int) string {
	var words []string
	for _, d := range l.digests {
		words = append(words, d[:min(len(d), length)])
	}
	if l.same {
		words = append(words, "= primary")
	}
	return strings.Join(words, " ")
}

// oneLine is the table where there is no terminal: short enough for a log.
func oneLine(lines []line, acknowledged int) string {
	parts := []string{fmt.Sprintf("%6d acknowledged", acknowledged)}
	for _, l := range lines {
		switch {
		case !l.answered:
			parts = append(parts, l.name+" "+l.state)
		case l.secondary:
			part := fmt.Sprintf("%s %s at %d, lag %d (%d ms)", l.name, l.state, l.index, l.lag, l.ms)
			if l.same {
				part += ", same digest"
			}
			parts = append(parts, part)
		default:
			parts = append(parts, fmt.Sprintf("%s at %d, %.0f/s", l.name, l.index, l.perSecond))
		}
	}
	return strings.Join(parts, " | ")
}
