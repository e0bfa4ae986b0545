package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/net/netutil"
)

// Limits on what a client may hold, unless the listener says otherwise.
const (
	readHeaderTimeout = 10 * time.Second
	bodyReadTimeout   = 30 * time.Second // for each piece of a body
	bodyRate          = 1 << 10          // bytes a second that a body must come with after that time
	answerTimeout     = 30 * time.Second // for each piece of an answer
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
	maxConnections    = 8192
)

// certificate is the listener's key pair; it can be exchanged while it serves.
type certificate struct {
	certFile, keyFile string
	clientCAFile      string // empty: clients are not asked for certificates
	pair              atomic.Pointer[tls.Certificate]
	clientCAs         atomic.Pointer[x509.CertPool]
	// byName is set while a core lives: a secondary about to enrol asks by the name of the set, and gets a certificate that the
	// fingerprint in its token vouches for.
	byName atomic.Pointer[certificateByName]
}

// certificateByName answers a client by the server name it asks for; nil, nil: the listener's own pair is meant.
type certificateByName func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// load reads the files anew; on an error all stays what it was.
func (c *certificate) load() error {
	pair, err := loadKeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	if c.clientCAFile != "" {
		pool, err := loadPool(c.clientCAFile)
		if err != nil {
			return err
		}
		c.clientCAs.Store(pool)
	}
	c.pair.Store(pair)
	return nil
}

func loadKeyPair(certFile, keyFile string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s and key %s: %w", certFile, keyFile, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, fmt.Errorf("read certificate %s: %w", certFile, err)
		}
	}
	return &pair, nil
}

// listen binds the API's address. cert is nil without TLS.
func listen(l Listener) (ln net.Listener, cert *certificate, err error) {
	if !l.TLSDisable {
		cert = &certificate{certFile: l.TLSCertFile, keyFile: l.TLSKeyFile, clientCAFile: l.TLSClientCAFile}
		if err := cert.load(); err != nil {
			return nil, nil, err
		}
	}
	ln, err = net.Listen("tcp", l.Address)
	if err != nil {
		return nil, nil, fmt.Errorf("listen on %s: %w", l.Address, err)
	}
	return ln, cert, nil
}

// newHTTPServer returns the API's server: limits on everything that a client
// could hold, its own complaints in our log.
func newHTTPServer(h http.Handler, l Listener, log hclog.Logger) *http.Server {
	return &http.Server{
		Handler:           patience{h, l.ReadTimeout, l.WriteTimeout},
		ReadHeaderTimeout: l.ReadHeaderTimeout,
		IdleTimeout:       l.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
}

// serve answers requests until the server is shut down.
func serve(srv *http.Server, ln net.Listener, cert *certificate, l Listener) (err error) {
	ln = netutil.LimitListener(ln, l.MaxConnections)
	if cert == nil {
		err = srv.Serve(ln)
	} else if srv.TLSConfig, err = cert.tlsConfig(l); err == nil {
		err = srv.ServeTLS(ln, "", "")
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API: %w", err)
}

// patience gives each piece of a request's body, and of its answer, a time of its own. A limit on
// the whole request would also end long calls such as merkle-check.
type patience struct {
	next        http.Handler
	read, write time.Duration
}

func (p patience) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &patientBody{ReadCloser: r.Body, control: control, timeout: p.read, rate: bodyRate}
	}
	p.next.ServeHTTP(&patientWriter{ResponseWriter: w, control: control, timeout: p.write}, r)
}

// pieceBytes is how much of an answer has a time of its own.
const pieceBytes = 64 << 10

type patientWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
}

func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *patientWriter) WriteHeader(status int) {
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

func (w *patientWriter) Write(p []byte) (done int, err error) {
	for {
		piece := p[done:min(len(p), done+pieceBytes)]
		w.extend()
		n, err := w.ResponseWriter.Write(piece)
		done += n
		if err != nil || done >= len(p) {
			return done, err
		}
	}
}

// extend begins the time of the next piece; a connection of a test has no deadlines.
func (w *patientWriter) extend() { _ = w.control.SetWriteDeadline(time.Now().Add(w.timeout)) }

type patientBody struct {
	io.ReadCloser
	control *http.ResponseController
	timeout time.Duration
	rate    int64     // bytes a second
	begun   time.Time // zero: nothing was read yet
	read    int64
	ctx     context.Context // of the core that reads it; nil until one does
}

// end makes a read under way, and every later one, fail once ctx has ended.
func (b *patientBody) end() { _ = b.control.SetReadDeadline(time.Now()) }

// deadline is until when the next piece must be here. A body of single bytes now and then would else hold its connection for hours, and needs no token for it.
func (b *patientBody) deadline(now time.Time) time.Time {
	if b.begun.IsZero() {
		b.begun = now
	}
	whole := b.begun.Add(b.timeout + time.Duration(b.read)*time.Second/time.Duration(b.rate))
	if next := now.Add(b.timeout); next.Before(whole) {
		return next
	}
	return whole
}

func (b *patientBody) Read(p []byte) (int, error) {
	// A connection without deadlines is one of a test's; it has no slow client.
	_ = b.control.SetReadDeadline(b.deadline(time.Now()))
	if b.ctx != nil && b.ctx.Err() != nil { // looked at after the deadline was set, so that end is never undone unseen
		return 0, context.Cause(b.ctx)
	}
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if err != nil {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}
