package server

import (
	"fmt"
	"strings"
	"testing"
)

func TestTheSanitizedConfigurationHoldsNoSecret(t *testing.T) {
	cfg := DevConfig("127.0.0.1:8200", "/data", "planted-root-token")
	cfg.Listener.TLSKeyFile = "/etc/planted.key"
	got := fmt.Sprint(cfg.sanitized())
	if strings.Contains(got, "planted") || !strings.Contains(got, "127.0.0.1:8200") {
		t.Errorf("got %s", got)
	}
}
