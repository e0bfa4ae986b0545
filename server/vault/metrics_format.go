package vault

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// quantiles that a summary shows.
var quantiles = []float64{0.5, 0.9, 0.99}

// prometheusName is a metric's name as Prometheus takes it.
func prometheusName(name string) string {
	return strings.NewReplacer(".", "_", "-", "_").Replace(name)
}

// metricsText is the text format of Prometheus, version 0.0.4.
func metricsText(s *scrape) []byte {
	var b strings.Builder
	for i := range metricTable {
		m := &metricTable[i]
		found := m.samples(s)
		if len(found) == 0 {
			continue
		}
		name := prometheusName(m.name)
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, m.help, name, m.kind)
		for _, x := range found {
			if m.kind == summary {
				textSummary(&b, name, m.scale(), x)
				continue
			}
			fmt.Fprintf(&b, "%s%s %s\n", name, textLabels(x.labels), textNumber(x.value))
		}
	}
	return []byte(b.String())
}

func textSummary(b *strings.Builder, name string, scale float64, x sample) {
	for _, q := range quantiles {
		labels := append([]string{"quantile", strconv.FormatFloat(q, 'g', -1, 64)}, x.labels...)
		fmt.Fprintf(b, "%s%s %s\n", name, textLabels(labels), textNumber(x.read.Recent.Quantile(q)*scale))
	}
	fmt.Fprintf(b, "%s_sum%s %s\n", name, textLabels(x.labels), textNumber(float64(x.read.Sum)*scale))
	fmt.Fprintf(b, "%s_count%s %d\n", name, textLabels(x.labels), x.read.Count)
}

func textNumber(v float64) string {
	if math.IsNaN(v) {
		return "NaN"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func textLabels(labels []string) string {
	if len(labels) == 0 {
		return ""
	}
	parts := make([]string, 0, len(labels)/2)
	for i := 0; i+1 < len(labels); i += 2 {
		parts = append(parts, labels[i]+`="`+labelEscapes.Replace(labels[i+1])+`"`)
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// metricsJSON is the form of go-metrics' summary, which Vault answers. Counters are since the start; samples are of the last one to two minutes.
func metricsJSON(s *scrape) map[string]any {
	gauges, counters, samples := []map[string]any{}, []map[string]any{}, []map[string]any{}
	for i := range metricTable {
		m := &metricTable[i]
		for _, x := range m.samples(s) {
			row := map[string]any{"Name": m.name, "Labels": jsonLabels(x.labels)}
			switch m.kind {
			case gauge:
				row["Value"] = x.value
				gauges = append(gauges, row)
			case counter:
				fillAggregate(row, x.value, x.value, 0, 0, 0, 0, s.now.Sub(s.core.began).Seconds())
				counters = append(counters, row)
			case summary:
				r, scale := &x.read.Recent, m.scale()
				fillAggregate(row, float64(r.Count), float64(r.Sum)*scale, r.Min()*scale, float64(r.Max)*scale, mean(float64(r.Sum), r.Count)*scale, r.Deviation()*scale, r.Seconds)
				samples = append(samples, row)
			}
		}
	}
	return map[string]any{
		"Timestamp": s.now.UTC().Format("2006-01-02 15:04:05 -0700 MST"), "Gauges": gauges, "Points": []any{}, "Counters": counters, "Samples": samples,
	}
}

func mean(sum float64, count uint64) float64 {
	if count == 0 {
		return 0
	}
	return sum / float64(count)
}

func fillAggregate(row map[string]any, count, sum, least, most, mean, deviation, seconds float64) {
	row["Count"], row["Sum"], row["Min"], row["Max"], row["Mean"], row["Stddev"], row["Rate"] = count, sum, least, most, mean, deviation, 0.0
	if seconds >= time.Second.Seconds() {
		row["Rate"] = sum / seconds
	}
}

func jsonLabels(labels []string) map[string]string {
	out := map[string]string{}
	for i := 0; i+1 < len(labels); i += 2 {
		out[labels[i]] = labels[i+1]
	}
	return out
}
