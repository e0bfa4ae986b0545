package server

import (
	"crypto/tls"
	"time"
)

// sanitized is the configuration in use as sys/config/state/sanitized shows it: in Vault's names, without paths of keys and without secrets.
func (c *Config) sanitized() map[string]any {
	listeners := []map[string]any{{"type": "tcp", "config": c.Listener.sanitized()}}
	if o := c.OpenSearch; o != nil {
		shown := o.sanitized()
		shown["security"] = securityRequired
		if o.NoSecurity {
			shown["security"] = securityNone
		}
		listeners = append(listeners, map[string]any{"type": "opensearch", "config": shown})
	}
	return map[string]any{
		"api_addr": c.APIAddr, "cluster_addr": c.ClusterAddr, "cluster_name": c.ClusterName, "log_level": c.LogLevel, "log_format": c.LogFormat,
		"shutdown_timeout": c.ShutdownTimeout.String(), "min_free": c.MinFree, "trash_keep": c.TrashKeep.String(),
		"storage":   map[string]any{"type": "bbolt", "cluster_addr": c.ClusterAddr, "redirect_addr": c.APIAddr, "disable_clustering": false},
		"listeners": listeners,
		"replication": map[string]any{
			"retain_bytes": c.Replication.RetainBytes, "retain_age": shown(c.Replication.RetainAge), "checkpoint_bytes": c.Replication.CheckpointBytes,
			"checkpoint_interval": shown(c.Replication.CheckpointInterval), "segment_bytes": c.Replication.SegmentBytes,
			"segment_entries": c.Replication.SegmentEntries, "heartbeat_interval": shown(c.Replication.HeartbeatInterval),
			"certificate_ttl": shown(c.Replication.CertificateTTL),
		},
	}
}

func (l Listener) sanitized() map[string]any {
	return map[string]any{
		"address": l.Address, "cluster_address": l.ClusterAddress, "tls_disable": l.TLSDisable, "max_request_size": l.MaxRequestSize,
		"tls_min_version": tls.VersionName(l.TLSMinVersion), "tls_cipher_suites": l.TLSCipherSuites, "tls_require_and_verify_client_cert": l.TLSRequireClientCert,
		"http_read_header_timeout": l.ReadHeaderTimeout.String(), "http_read_timeout": l.ReadTimeout.String(), "http_write_timeout": l.WriteTimeout.String(),
		"http_idle_timeout": l.IdleTimeout.String(), "max_connections": l.MaxConnections, "rate_limit": l.RateLimit, "rate_limit_per_address": l.RateLimitPerAddress,
		"telemetry": map[string]any{"unauthenticated_metrics_access": l.OpenMetrics},
	}
}

// shown is a time that may be left to its default.
func shown(d time.Duration) string {
	if d == 0 {
		return "default"
	}
	return d.String()
}
