package replication

import (
	"bytes"
	"context"
	"fmt"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

const (
	splitLimit  = 64 // parts of one range in a reply
	splitRanges = 16 // ranges of one request
	itemRanges  = 32
	leafRecords = 64 // a part with so few records is listed, not split further
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
type comparer struct {
	keyspace storage.KeyspaceID
	own      func() ownSide // a view for one step; the comparer releases it before it asks the feeder again
	feeder   feederSide
	found    func(ctx context.Context, d *difference) error
	gone     bool // the feeder dropped the keyspace meanwhile: its drop is in the spool
}

// part is a range that differs, with the feeder's total.
type part struct {
	low, high []byte
	total     merkle.Total
	leaf      bool
	whole     bool // next to nothing is here, or next to nothing there: receiving it whole is cheaper than listing it
}

// run compares [low, end of the keyspace), whose total at the feeder is known only for the whole keyspace.
func (c *comparer) run(ctx context.Context, low []byte) error {
	return c.expand(ctx, []part{{low: low}}, 0)
}

// expand cuts parts that differ and goes down into what differs in them, in order.
func (c *comparer) expand(ctx context.Context, parts []part, depth int) error {
	if depth > 64 {
		return malformed("ranges of keyspace %s that split without end", c.keyspace)
	}
	for len(parts) > 0 && !c.gone {
		ask := parts[:min(len(parts), splitRanges)]
		cut, readAt, err := c.feeder.split(ctx, c.spans(ask))
		if err != nil {
			return err
		}
		if len(cut) == 0 || len(cut) > len(ask) {
			return malformed("%d answers to %d ranges", len(cut), len(ask))
		}
		for i := range cut {
			if cut[i] == nil {
				c.gone = true
				return nil
			}
			if err := c.judge(ctx, &ask[i], cut[i], readAt, depth); err != nil {
				return err
			}
		}
		parts = parts[len(cut):]
	}
	return nil
}

// judge compares the parts of one range with what is here and deals with each run of like ones.
func (c *comparer) judge(ctx context.Context, p *part, cut []storage.Child, readAt wal.Position, depth int) error {
	parts, err := c.compare(p, cut)
	if err != nil {
		return err
	}
	for len(parts) > 0 && !c.gone {
		n := 1
		for n < len(parts) && alike(&parts[0], &parts[n]) {
			n++
		}
		same := parts[:n]
		parts = parts[n:]
		low, high := same[0].low, same[n-1].high
		switch {
		case same[0].total == equalTotal:
			err = c.found(ctx, &difference{Low: low, High: high, ReadAt: readAt})
		case same[0].whole:
			err = c.found(ctx, &difference{Low: low, High: high, Whole: true, ReadAt: readAt})
		case same[0].leaf:
			err = c.list(ctx, same)
		default:
			err = c.expand(ctx, same, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// equalTotal marks a part that does not differ: no set of records has it.
var equalTotal = merkle.Total{Count: 1<<64 - 1}

func alike(a, b *part) bool {
	return (a.total == equalTotal) == (b.total == equalTotal) && a.whole == b.whole && a.leaf == b.leaf
}

func (c *comparer) compare(p *part, cut []storage.Child) ([]part, error) {
	if err := checkChildren(p, cut); err != nil {
		return nil, fmt.Errorf("keyspace %s: %w", c.keyspace, err)
	}
	own := c.own()
	defer own.Release()
	parts := make([]part, len(cut))
	for i := range cut {
		high := p.high
		if i+1 < len(cut) {
			high = cut[i+1].Low
		}
		here, err := own.RangeTotal(c.keyspace, cut[i].Low, high)
		if err != nil {
			return nil, err
		}
		q := part{low: cut[i].Low, high: high, total: cut[i].Total}
		switch {
		case here == q.total:
			q.total = equalTotal
		case wholeIsCheaper(here.Count, q.total.Count):
			q.whole = true
		default:
			q.leaf = len(cut) == 1 || q.total.Count <= leafRecords
		}
		parts[i] = q
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
func (c *comparer) list(ctx context.Context, leaves []part) error {
	for len(leaves) > 0 {
		ask := leaves[:min(len(leaves), itemRanges)]
		leaves = leaves[len(ask):]
		here, err := c.ownItems(ask)
		if err != nil {
			return err
		}
		found := make([]difference, len(ask))
		readAt, err := c.feeder.items(ctx, c.spans(ask), func(i int, key []byte, d shortDigest) error {
			if have, ok := here[i][string(key)]; !ok || have != d {
				found[i].Keys = append(found[i].Keys, key)
			}
			delete(here[i], string(key))
			return nil
		})
		if err != nil {
			return err
		}
		for i := range ask {
			d := &found[i]
			d.Low, d.High, d.ReadAt = ask[i].low, ask[i].high, readAt
			for key := range here[i] {
				d.Gone = append(d.Gone, []byte(key))
			}
			if err := c.found(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
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
