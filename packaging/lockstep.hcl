# A node's configuration with every setting; what is commented out is the default, or, where a line says so, an example.
# lockstep server -check -config=FILE tells every mistake with its line.

storage "bbolt" {
  path = "/var/lib/lockstep"
}

listener "tcp" {
  address       = "0.0.0.0:8200"
  tls_cert_file = "/etc/lockstep/tls.crt" # read again on SIGHUP
  tls_key_file  = "/etc/lockstep/tls.key"
  # cluster_address  = "0.0.0.0:8201"     # the API's port + 1
  # tls_min_version  = "tls12"
  # tls_disable      = false
  # tls_cipher_suites = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" # an example; the library's choice without it; for TLS 1.2 only
  # tls_client_ca_file = "/etc/lockstep/clients.pem"            # an example; none without it; read again on SIGHUP
  # tls_require_and_verify_client_cert = false
  # tls_disable_client_certs = false
  # max_request_size = "32MiB"
  # max_connections  = 8192
  # http_read_header_timeout = "10s"
  # http_read_timeout        = "30s"
  # http_write_timeout       = "30s"
  # http_idle_timeout        = "2m"
  # rate_limit             = 5000 # an example, in requests a second; no limit without it
  # rate_limit_per_address = 200  # an example; no limit without it
  # telemetry {
  #   unauthenticated_metrics_access = false # a change needs a restart
  # }
}

api_addr = "https://node1.example:8200" # what clients and other clusters use
# cluster_addr = "https://node1.example:8201" # what secondaries dial

# One key that unseals the node at its start; without a seal the node waits for shares. Set it before the cluster is initialised.
# seal "file" {
#   path = "/etc/lockstep/unseal.key" # an example; the file must be mode 0600 and the server's
# }
# or:
# seal "env" {
#   name = "LOCKSTEP_SEAL_KEY" # an example; the variable that holds the key
# }

# cluster_name     = "lockstep"
# log_level        = "info"     # trace, debug, info, warn, error; read again on SIGHUP
# log_format       = "standard" # or json
# shutdown_timeout = "30s"
# min_free         = "512MiB"   # writes are refused below this much free disk
# trash_keep       = "24h"      # how long a state that was replaced is kept; 0: not at all

# scrub {                       # state and log are read again in the background
#   interval         = "24h"    # from the beginning of one pass to the next; 0: never
#   bytes_per_second = "8MiB"   # at most
# }

# Which ceremonies need no token: "generate-root", "rekey", "generate-operation-token". Read again on SIGHUP.
# enable_unauthenticated_access = []

# replication {
#   retain_bytes        = "4GiB"   # log kept for secondaries that are behind
#   retain_age          = "24h"
#   checkpoint_bytes    = "64MiB"
#   checkpoint_interval = "5s"
#   segment_bytes       = "64MiB"
#   segment_entries     = 262144
#   heartbeat_interval  = "1s"
#   certificate_ttl     = "72h"    # of the certificates that a primary signs for its secondaries
#   best_effort_wal_wait_duration = "2s"  # how long a secondary waits for a forwarded write to arrive; at most 20s
#   allow_forwarding_via_header   = false # X-Vault-Forward and X-Vault-Inconsistent
# }
