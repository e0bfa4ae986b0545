package opensearch

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// table is an answer of _cat: text in columns, or JSON.
type table struct {
	columns []column
	rows    [][]string
}

type column struct {
	name   string
	hidden bool // shown only if asked for by h
	right  bool
}

// encodeTable answers with what of a table is asked for.
func (out *encoded) encodeTable(r *request, t *table) error {
	if _, help := r.query["help"]; help {
		return out.help(t)
	}
	picked, err := t.pick(r.query.Get("h"))
	if err != nil {
		return err
	}
	if err := t.sort(r.query.Get("s")); err != nil {
		return err
	}
	format := r.query.Get("format")
	if format == "" && strings.Contains(r.header.Get("Accept"), "application/json") {
		format = "json"
	}
	switch format {
	case "json":
		rows := make([]map[string]any, len(t.rows))
		for i, row := range t.rows {
			rows[i] = map[string]any{}
			for _, at := range picked {
				if rows[i][t.columns[at].name] = row[at]; row[at] == "" {
					rows[i][t.columns[at].name] = nil // not known
				}
			}
		}
		return out.encodeJSON(r, rows)
	case "", "text":
		_, headed := r.query["v"]
		out.kind, out.body = textType, t.text(picked, headed && r.query.Get("v") != "false")
		return nil
	}
	return illegal("format [%s] is not offered by this server: leave it out, or take json", format)
}

func (out *encoded) help(t *table) error {
	var b strings.Builder
	for _, c := range t.columns {
		b.WriteString(c.name + "\n")
	}
	out.kind, out.body = textType, []byte(b.String())
	return nil
}

// pick returns the columns that are asked for, all that are not hidden by default.
func (t *table) pick(names string) (out []int, err error) {
	if names == "" {
		for i, c := range t.columns {
			if !c.hidden {
				out = append(out, i)
			}
		}
		return out, nil
	}
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for i, c := range t.columns {
			if wildMatch(strings.TrimSpace(name), c.name) {
				out, found = append(out, i), true
			}
		}
		if !found && len(names) < 1<<10 {
			continue // as there: a column that does not exist is left out
		}
	}
	return out, nil
}

func (t *table) sort(by string) error {
	if by == "" {
		return nil
	}
	name, order, _ := strings.Cut(by, ":")
	at := slices.IndexFunc(t.columns, func(c column) bool { return c.name == name })
	if at < 0 {
		return fail(400, "unsupported_operation_exception", "Unable to sort by unknown sort key `%s`", name)
	}
	slices.SortStableFunc(t.rows, func(a, b []string) int {
		if order == "desc" {
			a, b = b, a
		}
		return strings.Compare(a[at], b[at])
	})
	return nil
}

// text lays the table out as _cat does.
func (t *table) text(picked []int, headed bool) []byte {
	rows := t.rows
	if headed {
		head := make([]string, len(t.columns))
		for i, c := range t.columns {
			head[i] = c.name
		}
		rows = append([][]string{head}, rows...)
	}
	width := make([]int, len(t.columns))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for n, i := range picked {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(row[i]))
			if n > 0 {
				b.WriteByte(' ')
			}
			switch {
			case t.columns[i].right:
				b.WriteString(pad + row[i])
			case n == len(picked)-1:
				b.WriteString(row[i])
			default:
				b.WriteString(row[i] + pad)
			}
		}
		b.WriteByte('\n')
	}
	return []byte(b.String())
}
