# A node's configuration with every setting; what is commented out is the default.
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
  # max_request_size = "32MiB"
}

api_addr = "https://node1.example:8200" # what clients and other clusters use
# cluster_addr = "https://node1.example:8201" # what secondaries dial

# cluster_name     = "lockstep"
# log_level        = "info"     # trace, debug, info, warn, error; read again on SIGHUP
# log_format       = "standard" # or json
# shutdown_timeout = "30s"
# min_free         = "512MiB"   # writes are refused below this much free disk
# trash_keep       = "24h"      # how long a state that was replaced is kept; 0: not at all

# replication {
#   retain_bytes        = "4GiB"   # log kept for secondaries that are behind
#   retain_age          = "24h"
#   checkpoint_bytes    = "64MiB"
#   checkpoint_interval = "5s"
#   segment_bytes       = "64MiB"
#   segment_entries     = 262144
#   heartbeat_interval  = "1s"
# }
