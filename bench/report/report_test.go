package report

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func sample() *Report {
	return &Report{
		Limits: []*Row{{ID: "limit", Unit: "/s", Runs: []Run{{Value: 900, P99: 2}, {Value: 1100, P99: 4}}}},
		Rows: []*Row{
			{ID: "rate", What: "writes", Unit: "/s", Discarded: 1, Runs: []Run{
				{Value: 300, P50: 1, P99: 9, Max: 20, Extra: map[string]float64{"behind": 5}, Servers: []Server{{"primary", 0.05, 10, 20}}},
				{Value: 500, P50: 2, P99: 6, Max: 40, Extra: map[string]float64{"behind": 1}, Servers: []Server{{"primary", 0.07, 12, 30}}},
				{Value: 350, P50: 3, P99: 7, Max: 30, Extra: map[string]float64{"behind": 2}, Servers: []Server{{"primary", 0.06, 11, 25}}},
			}},
			{ID: "noisy", Unit: "s", Noisy: true, Runs: []Run{{Value: 2, Steal: 40}}},
		},
		Missing: []Missing{{"peer/x", "could not\nbe had"}},
	}
}

func TestGoalsAreJudgedByTheRatioOfMedians(t *testing.T) {
	for _, row := range []struct {
		name    string
		goal    Goal
		ratio   float64
		reached string
	}{
		{"the aim", Goal{Row: "rate", Limit: "limit", Must: 0.3, Aim: 0.35}, 0.35, "aim"},
		{"the must", Goal{Row: "rate", Limit: "limit", Must: 0.3, Aim: 0.4}, 0.35, "must"},
		{"neither", Goal{Row: "rate", Limit: "limit", Must: 0.4, Aim: 0.5}, 0.35, "no"},
		{"no aim is set", Goal{Row: "rate", Limit: "limit", Must: 0.3}, 0.35, "must"},
		{"less is better, reached", Goal{Row: "rate", Figure: "p99", Limit: "limit", LimitFigure: "p99", Must: 3, Aim: 2, Lower: true}, 7. / 3, "must"},
		{"less is better, not reached", Goal{Row: "rate", Figure: "p99", Limit: "limit", LimitFigure: "p99", Must: 2, Lower: true}, 7. / 3, "no"},
		{"a figure beside the value, absolute", Goal{Row: "rate", Figure: "behind", Must: 3, Aim: 2, Lower: true}, 2, "aim"},
	} {
		r := sample()
		r.Judge([]Goal{row.goal})
		if len(r.Verdicts) != 1 {
			t.Errorf("%s: got %d verdicts", row.name, len(r.Verdicts))
			continue
		}
		if v := r.Verdicts[0]; math.Abs(v.Ratio-row.ratio) > 1e-9 || v.Reached != row.reached {
			t.Errorf("%s: got ratio %g, %s; want %g, %s", row.name, v.Ratio, v.Reached, row.ratio, row.reached)
		}
	}
}

func TestGoalsOfWhatWasNotMeasuredAreLeftOut(t *testing.T) {
	r := sample()
	r.Judge([]Goal{{Row: "other", Must: 1}, {Row: "rate", Limit: "other", Must: 1}, {Row: "rate", Figure: "other", Must: 1}})
	if len(r.Verdicts) != 0 {
		t.Errorf("got %+v", r.Verdicts)
	}
}

func TestTheTablesHoldWhatWasMeasured(t *testing.T) {
	r := sample()
	r.Judge([]Goal{{Row: "rate", Limit: "limit", Must: 0.3, Aim: 0.4, What: "a rate", Unit: "/s"}})
	var text strings.Builder
	if err := r.Markdown(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| a rate | 350 /s | limit: 1000 | 0.35 (0.3 to 0.5) | 0.3 | 0.4 | must |",
		"| rate | writes; behind 2 | 350 /s | 300 to 500 | 2 / 0 / 7 / 40.0 | primary 0.060 | primary 11 (30) | 0 | 3, 1 discarded |",
		"| noisy |", "**noisy**", "- peer/x: could not be had\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the tables lack %q:\n%s", want, text.String())
		}
	}
	text.Reset()
	if err := r.JSON(&text); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal([]byte(text.String()), &back); err != nil || back.Row("rate").Median("") != 350 || len(back.Verdicts) != 1 {
		t.Errorf("JSON does not give back what was measured: %v\n%s", err, text.String())
	}
}

func TestFiguresHaveThreeDigits(t *testing.T) {
	for _, row := range []struct {
		v    float64
		want string
	}{{0, "0"}, {0.012345, "0.0123"}, {1.2345, "1.23"}, {12.345, "12.3"}, {123.45, "123"}, {12345.6, "12346"}, {-12.34, "-12.3"}} {
		if got := Number(row.v); got != row.want {
			t.Errorf("%g: got %s, want %s", row.v, got, row.want)
		}
	}
}
