package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/lockstepdb/lockstep/server"
)

// How the program talks: data goes to standard output, words to standard
// error. A refusal says what failed and ends with what to do. Exit codes: 0
// done, 1 failed or damage found, 2 the command line was wrong, or
// status met a sealed node (as with vault status).

// usageError is a wrong command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// errReported is a failure that the command has told already.
var errReported = errors.New("reported")

// errSealed is a sealed node, of which the command has told all there is.
var errSealed = errors.New("the node is sealed")

// exitCode prints an error, once, and returns the process's exit code.
func exitCode(stderr io.Writer, err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errReported):
		return 1
	case errors.Is(err, errSealed):
		return 2
	case errors.As(err, &usage):
		fmt.Fprintln(stderr, "lockstep:", err)
		return 2
	case server.IsMistakes(err):
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintln(stderr, "lockstep:", err)
	return 1
}

// newFlags returns a command's flags; what is wrong with them is a usageError.
func newFlags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

// parse reads flags and checks the number of arguments left.
func parse(fs *flag.FlagSet, args []string, least, most int) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usagef("%s: %v; lockstep help %s tells more", fs.Name(), err, fs.Name())
	}
	if fs.NArg() < least || fs.NArg() > most {
		return usagef("%s: wrong number of arguments; lockstep help %s tells more", fs.Name(), fs.Name())
	}
	return nil
}

// checkFormat accepts the values of -format.
func checkFormat(format string) error {
	if format != "table" && format != "json" {
		return usagef("-format=%s: want table or json", format)
	}
	return nil
}
