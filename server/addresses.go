package server

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
)

// clusterBind returns where the cluster port is to listen when the API
// listens on bound.
func (c *Config) clusterBind(bound net.Addr) (string, error) {
	if c.Listener.ClusterAddress != "" {
		return c.Listener.ClusterAddress, nil
	}
	host, _, err := splitAddress(c.Listener.Address)
	if err != nil {
		return "", err
	}
	tcp, ok := bound.(*net.TCPAddr)
	if !ok || tcp.Port == 65535 {
		return "", fmt.Errorf("no port follows %s: set cluster_address", bound)
	}
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port+1)), nil
}

// addresses returns what others are told, given where the API listens and
// where the cluster port will.
func (c *Config) addresses(bound net.Addr, clusterBind string) (Addresses, error) {
	a := Addresses{API: c.APIAddr, Cluster: c.ClusterAddr}
	if a.API == "" {
		a.API = c.scheme() + "://" + net.JoinHostPort(c.reachableHost(), port(bound.String()))
	}
	if a.Cluster == "" {
		u, err := url.Parse(a.API)
		if err != nil {
			return a, fmt.Errorf("api_addr: %w", err)
		}
		host := u.Hostname()
		if h, _, err := splitAddress(clusterBind); err == nil && !wildcard(clusterBind) {
			host = h
		}
		a.Cluster = "https://" + net.JoinHostPort(host, port(clusterBind))
	}
	return a, nil
}

func (c *Config) scheme() string {
	if c.Listener.TLSDisable {
		return "http"
	}
	return "https"
}

// reachableHost is the host of the listener; a development server that
// listens everywhere is reached on this machine.
func (c *Config) reachableHost() string {
	host, _, _ := net.SplitHostPort(c.Listener.Address)
	if wildcard(c.Listener.Address) {
		return "127.0.0.1"
	}
	return host
}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}
