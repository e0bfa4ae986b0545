package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

const (
	splitLimit  = 64 // parts of one range in a reply
	splitRanges = 64 // ranges of one request, as many as the feeder takes
	itemRanges  = 64
	atOnce      = 3    // requests under way; the feeder takes maxBulkCalls
	maxParts    = 8192 // of the frontier: beyond it only its first range is cut
	leafRecords = 64   // a part with so few records is listed, not split further
	// A range of which this cluster has less than a quarter of the records is received whole: listing it first would cost more than it saves.
	mostlyMissing = 4
)

// shortDigest is what an item list tells of a record's digest.
type shortDigest [16]byte

// ownSide is this cluster's own finished checkpoint.
type ownSide interface {
	RangeTotal(ks storage.KeyspaceID, low, high []byte) (merkle.Total, error)
	Items(ks storage.KeyspaceID, low, high []byte, fn func(key []byte, d merkle.Digest) bool) error
	Release()
}

// feederSide is the feeder's finished checkpoint, asked over the wire. Each answer carries the place it was read at.
type feederSide interface {
	// split returns parts of the first ranges asked for, at least of one; a nil element: the keyspace is gone.
	split(ctx context.Context, spans []span) (parts [][]storage.Child, readAt wal.Position, err error)
	items(ctx context.Context, spans []span, fn func(i int, key []byte, d shortDigest) error) (readAt wal.Position, err error)
}

// difference is a part of a keyspace as the comparison found it, told in key order and without gaps.
type difference struct {
	Low, High []byte       // High empty: to the end
	Whole     bool         // receive everything; otherwise only Keys
	Keys      [][]byte     // the feeder has them and here they differ or are missing
	Gone      [][]byte     // here and not at the feeder
	ReadAt    wal.Position // newest place that this rests on
}

// comparer walks one keyspace top down and reports in key order what differs. It compares by key bounds,
// never by node: both sides may cut their leaves differently.
//
// What it knows of the keyspace is a frontier of parts in key order. Each round asks the feeder about the first parts that are open, many in a request and
// some requests at once, puts what is learnt in their place, and reports the parts at the front that are settled. So a feeder that is far away is waited for
// once for each level of the tree and some hundred ranges, not once for each range.
type comparer struct {
	keyspace storage.KeyspaceID
	own      func() ownSide // a view for one step; the comparer releases it before it asks the feeder again
	feeder   feederSide     // asked by several goroutines
	found    func(ctx context.Context, d *difference) error
}

// finding is what is known of a part.
type finding int

const (
	partOpen   finding = iota // it differs, and is to be cut
	partLeaf                  // it differs, and is to be listed
	partEqual                 // it does not differ
	partWhole                 // next to nothing is here, or next to nothing there: receiving it whole is cheaper than listing it
	partListed                // it was listed
)

// part is a range, with the feeder's total.
type part struct {
	low, high []byte
	total     merkle.Total
	is        finding
	depth     int
	diff      difference // but for its bounds; of what is settled
}

// errGone ends a comparison whose keyspace the feeder dropped meanwhile: its drop is in the spool.
var errGone = errors.New("the feeder dropped the keyspace")

// run compares [low, end of the keyspace), whose total at the feeder is known only for the whole keyspace.
func (c *comparer) run(ctx context.Context, low []byte) error {
	frontier := []part{{low: low}}
	for len(frontier) > 0 {
		var err error
		if frontier, err = c.round(ctx, frontier); err == nil {
			frontier, err = c.report(ctx, frontier)
		}
		if errors.Is(err, errGone) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inquiry is one request of a round: the places in the frontier of the parts that it asks about, all to be cut or all to be listed.
type inquiry struct {
	is     finding
	parts  []int
	learnt [][]part // in the place of each; shorter than parts when the feeder answered fewer
}

// inquiries asks about the first open parts.
func inquiries(frontier []part) []*inquiry {
	room := max(1, (maxParts-len(frontier))/splitLimit) // each that is cut makes so many
	filling := map[finding]*inquiry{}
	var all []*inquiry
	for i := range frontier {
		is, most := frontier[i].is, itemRanges
		switch {
		case is != partOpen && is != partLeaf:
			continue
		case is == partOpen && room == 0:
			return all
		case is == partOpen:
			room--
			most = splitRanges
		}
		r := filling[is]
		if r == nil || len(r.parts) == most {
			if len(all) == atOnce {
				return all
			}
			r = &inquiry{is: is}
			filling[is], all = r, append(all, r)
		}
		r.parts = append(r.parts, i)
	}
	return all
}

// round asks the feeder about open parts and returns the frontier with what was learnt in their place.
func (c *comparer) round(ctx context.Context, frontier []part) ([]part, error) {
	all := inquiries(frontier)
	asking, ctx := errgroup.WithContext(ctx)
	for _, r := range all {
		asking.Go(func() error {
			ask := make([]part, len(r.parts))
			for i, at := range r.parts {
				ask[i] = frontier[at]
			}
			var err error
			if r.is == partOpen {
				r.learnt, err = c.cut(ctx, ask)
			} else {
				r.learnt, err = c.list(ctx, ask)
			}
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	learnt := map[int][]part{}
	for _, r := range all {
		for i := range r.learnt {
			learnt[r.parts[i]] = r.learnt[i]
		}
	}
	var next []part
	for i := range frontier {
		if parts, ok := learnt[i]; ok {
			next = append(next, parts...)
		} else {
			next = append(next, frontier[i])
		}
	}
	return next, nil
}

// report tells of the parts at the front that are settled, neighbours that are alike as one, and returns the others.
func (c *comparer) report(ctx context.Context, frontier []part) ([]part, error) {
	for len(frontier) > 0 && frontier[0].is >= partEqual {
		first, n := &frontier[0], 1
		for first.is != partListed && n < len(frontier) && frontier[n].is == first.is {
			n++
		}
		d := first.diff
		d.Low, d.High, d.Whole = first.low, frontier[n-1].high, first.is == partWhole
		for i := range frontier[:n] {
			d.ReadAt = later(d.ReadAt, frontier[i].diff.ReadAt)
		}
		if err := c.found(ctx, &d); err != nil {
			return nil, err
		}
		frontier = frontier[n:]
	}
	return frontier, nil
}

// cut has the feeder cut parts, and compares what they consist of with what is here.
func (c *comparer) cut(ctx context.Context, ask []part) ([][]part, error) {
	cut, readAt, err := c.feeder.split(ctx, c.spans(ask))
	if err != nil {
		return nil, err
	}
	if len(cut) == 0 || len(cut) > len(ask) {
		return nil, malformed("%d answers to %d ranges", len(cut), len(ask))
	}
	own := c.own()
	defer own.Release()
	learnt := make([][]part, len(cut))
	for i := range cut {
		if cut[i] == nil {
			return nil, errGone
		}
		if learnt[i], err = c.compare(own, &ask[i], cut[i], readAt); err != nil {
			return nil, fmt.Errorf("keyspace %s: %w", c.keyspace, err)
		}
	}
	return learnt, nil
}

func (c *comparer) compare(own ownSide, p *part, cut []storage.Child, readAt wal.Position) ([]part, error) {
	if err := checkChildren(p, cut); err != nil {
		return nil, err
	}
	var parts []part
	for i := range cut {
		high := p.high
		if i+1 < len(cut) {
			high = cut[i+1].Low
		}
		here, err := own.RangeTotal(c.keyspace, cut[i].Low, high)
		if err != nil {
			return nil, err
		}
		q := part{low: cut[i].Low, high: high, total: cut[i].Total, depth: p.depth + 1, diff: difference{ReadAt: readAt}}
		switch {
		case here == q.total:
			q.is = partEqual
		case wholeIsCheaper(here.Count, q.total.Count):
			q.is = partWhole
		case len(cut) == 1 || q.total.Count <= leafRecords:
			q.is = partLeaf
		}
		if last := len(parts) - 1; last >= 0 && q.is >= partEqual && parts[last].is == q.is {
			parts[last].high = q.high
			continue
		}
		if q.depth > 64 {
			return nil, malformed("ranges that split without end")
		}
		parts = append(parts, q)
	}
	return parts, nil
}

// wholeIsCheaper decides between receiving a range that differs and listing it. It also bounds a list of what is here to a few records more
// than the feeder's.
func wholeIsCheaper(here, there uint64) bool {
	return here == 0 || there > leafRecords && here < there/mostlyMissing || there <= leafRecords && here > mostlyMissing*leafRecords
}

func checkChildren(p *part, cut []storage.Child) error {
	if len(cut) == 0 || !bytes.Equal(cut[0].Low, p.low) {
		return malformed("parts that do not begin where their range does")
	}
	for i := 1; i < len(cut); i++ {
		if bytes.Compare(cut[i-1].Low, cut[i].Low) >= 0 || len(p.high) > 0 && bytes.Compare(cut[i].Low, p.high) >= 0 {
			return malformed("parts out of order or outside their range")
		}
	}
	return nil
}

func (c *comparer) spans(parts []part) []span {
	out := make([]span, len(parts))
	for i := range parts {
		out[i] = span{Keyspace: c.keyspace, Low: parts[i].low, High: parts[i].high}
	}
	return out
}

// list compares leaves record by record, by key and digest.
func (c *comparer) list(ctx context.Context, leaves []part) ([][]part, error) {
	here, err := c.ownItems(leaves)
	if err != nil {
		return nil, err
	}
	learnt := make([][]part, len(leaves))
	for i := range leaves {
		learnt[i] = []part{{low: leaves[i].low, high: leaves[i].high, is: partListed}}
	}
	readAt, err := c.feeder.items(ctx, c.spans(leaves), func(i int, key []byte, d shortDigest) error {
		if have, ok := here[i][string(key)]; !ok || have != d {
			learnt[i][0].diff.Keys = append(learnt[i][0].diff.Keys, key)
		}
		delete(here[i], string(key))
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range leaves {
		d := &learnt[i][0].diff
		d.ReadAt = readAt
		for key := range here[i] {
			d.Gone = append(d.Gone, []byte(key))
		}
	}
	return learnt, nil
}

func (c *comparer) ownItems(leaves []part) ([]map[string]shortDigest, error) {
	own := c.own()
	defer own.Release()
	out := make([]map[string]shortDigest, len(leaves))
	for i := range leaves {
		out[i] = make(map[string]shortDigest)
		err := own.Items(c.keyspace, leaves[i].low, leaves[i].high, func(key []byte, d merkle.Digest) bool {
			out[i][string(key)] = shortDigest(d[:16])
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
