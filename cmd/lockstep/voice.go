package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/lockstepdb/lockstep/server"
)

// How the program talks: data goes to standard output, words to standard
// error, with -format=json an error as {"error": "..."} in a line. A refusal says what failed and ends with what to do. Exit codes: 0
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
func exitCode(stderr io.Writer, args []string, err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errReported):
		return 1
	case errors.Is(err, errSealed):
		return 2
	}
	switch {
	case asksJSON(args):
		printErrorJSON(stderr, err)
	case server.IsMistakes(err):
		fmt.Fprintln(stderr, err)
	default:
		fmt.Fprintln(stderr, "lockstep:", err)
	}
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

// asksJSON reports whether a command line has -format=json: also one that is wrong otherwise.
func asksJSON(args []string) bool {
	for i, a := range args {
		name, value, given := strings.Cut(a, "=")
		if a == "--" {
			return false
		}
		if name != "-format" && name != "--format" {
			continue
		}
		if !given && i+1 < len(args) {
			value = args[i+1]
		}
		if value == "json" {
			return true
		}
	}
	return false
}

// printErrorJSON writes an error as one line for programs.
func printErrorJSON(w io.Writer, err error) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(map[string]string{"error": err.Error()}) // to standard error: there is nowhere else to say that it failed
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
