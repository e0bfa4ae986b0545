package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// StatusError is an answer that is not a success.
type StatusError struct {
	Status int
	Body   []byte // its beginning
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("answered with status %d: %s", e.Status, bytes.TrimSpace(e.Body))
}

// Limits on what a server may send.
const (
	maxHeaderLines = 128
	maxBody        = 1 << 30
	keptBody       = 4 << 10 // of a refusal
)

var errMalformed = errors.New("the answer is not HTTP/1.1 as this driver knows it")

// answer says what is wanted of an answer, and takes it.
type answer struct {
	keep   bool   // the body of a success, too
	header string // value of this header, in small letters; "" for none
	value  string
	body   []byte
}

// read reads one answer to its end. One after which the connection is closed is an error: it would cost a new one.
func (a *answer) read(in *bufio.Reader) error {
	a.value, a.body = "", nil
	status, err := readStatus(in)
	if err != nil {
		return err
	}
	h, err := a.readHeader(in)
	if err != nil {
		return err
	}
	var kept *bytes.Buffer
	success := status >= 200 && status < 300
	if a.keep || !success {
		kept = &bytes.Buffer{}
	}
	switch {
	case status == 204 || status == 304:
	case h.chunked:
		err = readChunks(in, kept)
	case h.length < 0:
		err = fmt.Errorf("%w: status %d without Content-Length", errMalformed, status)
	default:
		err = readPart(in, h.length, kept)
	}
	if err != nil {
		return err
	}
	if kept != nil {
		a.body = kept.Bytes()
	}
	if !success {
		return &StatusError{status, a.body[:min(len(a.body), keptBody)]}
	}
	if h.closes {
		return fmt.Errorf("status %d: the server closes the connection", status)
	}
	return nil
}

// header is what tells where an answer ends.
type header struct {
	length          int64 // -1 when it does not say
	chunked, closes bool
}

// readStatus reads the line "HTTP/1.1 204 No Content".
func readStatus(in *bufio.Reader) (int, error) {
	line, err := readLine(in)
	if err != nil {
		return 0, err
	}
	const before = "HTTP/1.1 "
	if len(line) < len(before)+3 || string(line[:len(before)]) != before || (len(line) > len(before)+3 && line[len(before)+3] != ' ') {
		return 0, fmt.Errorf("%w: first line %.40q", errMalformed, line)
	}
	status := 0
	for _, c := range line[len(before) : len(before)+3] {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%w: first line %.40q", errMalformed, line)
		}
		status = status*10 + int(c-'0')
	}
	if status < 200 {
		return 0, fmt.Errorf("%w: status %d, which nobody asked for", errMalformed, status)
	}
	return status, nil
}

func (a *answer) readHeader(in *bufio.Reader) (header, error) {
	h := header{length: -1}
	for range maxHeaderLines {
		line, err := readLine(in)
		if err != nil {
			return h, err
		}
		if len(line) == 0 {
			if h.chunked && h.length >= 0 {
				return h, fmt.Errorf("%w: both Content-Length and Transfer-Encoding", errMalformed)
			}
			return h, nil
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(name) == 0 {
			return h, fmt.Errorf("%w: header line %.40q", errMalformed, line)
		}
		value = bytes.Trim(value, " \t")
		if err := h.take(name, value); err != nil {
			return h, err
		}
		if a.header != "" && isName(name, a.header) {
			a.value = string(value)
		}
	}
	return h, fmt.Errorf("%w: more than %d header lines", errMalformed, maxHeaderLines)
}

func (h *header) take(name, value []byte) error {
	var err error
	switch {
	case isName(name, "content-length"):
		if h.length >= 0 {
			return fmt.Errorf("%w: Content-Length twice", errMalformed)
		}
		h.length, err = readSize(value, 10)
	case isName(name, "transfer-encoding"):
		if !bytes.EqualFold(value, []byte("chunked")) || h.chunked {
			return fmt.Errorf("%w: Transfer-Encoding %.40q", errMalformed, value)
		}
		h.chunked = true
	case isName(name, "connection"):
		h.closes = h.closes || bytes.EqualFold(value, []byte("close"))
	}
	return err
}

// isName compares a header's name; most differ in length from the three that matter.
func isName(got []byte, want string) bool {
	return len(got) == len(want) && bytes.EqualFold(got, []byte(want))
}

// readChunks reads a body in chunks, to the empty line after the last.
func readChunks(in *bufio.Reader, kept *bytes.Buffer) error {
	var total int64
	for {
		line, err := readLine(in)
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := readSize(bytes.TrimRight(size, " \t"), 16)
		if err != nil {
			return err
		}
		if total += n; total > maxBody {
			return fmt.Errorf("%w: a body above %d bytes", errMalformed, maxBody)
		}
		if err := readPart(in, n, kept); err != nil {
			return err
		}
		end, err := readLine(in)
		if err != nil {
			return err
		}
		if len(end) != 0 {
			return fmt.Errorf("%w: a chunk does not end where it says", errMalformed)
		}
		if n == 0 {
			return nil
		}
	}
}

func readPart(in *bufio.Reader, n int64, kept *bytes.Buffer) error {
	var err error
	if kept != nil {
		_, err = io.CopyN(kept, in, n)
	} else {
		_, err = in.Discard(int(n))
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func readSize(text []byte, base int) (int64, error) {
	if len(text) == 0 || text[0] == '+' || text[0] == '-' {
		return 0, fmt.Errorf("%w: length %.40q", errMalformed, text)
	}
	n, err := strconv.ParseInt(string(text), base, 64)
	if err != nil || n > maxBody {
		return 0, fmt.Errorf("%w: length %.40q", errMalformed, text)
	}
	return n, nil
}

// readLine returns a line without its end, good until the next read.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(line) < 2 || line[len(line)-2] != '\r' {
		return nil, fmt.Errorf("%w: a line that ends without a carriage return", errMalformed)
	}
	return line[:len(line)-2], nil
}
