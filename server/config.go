package server

import (
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/internal/seal"
)

// Config is a node's configuration, read from a file by ReadConfig or made
// by DevConfig. Fields left zero have the defaults named; ReadConfig has
// filled them in.
type Config struct {
	File string // where it was read from; empty in dev mode. SIGHUP reads it again

	DataDir     string // storage "bbolt" { path }
	Listener    Listener
	OpenSearch  *OpenSearch // listener "opensearch"; nil: that API is answered on the API's listener only
	APIAddr     string      // URL that clients and other clusters use; derived from the listener's address
	ClusterAddr string      // URL that secondaries dial; derived from APIAddr's host and the cluster port
	ClusterName string      // shown by sys/health; "lockstep"

	LogLevel  string // trace, debug, info, warn, error; "info"
	LogFormat string // standard or json; "standard"

	ShutdownTimeout time.Duration // from SIGTERM to the end of the last checkpoint; 30 s
	MinFree         int64         // bytes of free disk below which writes are refused; 512 MiB
	TrashKeep       time.Duration // how long a state that was replaced is kept; 24 h. 0 in the file: not at all
	Replication     Replication
	Scrub           Scrub // scrub { interval, bytes_per_second }; 24 h, 8 MiB

	Seal            *seal.Auto // seal "file" { path } or seal "env" { name }; nil: shares unseal
	Unauthenticated []string   // ceremonies of key holders that need no token; none

	// Dev, when set, makes a development server: initialised at its first
	// start, with a root token that is always valid.
	Dev *Dev

	// The rest is set by the program, never by the file.

	Logger hclog.Logger    // made from LogLevel and LogFormat, writing to standard error, when nil
	Reload <-chan struct{} // each value makes the server read certificates and log level again; may be nil
	Ready  func(Addresses) // called once, when requests are answered; may be nil
	Seam   boltfile.Seam   // stands around every commit, for fault tests; may be nil
	built  func(*core)     // sees each core before it runs, for tests; may be nil
}

// Listener says where the API listens, and with which certificate.
type Listener struct {
	Address               string // host:port; "127.0.0.1:8200"
	ClusterAddress        string // host:port of the cluster port; the API's host, and its port + 1
	TLSDisable            bool
	TLSCertFile           string // PEM, the chain after it
	TLSKeyFile            string // PEM
	TLSMinVersion         uint16 // tls.VersionTLS12
	TLSCipherSuites       string // of TLS 1.2, by name, comma between; the library's choice
	TLSClientCAFile       string // PEM: whose certificates of clients are good; empty: clients show none
	TLSRequireClientCert  bool
	TLSDisableClientCerts bool
	MaxRequestSize        int64         // bytes of a request's body; 32 MiB
	ReadHeaderTimeout     time.Duration // 10 s
	ReadTimeout           time.Duration // for each piece of a body; 30 s
	WriteTimeout          time.Duration // for each 64 KiB of an answer; 30 s
	IdleTimeout           time.Duration // of a connection between requests; 2 min
	MaxConnections        int           // 8192
	RateLimit             float64       // requests a second of all clients; 0: no limit
	RateLimitPerAddress   float64       // of each client address; 0: no limit
	OpenMetrics           bool          // sys/metrics is answered without a token
}

// Replication are the sizes and times of log, checkpoint and stream. Zero
// means the engine's own default.
type Replication struct {
	RetainBytes        int64
	RetainAge          time.Duration
	CheckpointBytes    int64
	CheckpointInterval time.Duration
	SegmentBytes       int64
	SegmentEntries     int
	HeartbeatInterval  time.Duration
	CertificateTTL     time.Duration // of secondaries' certificates of the cluster port; 72 h
	WALWait            time.Duration // how long a forwarded write, and a request that names a state, wait for it here; 2 s
	ForwardByHeader    bool          // clients may send requests to the primary by header
}

// Dev are the settings of a development server.
type Dev struct {
	RootToken string // secret
	Temporary bool   // the data directory is removed when the server ends
}

// Addresses are what a running server answers under.
type Addresses struct {
	API     string // URL
	Cluster string // URL
}

const (
	defaultAddress         = "127.0.0.1:8200"
	defaultClusterName     = "lockstep"
	defaultLogLevel        = "info"
	defaultLogFormat       = "standard"
	defaultShutdownTimeout = 30 * time.Second
	defaultMinFree         = 512 << 20
	defaultTrashKeep       = 24 * time.Hour
	defaultMaxRequestSize  = 32 << 20
	maxWALWait             = 20 * time.Second // shorter than what a forwarded request may take
)

// defaults returns a configuration in which everything that has a default is set.
func defaults() *Config {
	return &Config{
		Listener: Listener{
			Address: defaultAddress, MaxRequestSize: defaultMaxRequestSize, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: bodyReadTimeout,
			WriteTimeout: answerTimeout, IdleTimeout: idleTimeout, MaxConnections: maxConnections,
		},
		ClusterName:     defaultClusterName,
		LogLevel:        defaultLogLevel,
		LogFormat:       defaultLogFormat,
		ShutdownTimeout: defaultShutdownTimeout,
		MinFree:         defaultMinFree,
		TrashKeep:       defaultTrashKeep,
		Scrub:           Scrub{Interval: defaultScrubInterval, BytesPerSecond: defaultScrubBytes},
	}
}

// DevConfig returns the configuration of a development server: plain HTTP on
// address, data in dataDir, rootToken valid whatever the cluster becomes.
func DevConfig(address, dataDir, rootToken string) *Config {
	c := defaults()
	c.Listener.Address = address
	c.Listener.TLSDisable = true
	c.DataDir = dataDir
	c.Dev = &Dev{RootToken: rootToken}
	return c
}
