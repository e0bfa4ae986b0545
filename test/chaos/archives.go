package chaos

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// archived is what all clusters keep of what was taken back.
type archived struct {
	places map[place]bool // of entries that were lost
	values []string       // of entries and records, as they are stored
	keys   map[string]bool
}

// gatherArchives reads the archives of every cluster.
func (w *world) gatherArchives() (*archived, error) {
	all := &archived{places: map[place]bool{}, keys: map[string]bool{}}
	for _, m := range w.members {
		var list struct {
			Data struct {
				Keys []string `json:"keys"`
			} `json:"data"`
		}
		if err := w.divergence(m, "", 0, &list); err != nil {
			return nil, err
		}
		for _, id := range list.Data.Keys {
			if err := w.readArchive(m, id, all); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// divergence asks a cluster about its archives; a DR secondary is asked by its own paths. A cluster that has had no archive may answer 404.
func (w *world) divergence(m *member, rest string, from uint64, out any) error {
	method, path, body := http.MethodGet, "sys/replication/divergence"+rest, ""
	switch {
	case m != m.site.active:
		method, path = http.MethodPost, "sys/replication/dr/secondary/divergence"+rest
		body = encode(m.site.auth(map[string]any{"from": from, "limit": archivePage}))
	case rest != "":
		path += fmt.Sprintf("?from=%d&limit=%d", from, archivePage)
	}
	if rest == "" && m != m.site.active {
		body = encode(m.site.auth(nil))
	}
	a, err := w.insist(m, method, path, body, stepTime)
	if a != nil && a.status == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(a.body, out); err != nil {
		return fmt.Errorf("archives of %s: %w: %s", m.name, err, a.body)
	}
	return nil
}

const archivePage = 500

func (w *world) readArchive(m *member, id string, all *archived) error {
	for from := uint64(0); ; {
		var page struct {
			Data struct {
				Problem string `json:"problem"`
				Next    uint64 `json:"next"`
				Items   []struct {
					Kind  string `json:"kind"`
					Lost  bool   `json:"lost"`
					Index uint64 `json:"index"`
					Fork  string `json:"fork"`
					Key   string `json:"key"`
					Value string `json:"value_base64"`
				} `json:"items"`
			} `json:"data"`
		}
		if err := w.divergence(m, "/"+id+"/export", from, &page); err != nil {
			return err
		}
		if page.Data.Problem != "" {
			return fmt.Errorf("archive %s of %s: %s", id, m.name, page.Data.Problem)
		}
		for _, it := range page.Data.Items {
			if it.Kind == "entry" && it.Lost {
				all.places[place{it.Fork, it.Index}] = true
			}
			if value, err := base64.StdEncoding.DecodeString(it.Value); err == nil {
				all.values = append(all.values, string(value))
			}
			if it.Kind == "record" {
				all.keys[it.Key] = true
			}
		}
		if from = page.Data.Next; from == 0 {
			return nil
		}
	}
}

// holds tells whether a lost write can be had again: by its place or its value; or its record was archived by a repair, which keeps the last value only.
func (a *archived) holds(o *op) bool {
	if a.places[o.at] {
		return true
	}
	if o.value != "" {
		for _, v := range a.values {
			if strings.Contains(v, `"`+o.value+`"`) {
				return true
			}
		}
	}
	for key := range a.keys {
		if strings.Contains(key, tail(o.key)) {
			return true
		}
	}
	return false
}
