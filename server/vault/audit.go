package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstepdb/lockstep/server/audit"
	"github.com/lockstepdb/lockstep/storage"
)

const auditPrefix = "audit/"

// auditRecord is an audit device as it is stored. The salt lies beside it, so that every cluster that has the device hashes alike.
type auditRecord struct {
	Type        string            `json:"type"`
	Description string            `json:"description"`
	Options     map[string]string `json:"options"`
	Local       bool              `json:"local"`
	Accessor    string            `json:"accessor"`
	Salt        []byte            `json:"salt"` // secret
}

// auditMount is an audit device in memory.
type auditMount struct {
	auditRecord
	path string // ends in '/'
	raw  string // as stored
}

func (m *auditMount) home() space {
	if m.Local {
		return private
	}
	return shared
}

// auditor keeps the devices open, and counts.
type auditor struct {
	mu      sync.Mutex                     // guards devices
	seen    atomic.Pointer[snapshot]       // for which list was made
	list    atomic.Pointer[[]*auditDevice] // replaced, never changed
	devices map[string]*auditDevice        // by scope, path and record

	requestFailures, responseFailures atomic.Uint64
}

type auditDevice struct {
	*audit.Device
	path    string
	failing atomic.Bool
}

var auditMetrics = []metric{
	{"vault.audit.log_request", summary, "ms", "Recording a request on all audit devices.", one(func(s *scrape) any { return s.core.meters.auditRequest.Read() })},
	{"vault.audit.log_response", summary, "ms", "Recording an answer on all audit devices.", one(func(s *scrape) any { return s.core.meters.auditResponse.Read() })},
	{"vault.audit.log_request_failure", counter, "requests", "Requests refused because no audit device could record them.", one(func(s *scrape) any { return s.core.audit.requestFailures.Load() })},
	{"vault.audit.log_response_failure", counter, "answers", "Answers withheld because no audit device could record them.", one(func(s *scrape) any { return s.core.audit.responseFailures.Load() })},
	{"lockstep.audit.devices", gauge, "devices", "Audit devices that are enabled.", one(func(s *scrape) any { return len(s.core.audit.known()) })},
	{"lockstep.audit.devices_failing", gauge, "devices", "Audit devices that could not record the last entry.", one(func(s *scrape) any {
		n := 0
		for _, d := range s.core.audit.known() {
			if d.failing.Load() {
				n++
			}
		}
		return n
	})},
}

// known returns the devices as they were last looked up.
func (a *auditor) known() []*auditDevice {
	if list := a.list.Load(); list != nil {
		return *list
	}
	return nil
}

func loadAudit(view *storage.View) ([]*auditMount, error) {
	var out []*auditMount
	for _, s := range []space{shared, private} {
		var bad error
		err := view.Scan(s.id, []byte(auditPrefix), prefixEnd(auditPrefix), func(rec storage.Record) bool {
			m := &auditMount{path: strings.TrimPrefix(string(rec.Key), auditPrefix), raw: string(rec.Value)}
			if err := json.Unmarshal(rec.Value, &m.auditRecord); err != nil {
				// Not skipped: what the operator wanted recorded would not be, and nobody would know.
				bad = fmt.Errorf("the record of audit device %s cannot be read: %w", m.path, err)
				return false
			}
			m.Local = s.scope == storage.Local
			out = append(out, m)
			return true
		})
		if err = errors.Join(err, bad); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// auditDevices returns the devices that a request is recorded on. While the store cannot be read those known last are meant: the way
// to recover stays open, and recorded.
func (c *Core) auditDevices() []*auditDevice {
	snap, err := c.current()
	if err != nil {
		return c.audit.known()
	}
	if c.audit.seen.Load() == snap {
		return c.audit.known()
	}
	return c.audit.take(c, snap)
}

// take makes the devices those of a snapshot: what is new is made, what is gone is closed.
func (a *auditor) take(c *Core, snap *snapshot) []*auditDevice {
	a.mu.Lock()
	defer a.mu.Unlock()
	if seen := a.seen.Load(); seen == snap || seen != nil && seen.version > snap.version {
		return a.known()
	}
	next := map[string]*auditDevice{}
	list := []*auditDevice{}
	for _, m := range snap.audit {
		key := fmt.Sprint(m.Local, m.path, m.raw)
		d := a.devices[key]
		if d == nil {
			d = &auditDevice{Device: c.newAuditDevice(m), path: m.path}
		}
		next[key] = d
		list = append(list, d)
	}
	for key, d := range a.devices {
		if next[key] == nil {
			if err := d.Close(); err != nil {
				c.log.Warn("closing an audit device failed", "device", d.path, "error", err)
			}
		}
	}
	a.devices = next
	a.list.Store(&list)
	a.seen.Store(snap)
	return list
}

func (c *Core) newAuditDevice(m *auditMount) *audit.Device {
	o, err := audit.ParseOptions(m.Options)
	if err == nil {
		err = c.forbidden(o)
	}
	if err != nil { // a newer version's, or another cluster's: the device exists, and records nothing
		c.log.Error("an audit device cannot be used here", "device", m.path, "error", err)
		o = &audit.Options{}
	}
	return audit.NewDevice(o, m.Salt, c.stdout())
}

func (c *Core) stdout() io.Writer {
	if c.cfg.Stdout != nil {
		return c.cfg.Stdout
	}
	return os.Stdout
}

// forbidden refuses a device that would write among the files of the store.
func (c *Core) forbidden(o *audit.Options) error {
	if o.Inside(c.cfg.DataDir) {
		return errors.New("file_path is below the data directory, whose files are the store's alone: name a place outside")
	}
	return nil
}

// ReopenAudit opens the files of all audit devices by their names again, after they were rotated.
func (c *Core) ReopenAudit() {
	for _, d := range c.auditDevices() {
		if err := d.Reopen(); err != nil {
			c.log.Error("an audit device could not be opened again and goes on with the file it has", "device", d.path, "error", err)
		}
	}
}

// closeAudit ends the devices when the core ends.
func (c *Core) closeAudit() {
	c.audit.mu.Lock()
	defer c.audit.mu.Unlock()
	for _, d := range c.audit.devices {
		if err := d.Close(); err != nil {
			c.log.Warn("closing an audit device failed", "device", d.path, "error", err)
		}
	}
	c.audit.devices = nil
	c.audit.seen.Store(nil)
	c.audit.list.Store(nil)
}

// logAudit records an entry on every device. One that took it is enough.
func (c *Core) logAudit(devices []*auditDevice, e *audit.Entry) error {
	var all error
	taken := false
	for _, d := range devices {
		err := d.Log(e)
		if was := d.failing.Swap(err != nil); err != nil && !was {
			c.log.Error("an audit device cannot record", "device", d.path, "error", err)
		} else if err == nil && was {
			c.log.Info("an audit device records again", "device", d.path)
		}
		taken = taken || err == nil
		all = errors.Join(all, err)
	}
	if taken {
		return nil
	}
	return all
}

// isAudited tells whether a request is recorded. Those that need no token and tell the state of the cluster are not, as in Vault.
func isAudited(rt *route) bool {
	return rt == nil || rt.flags&open == 0 || rt.flags&early == 0
}

// auditRequest records a request before it is executed; refused is why it will not be. From then on its answer is recorded too.
func (c *Core) auditRequest(r *request, rt *route, refused error) error {
	if !isAudited(rt) {
		return refused
	}
	r.audited = true
	devices := c.auditDevices()
	if len(devices) == 0 {
		return refused
	}
	began := time.Now()
	e := &audit.Entry{Time: c.now(), Auth: r.auditAuth(), Request: c.auditedRequest(r)}
	if refused != nil {
		e.Error = plainError(refused)
	}
	err := c.logAudit(devices, e)
	c.meters.auditRequest.Since(began)
	if err != nil {
		c.audit.requestFailures.Add(1)
		r.audited = false // no device records that none does
		return refuse(errUnaudited, "the request was refused, and nothing was done: no audit device could record it. The server's log says why; free the disk or mend the device")
	}
	return refused
}

// auditResponse records an answer before it is sent. One that cannot be recorded is not sent.
func (c *Core) auditResponse(r *request, a answer) answer {
	if !r.audited {
		return c.complete(r, a)
	}
	devices := c.auditDevices()
	if len(devices) == 0 {
		return c.complete(r, a)
	}
	began := time.Now()
	e := &audit.Entry{Time: c.now(), Auth: r.auditAuth(), Request: c.auditedRequest(r), Response: &audit.Response{}}
	describeAnswer(e, a)
	if m := r.mount; m != nil {
		e.Response.MountPoint, e.Response.MountType, e.Response.MountAccessor = m.path, m.Type, m.Accessor
	}
	err := c.logAudit(devices, e)
	c.meters.auditResponse.Since(began)
	if err == nil {
		return c.complete(r, a)
	}
	c.audit.responseFailures.Add(1)
	if r.committed > 0 { // clients repeat a 5xx by themselves
		return c.encodeError(r, refuse(errConflict, "read before you write again: the write was made, but no audit device could record its answer, which is withheld"))
	}
	return c.encodeError(r, refuse(errUnaudited, "the answer is withheld: no audit device could record it. The server's log says why; free the disk or mend the device"))
}

// complete does what waited for the answer to be certain of being sent.
func (c *Core) complete(r *request, a answer) answer {
	if r.beforeSent == nil || a.status >= 300 {
		return a
	}
	if err := r.beforeSent(); err != nil {
		return c.encodeError(r, err)
	}
	return a
}

// plainError is an error's text as an answer shows it.
func plainError(err error) string {
	_, texts, unknown := translate(err)
	if unknown {
		return "internal error"
	}
	return strings.Join(texts, "; ")
}
