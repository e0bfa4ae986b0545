package audit

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Stdout is the file_path of a device that writes to the server's standard output.
const Stdout = "stdout"

// Options are what an operator says of a device.
type Options struct {
	FilePath     string
	Mode         os.FileMode // of the file; 0: as it is
	HashAccessor bool
	ElideLists   bool
}

// ParseOptions reads a device's options as Vault names them. Whatever would have another meaning here than there is refused.
func ParseOptions(given map[string]string) (*Options, error) {
	o := &Options{Mode: 0o600, HashAccessor: true}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if err := o.set(name, given[name]); err != nil {
			return nil, err
		}
	}
	if o.FilePath == "" {
		return nil, errors.New(`a file device needs file_path: an absolute path, or "stdout"`)
	}
	return o, nil
}

func (o *Options) set(name, value string) (err error) {
	switch name {
	case "file_path", "path":
		o.FilePath, err = checkPath(value)
	case "mode":
		o.Mode, err = parseMode(value)
	case "prefix":
		if value != "" { // in a file that others read, its first bytes decide what it means
			err = errors.New("prefix is not supported: it would let whoever enables a device choose how a file begins. Leave it out")
		}
	case "hmac_accessor":
		o.HashAccessor, err = parseBool(name, value)
	case "elide_list_responses":
		o.ElideLists, err = parseBool(name, value)
	case "format":
		if value != "json" {
			err = errors.New("format must be json: leave it out")
		}
	case "log_raw":
		var raw bool
		if raw, err = parseBool(name, value); raw {
			err = errors.New("log_raw is not supported: secrets would be in the file as they are. Leave it out, and compare values with sys/audit-hash")
		}
	default:
		err = fmt.Errorf("option %q is not known: file_path, mode, hmac_accessor, elide_list_responses and format are", name)
	}
	return err
}

func parseBool(name, value string) (bool, error) {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%s must be true or false", name)
	}
	return b, nil
}

func checkPath(path string) (string, error) {
	if path == Stdout {
		return path, nil
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsRune(path, 0) {
		return "", errors.New(`file_path must be an absolute path without "." and "..", or "stdout"`)
	}
	return path, nil
}

// parseMode reads an octal mode. 0000 leaves the file's mode alone, as in Vault.
func parseMode(text string) (os.FileMode, error) {
	n, err := strconv.ParseUint(text, 8, 32)
	switch mode := os.FileMode(n); {
	case err != nil:
		return 0, errors.New("mode must be octal, such as 0600")
	case mode == 0 || mode == 0o600 || mode == 0o640:
		return mode, nil
	default:
		return 0, fmt.Errorf("mode %s is not safe for an audit log: take 0600 or 0640, or 0000 to leave the mode of an existing file alone", text)
	}
}
