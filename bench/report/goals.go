package report

import "fmt"

// Goal is what a figure of a row must reach, as its ratio to a figure of a limit or peer of the same run: so it can be
// compared from machine to machine. A goal without limit is absolute.
type Goal struct {
	Row, Figure           string
	Limit, LimitFigure    string
	Must, Aim             float64
	Lower                 bool // less is better
	What, Unit, Reference string
}

// Verdict is a goal held against a report.
type Verdict struct {
	What     string  `json:"what"`
	Measured float64 `json:"measured"`
	Unit     string  `json:"unit"`
	Limit    string  `json:"limit,omitempty"`
	Of       float64 `json:"of,omitempty"`
	Ratio    float64 `json:"ratio"`
	Low      float64 `json:"ratio_min"` // of the runs
	High     float64 `json:"ratio_max"`
	Must     float64 `json:"must"`
	Aim      float64 `json:"aim"`
	Reached  string  `json:"reached"` // aim, must, no
}

// Judge holds goals against what was measured; goals of which a row or limit is missing are left out.
func (r *Report) Judge(goals []Goal) {
	r.Verdicts = nil
	for _, g := range goals {
		if v, ok := r.judge(g); ok {
			r.Verdicts = append(r.Verdicts, v)
		}
	}
}

func (r *Report) judge(g Goal) (Verdict, bool) {
	row := r.Row(g.Row)
	if row == nil {
		return Verdict{}, false
	}
	all := row.All(g.Figure)
	if len(all) == 0 {
		return Verdict{}, false
	}
	v := Verdict{What: g.What, Measured: median(all), Unit: g.Unit, Must: g.Must, Aim: g.Aim}
	of := 1.0
	if g.Limit != "" {
		limit := r.Row(g.Limit)
		if limit == nil {
			return Verdict{}, false
		}
		if of = limit.Median(g.LimitFigure); of == 0 {
			return Verdict{}, false
		}
		v.Limit, v.Of = g.Limit, of
		if g.LimitFigure != "" {
			v.Limit = fmt.Sprintf("%s of %s", g.LimitFigure, g.Limit)
		}
	}
	v.Ratio, v.Low, v.High = v.Measured/of, all[0]/of, all[len(all)-1]/of
	reaches := func(want float64) bool {
		if g.Lower {
			return v.Ratio <= want
		}
		return v.Ratio >= want
	}
	switch {
	case g.Aim != 0 && reaches(g.Aim):
		v.Reached = "aim"
	case reaches(g.Must):
		v.Reached = "must"
	default:
		v.Reached = "no"
	}
	return v, true
}
