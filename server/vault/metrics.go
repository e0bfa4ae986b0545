package vault

import (
	"runtime"
	"time"

	"encoding/json"

	"github.com/lockstepdb/lockstep/internal/meter"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
)

// ListenerStats are what the API's listener counts.
type ListenerStats struct {
	Connections int64     // open now
	Refused     uint64    // requests refused by a rate limit
	CertEnds    time.Time // of the certificate in use; zero without TLS
}

// metricKind is how a metric behaves.
type metricKind string

const (
	gauge   metricKind = "gauge"   // a value now
	counter metricKind = "counter" // only grows, from 0 at the start
	summary metricKind = "summary" // how often, how much in all, and how the latest were spread
)

// metric is a row of the table: one name, whatever its labels.
type metric struct {
	name string // with dots, as Vault writes it
	kind metricKind
	unit string // as docs/metrics.md names it; "ms" summaries are observed in nanoseconds
	help string
	// read calls put for each set of labels that the metric has now: none when it has no meaning at present.
	read func(s *scrape, put put)
}

// put takes one value: a number, or a meter.Reading of a summary. Labels are names and values in turn.
type put func(value any, labels ...string)

// scrape is what one answer of sys/metrics is made of: everything is looked at once.
type scrape struct {
	now     time.Time
	core    *Core
	stats   engine.Stats
	meters  *engine.Meters
	sets    map[replication.Kind]map[string]any // status, as sys/replication/status shows it
	cluster *replication.Meters                 // nil without replication
	listen  ListenerStats
	scrub   *ScrubStatus // nil: nothing is scrubbed
	memory  runtime.MemStats
}

func (c *Core) scrape() *scrape {
	s := &scrape{now: c.now(), core: c, stats: c.engine.Stats(), meters: c.engine.Meters(), sets: map[replication.Kind]map[string]any{}}
	if n := c.node.Load(); n != nil {
		s.cluster = n.Meters()
		for _, k := range []replication.Kind{dr, performance} {
			s.sets[k] = n.Status(k)
		}
	}
	if c.cfg.Listener != nil {
		s.listen = c.cfg.Listener()
	}
	if c.cfg.Scrub != nil {
		now := c.cfg.Scrub()
		s.scrub = &now
	}
	runtime.ReadMemStats(&s.memory)
	return s
}

// sample is one value of a metric with its labels.
type sample struct {
	labels []string
	value  float64
	read   meter.Reading // of a summary
}

// samples reads a metric.
func (m *metric) samples(s *scrape) []sample {
	var out []sample
	m.read(s, func(value any, labels ...string) {
		x := sample{labels: labels}
		if r, ok := value.(meter.Reading); ok {
			x.read = r
		} else {
			x.value = number(value)
		}
		out = append(out, x)
	})
	return out
}

// scale turns what a summary observed into its unit.
func (m *metric) scale() float64 {
	if m.unit == "ms" {
		return 1 / float64(time.Millisecond)
	}
	return 1
}

// number is a value of any of the types that status uses; a boolean is 0 or 1.
func number(v any) float64 {
	switch n := v.(type) {
	case bool:
		if n {
			return 1
		}
		return 0
	case int:
		return float64(n)
	case int64:
		return float64(n)
	case uint64:
		return float64(n)
	case uint32:
		return float64(n)
	case float64:
		return n
	}
	return 0
}

type metricsParams struct {
	Format string `json:"format"`
}

// metrics answers sys/metrics, in the JSON of go-metrics or as text for Prometheus.
func (c *Core) metrics(r *request, p *metricsParams) (*reply, error) {
	switch p.Format {
	case "", "json":
		return &reply{bare: metricsJSON(c.scrape())}, nil
	case "prometheus":
		r.contentType = "text/plain; version=0.0.4; charset=utf-8"
		return &reply{bare: json.RawMessage(metricsText(c.scrape()))}, nil
	}
	return nil, refuse(errInvalid, "metric output format is unknown: ask for format=json or format=prometheus")
}
