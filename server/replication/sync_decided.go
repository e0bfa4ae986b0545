package replication

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// ownRecords is this cluster's own finished checkpoint, before a range is applied.
type ownRecords interface {
	Get(ks storage.KeyspaceID, key []byte) (storage.Record, error)
	Items(ks storage.KeyspaceID, low, high []byte, fn func(key []byte, d merkle.Digest) bool) error
}

// decided counts what a sync decides for the primary: records that were here with another value, and records that were here and are not there. What is
// only new here was decided for nobody.
type decided struct{ overwritten, removed uint64 }

func (d *decided) add(more decided) {
	d.overwritten += more.overwritten
	d.removed += more.removed
}

// decides counts what a range is about to change, and gives keep, unless it is nil, each record that it overwrites or removes.
func decides(own ownRecords, r *engine.SyncRange, keep func(rec *storage.Record, removed bool) error) (decided, error) {
	d := &deciding{own: own, r: r, keep: keep}
	if r.Partial {
		for i := range r.Records {
			d.replaced(&r.Records[i])
		}
		for _, key := range r.Gone {
			d.removes(key)
		}
		return d.decided, d.err
	}
	i := 0
	err := own.Items(r.Keyspace, r.Low, r.High, func(key []byte, _ merkle.Digest) bool {
		for i < len(r.Records) && bytes.Compare(r.Records[i].Key, key) < 0 {
			i++
		}
		if i < len(r.Records) && bytes.Equal(r.Records[i].Key, key) {
			d.replaced(&r.Records[i])
		} else {
			d.removes(key)
		}
		return d.err == nil
	})
	if d.err == nil && err != nil {
		d.err = fmt.Errorf("listing what a range replaces: %w", err)
	}
	return d.decided, d.err
}

// deciding counts for one range.
type deciding struct {
	decided
	own  ownRecords
	r    *engine.SyncRange
	keep func(rec *storage.Record, removed bool) error
	err  error // the first
}

func (d *deciding) replaced(with *storage.Record) {
	if rec, here := d.record(with.Key); here && !bytes.Equal(rec.Value, with.Value) {
		d.overwritten++
		d.keeps(&rec, false)
	}
}

func (d *deciding) removes(key []byte) {
	if rec, here := d.record(key); here {
		d.removed++
		d.keeps(&rec, true)
	}
}

func (d *deciding) keeps(rec *storage.Record, removed bool) {
	if d.keep != nil && d.err == nil && rec.Key != nil {
		d.err = d.keep(rec, removed)
	}
}

// record returns what is here. What can no longer be read was here too, with no key and no value that anything equals.
func (d *deciding) record(key []byte) (rec storage.Record, here bool) {
	rec, err := d.own.Get(d.r.Keyspace, key)
	var damage *storage.Damage
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return rec, false
	case errors.As(err, &damage):
		return storage.Record{}, true
	case err != nil && d.err == nil:
		d.err = fmt.Errorf("reading what a range replaces: %w", err)
	}
	return rec, err == nil
}
