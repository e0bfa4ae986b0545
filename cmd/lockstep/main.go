// Command lockstep is a Lockstep server and the operator's commands around it.
// See lockstep help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// commands are all there are, in the order of the help.
var commands = []command{
	serverCommand,
	statusCommand,
	checkCommand,
	walDumpCommand,
	tokenCreateCommand,
	versionCommand,
	demoCommand,
}

// command is one subcommand. Its file opens with its help text.
type command struct {
	name    string // one or two words
	summary string
	help    string
	run     func(ctx context.Context, c *console, args []string) error
}

// console is where a command talks: data to out, words to err.
type console struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(exitCode(os.Stderr, run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
}

// run executes one command line.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	c := &console{in: stdin, out: stdout, err: stderr}
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "-help" || args[0] == "--help" {
		return help(c, args)
	}
	if args[0] == "-version" || args[0] == "--version" {
		args = []string{"version"}
	}
	cmd, rest, ok := find(args)
	if !ok {
		return usagef("unknown command %q: lockstep help lists them", strings.Join(args[:min(len(args), 2)], " "))
	}
	err := cmd.run(ctx, c, rest)
	if errors.Is(err, flag.ErrHelp) {
		_, err = io.WriteString(c.out, cmd.help)
	}
	return err
}

func find(args []string) (command, []string, bool) {
	for _, cmd := range commands {
		words := strings.Fields(cmd.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == cmd.name {
			return cmd, args[len(words):], true
		}
	}
	return command{}, nil, false
}

func help(c *console, args []string) error {
	if len(args) > 1 {
		cmd, _, ok := find(args[1:])
		if !ok {
			return usagef("unknown command %q", strings.Join(args[1:], " "))
		}
		_, err := io.WriteString(c.out, cmd.help)
		return err
	}
	fmt.Fprintln(c.out, "Lockstep replicates a key-value store between clusters, with Vault's API.\n\nUsage: lockstep COMMAND [flags]")
	fmt.Fprintln(c.out)
	for _, cmd := range commands {
		fmt.Fprintf(c.out, "  %-14s %s\n", cmd.name, cmd.summary)
	}
	fmt.Fprintln(c.out, "\nlockstep help COMMAND tells more.")
	return nil
}
