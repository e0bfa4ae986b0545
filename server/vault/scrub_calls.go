package vault

import "time"

// ScrubStatus is how far the re-reading of what is stored has come, and what it found.
type ScrubStatus struct {
	Enabled  bool
	Running  bool
	Began    time.Time // of the pass under way
	Progress float64   // of it, 0 to 1
	ReadNow  int64     // bytes, by it
	Found    uint64    // since the start of the store's service

	LastEnded time.Time // zero: no pass has ended yet
	LastFound uint64
	Records   uint64 // read by the last
	Entries   uint64
	Bytes     int64
	Places    []ScrubPlace // found by the last pass and by the one under way
}

// ScrubPlace is one place that does not read back as it was written: records between two keys of a keyspace, or an index of the log.
type ScrubPlace struct {
	File     string `json:"file"`
	Keyspace string `json:"keyspace,omitempty"`
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	Index    uint64 `json:"index,omitempty"`
	What     string `json:"what"`
	ToDo     string `json:"to_do"`
}

func (c *Core) scrubStatus(*request) (*reply, error) {
	if c.cfg.Scrub == nil {
		return nil, refuse(errUnsupported, "nothing is scrubbed on this server")
	}
	s := c.cfg.Scrub()
	places := s.Places
	if places == nil {
		places = []ScrubPlace{}
	}
	data := map[string]any{
		"enabled": s.Enabled, "running": s.Running, "progress": s.Progress, "bytes": s.ReadNow, "found": s.LastFound, "places": places,
		"last_records": s.Records, "last_entries": s.Entries, "last_bytes": s.Bytes, "began": moment(s.Began), "last_ended": moment(s.LastEnded),
	}
	return &reply{data: data}, nil
}

// moment is a time as the API shows it; "" for none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
