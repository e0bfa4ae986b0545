package report

import (
	"slices"
	"time"

	"github.com/lockstepdb/lockstep/bench/machine"
)

// Run is one run of a row.
type Run struct {
	Value float64 `json:"value"`
	// Latencies in milliseconds; absent where a run is one operation.
	P50 float64 `json:"p50_ms,omitempty"`
	P90 float64 `json:"p90_ms,omitempty"`
	P99 float64 `json:"p99_ms,omitempty"`
	Max float64 `json:"max_ms,omitempty"`

	Steal   float64            `json:"steal_percent"`   // of one core
	Foreign float64            `json:"foreign_percent"` // of one core: neither the servers nor this program
	Driver  float64            `json:"driver_cpu_s_per_1000,omitempty"`
	Servers []Server           `json:"servers,omitempty"`
	Extra   map[string]float64 `json:"extra,omitempty"` // by name with its unit
}

// Server is what a server took for a run.
type Server struct {
	Name      string  `json:"name"`
	CPU       float64 `json:"cpu_s_per_1000,omitempty"` // user and system, seconds for 1000 operations
	Anonymous float64 `json:"rss_anon_mb"`
	Peak      float64 `json:"vm_hwm_mb"`
}

// Row is one scenario at one setting, with all runs that count.
type Row struct {
	ID        string `json:"id"`
	What      string `json:"what"`
	Unit      string `json:"unit"`
	Runs      []Run  `json:"runs"`
	Discarded int    `json:"discarded"`       // runs with more steal than counts
	Noisy     bool   `json:"noisy,omitempty"` // no calm run could be had: those kept have more steal than counts
	Note      string `json:"note,omitempty"`
}

// Missing is what could not be measured, and why.
type Missing struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}

// Report is all of one run of the program.
type Report struct {
	Version  int                 `json:"version"` // of this format
	Started  time.Time           `json:"started"`
	Machine  machine.Description `json:"machine"`
	Settings map[string]string   `json:"settings"`
	Versions map[string]string   `json:"versions,omitempty"` // of peers
	Limits   []*Row              `json:"limits"`
	Rows     []*Row              `json:"rows"`
	Missing  []Missing           `json:"missing,omitempty"`
	Verdicts []Verdict           `json:"goals,omitempty"`
}

// Row returns a row or limit by its id, nil when it was not measured.
func (r *Report) Row(id string) *Row {
	for _, rows := range [][]*Row{r.Limits, r.Rows} {
		for _, row := range rows {
			if row.ID == id {
				return row
			}
		}
	}
	return nil
}

// figures are what a run can be asked for by name, beside its Extra.
var figures = map[string]func(Run) float64{
	"":    func(r Run) float64 { return r.Value },
	"p50": func(r Run) float64 { return r.P50 },
	"p90": func(r Run) float64 { return r.P90 },
	"p99": func(r Run) float64 { return r.P99 },
	"max": func(r Run) float64 { return r.Max },
}

// All returns one figure of each run, sorted: "" for the value, p50 … max, or a name of Extra.
func (r *Row) All(figure string) []float64 {
	var all []float64
	for _, run := range r.Runs {
		if get, ok := figures[figure]; ok {
			all = append(all, get(run))
		} else if v, ok := run.Extra[figure]; ok {
			all = append(all, v)
		}
	}
	slices.Sort(all)
	return all
}

// Median returns the median of one figure over the runs; 0 when no run has it.
func (r *Row) Median(figure string) float64 { return median(r.All(figure)) }

// median takes sorted figures; of an even number it is the mean of the two in the middle.
func median(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// servers returns medians of what each server took, in the order of the first run.
func (r *Row) servers() []Server {
	if len(r.Runs) == 0 {
		return nil
	}
	var all []Server
	for i, s := range r.Runs[0].Servers {
		var cpu, anon, peak []float64
		for _, run := range r.Runs {
			if i < len(run.Servers) {
				cpu, anon, peak = append(cpu, run.Servers[i].CPU), append(anon, run.Servers[i].Anonymous), append(peak, run.Servers[i].Peak)
			}
		}
		for _, f := range [][]float64{cpu, anon, peak} {
			slices.Sort(f)
		}
		all = append(all, Server{s.Name, median(cpu), median(anon), peak[len(peak)-1]})
	}
	return all
}
