package replication

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Level says how many secondaries must hold a state before an answer that shows it is given. The zero Level is asynchronous.
type Level struct {
	Secondaries int           // 0: asynchronous
	Applied     bool          // readable there, not only durable
	Timeout     time.Duration // how long an answer is held back
	Degrade     bool          // then it is given with a warning, otherwise it is an error
	Lease       time.Duration // writes are taken only while as many secondaries were heard of within it; 0: always. Of a set only
}

const (
	maxLevel     = 16 // secondaries
	levelTimeout = 5 * time.Second
	maxLevelTime = time.Minute
	maxLease     = 10 * time.Minute
	levelUsage   = "async, or durable=N or applied=N, then optionally ,timeout=5s and ,on_timeout=fail or ,on_timeout=degrade, and for a set ,lease=10s"
)

// ParseLevel reads "async" or "durable=2,timeout=3s,on_timeout=degrade".
func ParseLevel(text string) (Level, error) {
	if len(text) > 128 {
		return Level{}, refuse("a level of replication has at most 128 bytes: give %s", levelUsage)
	}
	if text == "async" || text == "" {
		return Level{}, nil
	}
	l := Level{Timeout: levelTimeout}
	for i, part := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if err := l.set(name, value, i == 0); err != nil {
			return Level{}, err
		}
	}
	return l, nil
}

func (l *Level) set(name, value string, first bool) (err error) {
	switch {
	case first && (name == "durable" || name == "applied"):
		l.Applied = name == "applied"
		if l.Secondaries, err = strconv.Atoi(value); err != nil || l.Secondaries < 1 || l.Secondaries > maxLevel {
			return refuse("%s takes the number of secondaries, 1 to %d: got %q", name, maxLevel, value)
		}
	case !first && name == "timeout":
		if l.Timeout, err = time.ParseDuration(value); err != nil || l.Timeout <= 0 || l.Timeout > maxLevelTime {
			return refuse("timeout must be a duration above 0 and up to %v: got %q", maxLevelTime, value)
		}
	case !first && name == "lease":
		if l.Lease, err = time.ParseDuration(value); err != nil || l.Lease <= 0 || l.Lease > maxLease {
			return refuse("lease must be a duration above 0 and up to %v: got %q", maxLease, value)
		}
	case !first && name == "on_timeout" && (value == "fail" || value == "degrade"):
		l.Degrade = value == "degrade"
	default:
		return refuse("%q is no level of replication: give %s", name, levelUsage)
	}
	return nil
}

func (l Level) String() string {
	if l.Secondaries == 0 {
		return "async"
	}
	name, then := "durable", "fail"
	if l.Applied {
		name = "applied"
	}
	if l.Degrade {
		then = "degrade"
	}
	text := fmt.Sprintf("%s=%d,timeout=%v,on_timeout=%s", name, l.Secondaries, l.Timeout, then)
	if l.Lease > 0 {
		text += fmt.Sprintf(",lease=%v", l.Lease)
	}
	return text
}
