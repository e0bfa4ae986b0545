package chaos

import (
	"fmt"
	"strings"
	"time"
)

// kind is what an operation of a client does.
type kind int

const (
	put kind = iota
	cas
	remove
	read
	list
	kinds
)

func (k kind) String() string { return [...]string{"put", "cas", "delete", "read", "list"}[k] }

func (k kind) writes() bool { return k <= remove }

// outcome is how an operation ended, as far as its client can know.
type outcome int

const (
	done    outcome = iota // its answer says what it did
	refused                // it certainly did nothing
	unknown                // it may have been done, or be done later
	outcomes
)

func (o outcome) String() string { return [...]string{"done", "refused", "unknown"}[o] }

// place is where a write stands in the log of the primary that took it.
type place struct {
	fork  string
	index uint64
}

// op is one operation of a client: what was asked, and what was answered.
type op struct {
	id     int
	client int
	kind   kind
	key    string // path of the record: kv/… of version 1, secret/… of version 2
	value  string // of put and cas; no two operations write the same
	expect int    // of cas: the version that the key must have
	on     *member
	life   int    // which life of the member it was: see member
	direct bool   // sent to the primary itself
	reign  int    // whose reign the client took it for; of a write that was done, whose it was, once judge has looked
	asked  string // index token that was sent along

	call, ret time.Duration // since the round began
	outcome   outcome
	status    int
	detail    string // of what was not done
	mismatch  bool   // a cas that was refused for the key's version

	version int // of the key, of version 2; 0 when the answer named none
	found   bool
	got     string
	names   []string
	warned  bool // the answer says that it comes from a cluster that is being synced
	at      place
	token   string // index token of the answer
	// unconfirmed is a write that was answered 409 with its place: it was committed there, and may be on too few secondaries.
	unconfirmed bool

	fate fate
	idle bool // a delete that may have found nothing to delete: its place is that of another write then
}

// versioned tells whether the key is one of a KV version 2 mount.
func versioned(key string) bool { return strings.HasPrefix(key, "secret/") }

// tail is the key below its mount.
func tail(key string) string { return key[strings.IndexByte(key, '/')+1:] }

func (o *op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%6d–%-6d #%-4d client %-2d %-9s reign %d %-6s %s", o.call.Milliseconds(), o.ret.Milliseconds(), o.id, o.client, o.on.name, o.reign, o.kind, o.key)
	switch o.kind {
	case put:
		fmt.Fprintf(&b, "=%s", o.value)
	case cas:
		fmt.Fprintf(&b, "=%s if version %d", o.value, o.expect)
	}
	fmt.Fprintf(&b, " → %s", o.outcome)
	switch {
	case o.outcome != done:
		fmt.Fprintf(&b, " (%d %.90s)", o.status, o.detail)
	case o.kind == list:
		fmt.Fprintf(&b, " %v", o.names)
	case o.kind == read && !o.found:
		fmt.Fprintf(&b, " absent, version %d", o.version)
	case o.kind == read:
		fmt.Fprintf(&b, " %s, version %d", o.got, o.version)
	case o.mismatch:
		b.WriteString(" another version")
	default:
		if o.unconfirmed {
			b.WriteString(" not confirmed")
		}
		fmt.Fprintf(&b, " version %d at %.6s:%d", o.version, o.at.fork, o.at.index)
		if o.fate.lostIn > 0 {
			fmt.Fprintf(&b, ", lost with reign %d", o.fate.lostIn)
		}
	}
	if o.warned {
		b.WriteString(" (being synced)")
	}
	return b.String()
}
