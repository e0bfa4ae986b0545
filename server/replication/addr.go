package replication

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// maxAddrs bounds the lists of addresses that peers tell each other.
const maxAddrs = 32

// hostPort turns a cluster address (host:port, or https://host:port as Vault writes it) into what is dialled; ok is false when it is neither.
func hostPort(addr string) (hp string, ok bool) {
	if strings.Contains(addr, "://") {
		u, err := url.Parse(addr)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || (u.Path != "" && u.Path != "/") {
			return "", false
		}
		addr = u.Host
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" {
		return "", false
	}
	return net.JoinHostPort(host, port), true
}

// clusterURL prints a cluster address as Vault does.
func clusterURL(addr string) string {
	if addr == "" || strings.Contains(addr, "://") {
		return addr
	}
	return "https://" + addr
}

// cleanAddrs keeps the usable addresses, each once, in order.
func cleanAddrs(addrs []string) []string {
	var out []string
	for _, a := range addrs {
		if _, ok := hostPort(a); ok && len(a) < 512 && !slices.Contains(out, a) && len(out) < maxAddrs {
			out = append(out, a)
		}
	}
	return out
}

func equalStrings(a, b []string) bool { return slices.Equal(a, b) }

// sameAddrs reports whether two lists name the same places.
func sameAddrs(a, b []string) bool { return equalStrings(cleanAddrs(a), cleanAddrs(b)) }
