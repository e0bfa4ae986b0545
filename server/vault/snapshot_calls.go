package vault

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	snapshots "github.com/lockstepdb/lockstep/server/snapshot"
)

// Snapshots takes and restores snapshots of the whole cluster.
type Snapshots interface {
	// Take begins a snapshot; end is called once it is written, or is not to be.
	Take(ctx context.Context) (t *snapshots.Taking, end func(), err error)
	// Restore puts a snapshot in the place of everything. Without force it only says what it would do, as an error.
	Restore(ctx context.Context, body io.Reader, force bool) (*snapshots.Restored, error)
}

// stream is an answer that is written as it comes to be. end is called once, also when nothing was written.
type stream struct {
	write func(ctx context.Context, w io.Writer) error
	end   func()
}

const snapshotType = "application/gzip"

// takeSnapshot answers with a snapshot. What prevents one is told before anything is sent; what breaks one breaks the connection.
func (c *Core) takeSnapshot(r *request) (*reply, error) {
	switch {
	case c.cfg.Snapshots == nil:
		return nil, refuse(errUnsupported, "there are no snapshots on this server")
	case r.wrapTTL > 0:
		return nil, refuse(errInvalid, "a snapshot cannot be wrapped: leave out %s", wrapHeader)
	}
	taking, end, err := c.cfg.Snapshots.Take(r.ctx)
	if err != nil {
		return nil, err
	}
	r.out = &stream{write: taking.Write, end: end}
	r.contentType = snapshotType
	h := taking.Header()
	c.log.Info("a snapshot is being taken", "snapshot", h.ID, "index", h.From, "records", h.Records, "remote", r.remote)
	return &reply{}, nil
}

// sendStream writes an answer that comes as a stream. One that breaks off must not look like one that ended.
func (c *Core) sendStream(w http.ResponseWriter, r *request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", r.contentType)
	w.WriteHeader(http.StatusOK)
	began, out := time.Now(), &counting{w: w}
	// A reader that stalls must not hold up the end of a role.
	stop := context.AfterFunc(r.ctx, func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Now()) })
	err := r.out.write(r.ctx, out)
	stop()
	if err != nil {
		c.log.Error("a snapshot broke off; what was sent of it is none", "request_id", r.id, "bytes", out.n, "error", err)
		panic(http.ErrAbortHandler)
	}
	c.log.Info("a snapshot was taken", "request_id", r.id, "bytes", out.n, "took", time.Since(began).Round(time.Millisecond))
}

type counting struct {
	w io.Writer
	n int64
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// restoreSnapshot takes a snapshot from the body.
func restoreSnapshot(force bool) handler {
	return func(c *Core, r *request) (*reply, error) {
		if c.cfg.Snapshots == nil || r.rawBody == nil {
			return nil, refuse(errUnsupported, "there are no snapshots on this server")
		}
		forced := force
		if text := r.query.Get("force"); text != "" {
			asked, err := strconv.ParseBool(text)
			if err != nil {
				return nil, refuse(errInvalid, "query parameter force must be true or false")
			}
			forced = forced || asked
		}
		done, err := c.cfg.Snapshots.Restore(r.ctx, r.rawBody, forced)
		if err != nil {
			_, _ = io.Copy(io.Discard, r.rawBody) // a client that is still sending would never see why
			return nil, err
		}
		return &reply{data: done, warnings: []string{
			"This cluster is what it was when the snapshot was taken; the store that it was is in the trash. Tokens, secondaries and policies that were revoked since are valid again: revoke them anew.",
		}}, nil
	}
}
