package report

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// JSON writes the report as JSON.
func (r *Report) JSON(to io.Writer) error {
	out := json.NewEncoder(to)
	out.SetIndent("", " ")
	return out.Encode(r)
}

// Markdown writes the report as tables.
func (r *Report) Markdown(to io.Writer) error {
	w := bufio.NewWriter(to)
	fmt.Fprintf(w, "# Measured %s\n\n%s.\n\n", r.Started.UTC().Format("2006-01-02 15:04 UTC"), r.Machine)
	for _, name := range slices.Sorted(maps.Keys(r.Settings)) {
		fmt.Fprintf(w, "- %s: %s\n", name, r.Settings[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(w, "- %s %s\n", name, r.Versions[name])
	}
	if len(r.Verdicts) > 0 {
		fmt.Fprintf(w, "\n## Goals\n\nRatios are to a limit of this run, except where there is none. In brackets: lowest and highest run.\n\n")
		fmt.Fprintf(w, "| goal | measured | limit | ratio | must | aim | reached |\n|---|---|---|---|---|---|---|\n")
		for _, v := range r.Verdicts {
			fmt.Fprintf(w, "| %s |\n", strings.Join(v.cells(), " | "))
		}
	}
	writeRows(w, "Limits, measured before and after all rows", r.Limits)
	writeRows(w, "Figures", r.Rows)
	if len(r.Missing) > 0 {
		fmt.Fprintf(w, "\n## Missing\n\n")
		for _, m := range r.Missing {
			fmt.Fprintf(w, "- %s: %s\n", m.ID, strings.ReplaceAll(m.Why, "\n", " "))
		}
	}
	return w.Flush()
}

func (v *Verdict) cells() []string {
	cells := []string{v.What, Number(v.Measured) + " " + v.Unit}
	if v.Limit == "" {
		cells = append(cells, "none", "")
	} else {
		cells = append(cells, fmt.Sprintf("%s: %s", v.Limit, Number(v.Of)), fmt.Sprintf("%s (%s to %s)", Number(v.Ratio), Number(v.Low), Number(v.High)))
	}
	aim := Number(v.Aim)
	if v.Aim == 0 {
		aim = ""
	}
	return append(cells, Number(v.Must), aim, v.Reached)
}

func writeRows(w io.Writer, title string, rows []*Row) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## %s\n\nMedian of the runs, lowest and highest; latencies are medians, the largest is of all runs. Processor time is user and system, milliseconds for an operation.\n\n", title)
	fmt.Fprintf(w, "| row | what | median | min to max | p50 / p90 / p99 / max ms | CPU ms an operation | memory MB, own (peak) | steal %% | runs |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, row := range rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row.cells(), " | "))
	}
}

func (r *Row) cells() []string {
	all := r.All("")
	what := r.What
	if r.Note != "" {
		what += "; " + r.Note
	}
	cells := []string{r.ID, what, Number(median(all)) + " " + r.Unit, ""}
	if len(all) > 0 {
		cells[3] = Number(all[0]) + " to " + Number(all[len(all)-1])
	}
	latency := ""
	if r.Median("max") > 0 {
		largest := r.All("max")
		latency = fmt.Sprintf("%s / %s / %s / %s", Number(r.Median("p50")), Number(r.Median("p90")), Number(r.Median("p99")), Number(largest[len(largest)-1]))
	}
	var cpu, memory []string
	for _, s := range r.servers() {
		if s.CPU > 0 {
			cpu = append(cpu, fmt.Sprintf("%s %.3f", s.Name, s.CPU))
		}
		memory = append(memory, fmt.Sprintf("%s %.0f (%.0f)", s.Name, s.Anonymous, s.Peak))
	}
	var driver, steal []float64
	for _, run := range r.Runs {
		driver, steal = append(driver, run.Driver), append(steal, run.Steal)
	}
	slices.Sort(driver)
	slices.Sort(steal)
	if d := median(driver); d > 0 {
		cpu = append(cpu, fmt.Sprintf("driver %.3f", d))
	}
	runs := fmt.Sprint(len(r.Runs))
	if r.Discarded > 0 {
		runs += fmt.Sprintf(", %d discarded", r.Discarded)
	}
	if r.Noisy {
		runs += ", **noisy**"
	}
	cells[1] += r.extras()
	return append(cells, latency, strings.Join(cpu, ", "), strings.Join(memory, ", "), Number(median(steal)), runs)
}

// extras are the figures of a row beside its value.
func (r *Row) extras() string {
	names := map[string]bool{}
	for _, run := range r.Runs {
		for name := range run.Extra {
			names[name] = true
		}
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&text, "; %s %s", name, Number(r.Median(name)))
	}
	return text.String()
}

// Number writes a figure with three significant digits, and whole numbers above a thousand.
func Number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case math.Abs(v) >= 1000:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}
