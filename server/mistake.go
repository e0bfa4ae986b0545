package server

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Mistake is one thing wrong with a configuration, and where it stands.
type Mistake struct {
	File string
	Line int // 0 when it concerns the file as a whole
	Text string
}

func (m Mistake) String() string {
	switch {
	case m.File == "":
		return m.Text
	case m.Line == 0:
		return m.File + ": " + m.Text
	}
	return fmt.Sprintf("%s:%d: %s", m.File, m.Line, m.Text)
}

// Mistakes are all that is wrong with a configuration, in the order of the file.
type Mistakes []Mistake

func (ms Mistakes) Error() string {
	lines := make([]string, len(ms))
	for i, m := range ms {
		lines[i] = m.String()
	}
	return strings.Join(lines, "\n")
}

// orNil keeps an empty list from becoming an error that is not nil.
func (ms Mistakes) orNil() error {
	if len(ms) == 0 {
		return nil
	}
	return ms
}

func (ms *Mistakes) add(at hcl.Range, format string, args ...any) {
	*ms = append(*ms, Mistake{File: at.Filename, Line: at.Start.Line, Text: fmt.Sprintf(format, args...)})
}

// addDiagnostics takes over what the HCL library found, one line each.
func (ms *Mistakes) addDiagnostics(file string, found hcl.Diagnostics) {
	for _, d := range found {
		m := Mistake{File: file, Text: oneLine(d.Summary, d.Detail)}
		if d.Subject != nil {
			m.File, m.Line = d.Subject.Filename, d.Subject.Start.Line
		}
		*ms = append(*ms, m)
	}
}

func oneLine(summary, detail string) string {
	text := strings.TrimSuffix(summary, ".")
	if detail != "" {
		text += ": " + detail
	}
	return strings.Join(strings.Fields(text), " ")
}
