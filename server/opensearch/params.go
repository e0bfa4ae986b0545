package opensearch

import (
	"net/url"
	"strconv"
	"strings"
	"time"
)

func (r *request) boolean(name string, byDefault bool) (bool, error) {
	return boolOf(name, r.query[name], byDefault)
}

func boolOf(name string, values []string, byDefault bool) (bool, error) {
	if len(values) == 0 {
		return byDefault, nil
	}
	switch values[0] {
	case "true", "":
		return true, nil
	case "false":
		return false, nil
	}
	return false, illegal("Failed to parse value [%s] as only [true] or [false] are allowed.", values[0])
}

func (r *request) number(name string, byDefault int) (int, error) {
	text := r.query.Get(name)
	if text == "" {
		return byDefault, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, illegal("Failed to parse int parameter [%s] with value [%s]", name, text)
	}
	return n, nil
}

// sequence is a number of an operation, nil when it is not given.
func (r *request) sequence(name string) (*uint64, error) {
	text := r.query.Get(name)
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return nil, illegal("Failed to parse long parameter [%s] with value [%s]", name, text)
	}
	u := uint64(n)
	return &u, nil
}

var timeUnits = []struct {
	suffix string
	unit   time.Duration
}{{"nanos", 1}, {"micros", time.Microsecond}, {"ms", time.Millisecond}, {"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}}

// duration reads a time value: a number with its unit, or -1.
func duration(name, text string) (time.Duration, error) {
	if text == "-1" || text == "0" {
		return -time.Duration(len(text) - 1), nil
	}
	for _, u := range timeUnits {
		digits, found := strings.CutSuffix(strings.ToLower(text), u.suffix)
		if !found {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64); err == nil && n >= 0 && n <= int64(365*24*time.Hour/u.unit) {
			return time.Duration(n) * u.unit, nil
		}
	}
	return 0, illegal("failed to parse setting [%s] with value [%s] as a time value: unit is missing or unrecognized", name, text)
}

// timeouts checks parameters that say how long something may take, which never takes long here.
func (r *request) timeouts(names ...string) error {
	for _, name := range names {
		if text := r.query.Get(name); text != "" {
			if _, err := duration(name, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// activeShards checks wait_for_active_shards: there is one copy, which is active.
func (r *request) activeShards() error {
	switch text := r.query.Get("wait_for_active_shards"); text {
	case "", "0", "1", "all", "index-setting":
		return nil
	default:
		return illegal("wait_for_active_shards [%.20s]: an index has one copy on a cluster, so that 0, 1 and all can be waited for", text)
	}
}

func utoa(n uint64) string { return strconv.FormatUint(n, 10) }

func pathEscape(s string) string { return url.PathEscape(s) }
