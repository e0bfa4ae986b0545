package opensearch

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/vault"
	"github.com/lockstepdb/lockstep/storage"
)

// item is one write of a document: a call's only one, or one line of a bulk request.
type item struct {
	action string // index, create, update, delete
	ix     *index
	name   string // of the index, as the client wrote it
	id     string
	body   []byte // of index and create
	update *update
	ifSeq  *uint64
	ifTerm *uint64
	permit func(exists bool) error

	// What came of it.
	failed error
	result string // created, updated, deleted, not_found, noop
	number engine.Number
	source []byte // what an update has made
	at     int    // of its write in the transaction; -1: none
	ready  *merged
}

// One transaction takes so many items, and so many bytes of them; a longer list takes several.
const (
	txItems = 1000
	txBytes = 8 << 20
)

// write executes items in their order. Each has its own outcome; an error is of all that are not done yet.
func (f *Face) write(call *vault.Call, items []*item) error {
	for len(items) > 0 {
		n, size := 0, 0
		for n < len(items) && n < txItems && (n == 0 || size+items[n].size() <= txBytes) {
			size += items[n].size()
			n++
		}
		if err := f.commit(call, items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

func (it *item) size() int {
	n := len(it.body)
	if it.update != nil {
		n += it.update.size
	}
	return n
}

// commit makes one transaction of items: it is one entry, so that a hundred documents cost one sync.
func (f *Face) commit(call *vault.Call, items []*item) error {
	var reads []engine.Key
	for _, it := range items {
		if it.failed != nil {
			continue
		}
		reads = append(reads, engine.Key{Keyspace: it.ix.mount.ID, Key: []byte(it.id)})
		if it.update != nil {
			if err := f.merge(it); err != nil {
				return err
			}
		}
	}
	if reads == nil {
		return nil
	}
	tx := &engine.Tx{Reads: reads}
	tx.Exec = func(rd engine.Reader) ([]engine.Write, error) {
		t := &batch{rd: rd, over: map[string]*written{}, begun: map[storage.KeyspaceID]bool{}}
		for _, it := range items {
			it.at = -1
			if it.failed != nil {
				continue
			}
			if err := t.do(it); err != nil {
				var refused *failure
				if !errors.As(err, &refused) {
					return nil, err
				}
				it.failed = refused
			}
		}
		return t.writes, nil
	}
	if err := call.Commit(tx); err != nil {
		return err
	}
	for _, it := range items {
		if it.failed != nil || it.at < 0 {
			continue
		}
		if it.at >= len(tx.Numbers) {
			return fmt.Errorf("internal error: the write of document %s of index %s has no number", it.id, it.ix.name)
		}
		it.number = tx.Numbers[it.at]
	}
	return nil
}

// batch is a transaction while its items are executed, on the sequencer.
type batch struct {
	rd     engine.Reader
	writes []engine.Write
	over   map[string]*written // what the batch has done
	begun  map[storage.KeyspaceID]bool
}

// written is a document as an earlier item of the batch left it; value nil: deleted.
type written struct{ value []byte }

// state is a document before an item.
type state struct {
	exists bool
	source []byte
	number engine.Number
	here   bool // an earlier item of the batch wrote it: its number is not known yet
	digest [32]byte
}

func (t *batch) read(it *item) (s state, err error) {
	if w := t.over[it.key()]; w != nil {
		return state{exists: w.value != nil, source: w.value, here: true}, nil
	}
	rec, err := t.rd.Get(it.ix.mount.ID, []byte(it.id))
	if errors.Is(err, storage.ErrNotFound) {
		return state{}, nil
	}
	if err != nil {
		return s, err
	}
	s.exists, s.digest = true, rec.Digest
	s.source, s.number = engine.Split(rec.Value)
	return s, nil
}

func (it *item) key() string { return string(it.ix.mount.ID[:]) + it.id }

// do decides what becomes of an item.
func (t *batch) do(it *item) error {
	before, err := t.read(it)
	if err != nil {
		return err
	}
	if it.permit != nil {
		if err := it.permit(before.exists); err != nil {
			return err
		}
	}
	if err := it.conflict(before); err != nil {
		return err
	}
	switch it.action {
	case "delete":
		it.result = "deleted"
		if !before.exists {
			it.result = "not_found"
		}
		t.add(it, it.ix.mount.Delete(it.id), nil)
		return nil
	case "update":
		return t.update(it, before)
	}
	it.result = "updated"
	if !before.exists {
		it.result = "created"
	}
	t.add(it, it.ix.mount.Put(it.id, it.body), it.body)
	return nil
}

func (t *batch) update(it *item, before state) error {
	m := it.ready
	if before.here || !m.fits(before) { // another write came in between
		m = it.update.apply(it, before)
	}
	if m.failed != nil {
		return m.failed
	}
	it.result, it.source = m.result, m.source
	if m.result == "noop" {
		it.number = before.number
		return nil
	}
	t.add(it, it.ix.mount.Put(it.id, m.source), m.source)
	return nil
}

// add puts a write into the transaction, and before the first of a keyspace what makes it numbered.
func (t *batch) add(it *item, w engine.Write, value []byte) {
	if ks := it.ix.mount.ID; !t.begun[ks] {
		t.begun[ks] = true
		t.writes = append(t.writes, it.ix.mount.Put(string(engine.NumbersKey), nil))
	}
	it.at = len(t.writes)
	t.writes = append(t.writes, w)
	t.over[it.key()] = &written{value}
}

// conflict refuses an item whose conditions do not hold.
func (it *item) conflict(before state) error {
	text := ""
	switch {
	case it.action == "create" && before.exists:
		text = "document already exists"
		if !before.here {
			text = fmt.Sprintf("document already exists (current version [%d])", before.number.Version)
		}
	case it.ifSeq == nil:
		return nil
	case !before.exists:
		text = fmt.Sprintf("required seqNo [%d], primary term [%d]. but no document was found", *it.ifSeq, *it.ifTerm)
	case before.here:
		text = fmt.Sprintf("required seqNo [%d], primary term [%d]. another item of the same request has changed it", *it.ifSeq, *it.ifTerm)
	case before.number.Seq != *it.ifSeq || before.number.Term != *it.ifTerm:
		text = fmt.Sprintf("required seqNo [%d], primary term [%d]. current document has seqNo [%d] and primary term [%d]", *it.ifSeq, *it.ifTerm, before.number.Seq, before.number.Term)
	default:
		return nil
	}
	return it.fail(http.StatusConflict, "version_conflict_engine_exception", "["+it.id+"]: version conflict, "+text)
}

func (it *item) fail(status int, kind, reason string) *failure {
	return &failure{status: status, kind: kind, reason: reason, index: it.ix.name, shard: "0", uuid: it.ix.uuid()}
}

// answer is what a write's body says; status is that of a call, or of a line of a bulk request.
func (it *item) answer() (body map[string]any, status int) {
	body = map[string]any{
		"_index": it.ix.name, "_id": it.id, "_version": it.number.Version, "result": it.result, "_shards": it.ix.shards(),
		"_seq_no": it.number.Seq, "_primary_term": it.number.Term,
	}
	switch it.result {
	case "created":
		return body, http.StatusCreated
	case "not_found":
		return body, http.StatusNotFound
	case "noop":
		body["_shards"] = map[string]int{"total": 0, "successful": 0, "failed": 0}
	}
	return body, http.StatusOK
}
