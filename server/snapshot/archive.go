package snapshot

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lockstepdb/lockstep/internal/seal"
)

// archive writes members.
type archive struct {
	header Header
	gzip   *gzip.Writer
	tar    *tar.Writer
	keys   *seal.Keyring
	sums   bytes.Buffer
}

func newArchive(w io.Writer, h Header, keys *seal.Keyring) *archive {
	z, err := gzip.NewWriterLevel(w, gzip.NoCompression) // what is sealed does not shrink
	if err != nil {
		panic("internal error: " + err.Error()) // the level exists
	}
	return &archive{header: h, gzip: z, tar: tar.NewWriter(z), keys: keys}
}

func (a *archive) add(name string, content []byte) error {
	sum := sha256.Sum256(content)
	fmt.Fprintf(&a.sums, "%s  %s\n", hex.EncodeToString(sum[:]), name)
	return a.put(name, content)
}

func (a *archive) put(name string, content []byte) error {
	h := &tar.Header{Name: name, Mode: 0o600, Size: int64(len(content)), ModTime: a.header.Taken, Format: tar.FormatUSTAR}
	if err := a.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := a.tar.Write(content)
	return err
}

func (a *archive) seal(name string, plain []byte) []byte {
	return a.keys.Seal(nil, a.header.place(name), plain)
}

func (a *archive) addJSON(name string, v any) error {
	return a.add(name, append(mustJSON(v), '\n'))
}

func (a *archive) addSealed(name string, v any) error {
	return a.add(name, a.seal(name, mustJSON(v)))
}

// close writes the two members that vouch for the others, and the archive's end.
func (a *archive) close() error {
	sum := sha256.Sum256(a.sums.Bytes())
	if err := a.put(nameSums, a.sums.Bytes()); err != nil {
		return err
	}
	if err := a.put(nameSealed, a.seal(nameSealed, sum[:])); err != nil {
		return err
	}
	return errors.Join(a.tar.Close(), a.gzip.Close())
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("internal error: " + err.Error()) // our own types always marshal
	}
	return b
}

// Reader reads a snapshot from its beginning to its end.
type Reader struct {
	Header  Header
	Seal    *seal.Record
	Summary Summary // once everything before it was read

	in   *bufio.Reader
	gzip *gzip.Reader
	tar  *tar.Reader
	keys *seal.Keyring // nil: what is sealed is not opened
	sums bytes.Buffer

	pieces uint64
	size   int64
}

// Open reads header and seal file of a snapshot. Whatever is wrong with it is an *Invalid, here and later; other errors are the stream's own.
func Open(from io.Reader) (*Reader, error) {
	in := bufio.NewReaderSize(from, 64<<10)
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, broken("", err)
	}
	z.Multistream(false)
	r := &Reader{in: in, gzip: z, tar: tar.NewReader(z)}
	b, err := r.member(nameHeader, maxPlain)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &r.Header); err != nil {
		return nil, invalid(nameHeader, "it is no JSON object of a header's fields")
	}
	if err := r.Header.validate(); err != nil {
		return nil, invalid(nameHeader, "%v", err)
	}
	if b, err = r.member(nameSeal, maxSealFile); err != nil {
		return nil, err
	}
	if r.Seal, err = seal.Decode(b); err != nil {
		return nil, invalid(nameSeal, "%v", err)
	}
	return r, nil
}

// Unseal gives the keys with which the rest is opened. Without them it is only compared with its checksums.
func (r *Reader) Unseal(keys *seal.Keyring) { r.keys = keys }

// broken words an error of the archive's own form; one of the stream beneath is left what it is.
func broken(member string, err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return invalid(member, "it ends too early: take it anew")
	case errors.Is(err, gzip.ErrHeader):
		return invalid(member, "it is no snapshot of Lockstep: it is no gzip stream")
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, tar.ErrHeader), corruptStream(err):
		return invalid(member, "it was changed: take it anew")
	}
	return fmt.Errorf("read the snapshot: %w", err)
}

func corruptStream(err error) bool {
	var c flate.CorruptInputError
	return errors.As(err, &c)
}

// next returns the next member; nil at the end of the archive.
func (r *Reader) next() (*tar.Header, error) {
	h, err := r.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, broken("", err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil, invalid("", "its member %.64q is no file", h.Name)
	}
	return h, nil
}

// content reads a member and notes its sum.
func (r *Reader) content(h *tar.Header, limit int64) ([]byte, error) {
	if h.Size > limit {
		return nil, invalid(h.Name, "it has %d bytes, more than %d", h.Size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(r.tar, limit)) // grows with what comes, not with what the header says
	if err != nil {
		return nil, broken(h.Name, err)
	}
	if int64(len(b)) != h.Size {
		return nil, invalid(h.Name, "it ends too early: take it anew")
	}
	sum := sha256.Sum256(b)
	fmt.Fprintf(&r.sums, "%s  %s\n", hex.EncodeToString(sum[:]), h.Name)
	return b, nil
}

// member reads the next member, which must be the one named.
func (r *Reader) member(name string, limit int64) ([]byte, error) {
	h, err := r.next()
	switch {
	case err != nil:
		return nil, err
	case h == nil:
		return nil, invalid(name, "it is missing: the snapshot ends too early; take it anew")
	case h.Name != name:
		if name == nameHeader {
			return nil, invalid("", "it is no snapshot of Lockstep: its first member is %.64q", h.Name)
		}
		return nil, invalid(name, "%.64q stands in its place", h.Name)
	}
	return r.content(h, limit)
}

func (r *Reader) open(name string, sealed []byte) ([]byte, error) {
	plain, err := r.keys.Open(nil, r.Header.place(name), sealed)
	if err != nil {
		return nil, invalid(name, "%v", err)
	}
	return plain, nil
}

func (r *Reader) openJSON(name string, sealed []byte, v any) error {
	plain, err := r.open(name, sealed)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(plain, v); err != nil {
		return invalid(name, "it does not decode: %v", err)
	}
	return nil
}

// identity reads the member after the seal file.
func (r *Reader) identity() (*identity, error) {
	b, err := r.member(nameIdentity, maxText)
	if err != nil || r.keys == nil {
		return nil, err
	}
	id := new(identity)
	if err := r.openJSON(nameIdentity, b, id); err != nil {
		return nil, err
	}
	if id.Identity.ClusterID != r.Header.ClusterID {
		return nil, invalid(nameIdentity, "it is another cluster's than the header's")
	}
	return id, nil
}

// data calls fn for each piece in order, with nil when nothing is opened, then reads what follows and compares everything.
func (r *Reader) data(fn func(*piece) error) (*footer, error) {
	for {
		h, err := r.next()
		switch {
		case err != nil:
			return nil, err
		case h == nil:
			return nil, invalid(nameFooter, "it is missing: the snapshot ends too early; take it anew")
		case h.Name == nameFooter:
			return r.end(h)
		case h.Name != dataName(r.pieces+1):
			return nil, invalid(dataName(r.pieces+1), "%.64q stands in its place", h.Name)
		case r.pieces >= maxPieces:
			return nil, invalid(h.Name, "more than %d pieces", maxPieces)
		}
		r.pieces++
		if err := r.piece(h, fn); err != nil {
			return nil, err
		}
	}
}

func (r *Reader) piece(h *tar.Header, fn func(*piece) error) error {
	b, err := r.content(h, maxPiece+seal.Overhead)
	if err != nil {
		return err
	}
	r.size += int64(len(b))
	if r.keys == nil {
		return fn(nil)
	}
	if b, err = r.open(h.Name, b); err != nil {
		return err
	}
	p, err := decodePiece(b)
	if err != nil {
		return invalid(h.Name, "%v", err)
	}
	return fn(p)
}

// end reads what stands behind the pieces.
func (r *Reader) end(h *tar.Header) (*footer, error) {
	sealed, err := r.content(h, maxText)
	if err != nil {
		return nil, err
	}
	b, err := r.member(nameSummary, maxPlain)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &r.Summary); err != nil {
		return nil, invalid(nameSummary, "it is no JSON object of a summary's fields")
	}
	if r.Summary.Pieces != r.pieces || r.Summary.Bytes != r.size {
		return nil, invalid(nameSummary, "it tells of %d pieces with %d bytes, there are %d with %d", r.Summary.Pieces, r.Summary.Bytes, r.pieces, r.size)
	}
	want := bytes.Clone(r.sums.Bytes())
	have, err := r.member(nameSums, maxSums)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(have, want) {
		return nil, invalid(nameSums, "%s", firstOther(want, have))
	}
	if err := r.vouched(want); err != nil {
		return nil, err
	}
	if r.keys == nil {
		return nil, nil
	}
	f := new(footer)
	if err := r.openJSON(nameFooter, sealed, f); err != nil {
		return nil, err
	}
	if f.Pieces != r.pieces || f.At.Index != r.Summary.Index {
		return nil, invalid(nameFooter, "it tells of %d pieces up to index %d, there are %d, and the summary says %d", f.Pieces, f.At.Index, r.pieces, r.Summary.Index)
	}
	return f, nil
}

// vouched reads the last member and the archive's end.
func (r *Reader) vouched(sums []byte) error {
	last, err := r.member(nameSealed, maxPlain)
	if err != nil {
		return err
	}
	if r.keys != nil {
		plain, err := r.open(nameSealed, last)
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(sums); !bytes.Equal(plain, sum[:]) {
			return invalid(nameSealed, "the sums are not those that were sealed")
		}
	}
	if h, err := r.next(); err != nil {
		return err
	} else if h != nil {
		return invalid(h.Name, "it stands behind the end")
	}
	// The checksum of the gzip stream stands behind the archive's end.
	if n, err := io.Copy(io.Discard, io.LimitReader(r.gzip, 1<<20)); err != nil {
		return broken("", err)
	} else if n == 1<<20 {
		return invalid("", "something stands behind its end")
	}
	switch _, err := r.in.ReadByte(); {
	case err == nil:
		return invalid("", "something stands behind its end")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("read the snapshot: %w", err)
	}
	return nil
}

// firstOther names the member whose sum differs.
func firstOther(want, have []byte) string {
	w, h := bytes.Split(want, []byte("\n")), bytes.Split(have, []byte("\n"))
	for i := range w {
		if i >= len(h) || !bytes.Equal(w[i], h[i]) {
			if _, name, ok := bytes.Cut(w[i], []byte("  ")); ok {
				return fmt.Sprintf("%s does not match its sum: it was changed; take the snapshot anew", name)
			}
			break
		}
	}
	return "it lists other members than there are"
}

// Verify reads the rest and compares everything that can be compared with the keys given, or without.
func (r *Reader) Verify(progress func(bytes int64)) error {
	if _, err := r.identity(); err != nil {
		return err
	}
	_, err := r.data(func(*piece) error {
		progress(r.size)
		return nil
	})
	return err
}

// Age is how long ago a snapshot was begun.
func (h *Header) Age(now time.Time) time.Duration { return now.Sub(h.Taken).Round(time.Second) }
