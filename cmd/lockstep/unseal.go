package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server"
)

// unsealHelp is part of the help of each command that opens a stopped node's store.
const unsealHelp = `
The store is encrypted. It is unsealed with the configuration's seal stanza, or
with the key file or variable that it was made with; else with shares: from a
file, from the variable LOCKSTEP_UNSEAL_KEYS (separated by commas or blanks),
or asked for at the terminal. Shares are never taken from the command line,
which every user of the machine can read.

  -unseal-key-file=FILE   shares, one a line
`

const unsealKeysVariable = "LOCKSTEP_UNSEAL_KEYS"

// maxKeyFile is the longest file of shares that is read.
const maxKeyFile = 64 << 10

// unsealFlag is where a command takes shares from.
type unsealFlag struct{ file *string }

func newUnsealFlag(fs *flag.FlagSet) unsealFlag {
	return unsealFlag{fs.String("unseal-key-file", "", "")}
}

func (u unsealFlag) unsealer(c *console, auto *seal.Auto) server.Unsealer {
	return server.Unsealer{Auto: auto, Shares: func(threshold int) ([]string, error) { return u.shares(c, threshold) }}
}

func (u unsealFlag) shares(c *console, threshold int) ([]string, error) {
	if *u.file != "" {
		f, err := os.Open(*u.file)
		if err != nil {
			return nil, fmt.Errorf("read the unseal keys: %w", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
		if err != nil {
			return nil, fmt.Errorf("read the unseal keys: %w", err)
		}
		return strings.Fields(string(b)), nil
	}
	if text := os.Getenv(unsealKeysVariable); text != "" {
		return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }), nil
	}
	in, ok := c.in.(*os.File)
	if !ok || !isTerminal(in) {
		return nil, fmt.Errorf("the store is sealed: give %d unseal keys with -unseal-key-file or %s", threshold, unsealKeysVariable)
	}
	return askShares(c, in, threshold)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// askShares reads shares from a terminal that does not show them.
func askShares(c *console, in *os.File, threshold int) (shares []string, err error) {
	old, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("the terminal: %w", err)
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, &quiet); err != nil {
		return nil, fmt.Errorf("the terminal: %w", err)
	}
	defer func() { err = errors.Join(err, unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, old)) }()
	lines := bufio.NewScanner(in)
	for len(shares) < threshold {
		fmt.Fprintf(c.err, "Unseal key %d of %d (not shown): ", len(shares)+1, threshold)
		if !lines.Scan() {
			return nil, errors.Join(errors.New("no unseal key was given"), lines.Err())
		}
		fmt.Fprintln(c.err)
		if text := strings.TrimSpace(lines.Text()); text != "" {
			shares = append(shares, text)
		}
	}
	return shares, nil
}
