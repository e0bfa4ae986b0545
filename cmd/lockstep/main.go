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
	"slices"
	"strings"
	"syscall"
)

// commands are all there are, in the order of the help.
var commands = []command{
	serverCommand,
	statusCommand,
	failoverCommand,
	checkCommand,
	walDumpCommand,
	tokenCreateCommand,
	snapshotSaveCommand,
	snapshotInspectCommand,
	snapshotRestoreCommand,
	divergenceListCommand,
	divergenceShowCommand,
	divergenceExportCommand,
	divergenceReplayCommand,
	divergenceDiscardCommand,
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
	os.Exit(exitCode(os.Stderr, os.Args[1:], run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
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
		return group(c, args)
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

// group shows the subcommands of the first word; words that are no command
// are refused.
func group(c *console, args []string) error {
	var within []command
	for _, cmd := range commands {
		if strings.HasPrefix(cmd.name, args[0]+" ") {
			within = append(within, cmd)
		}
	}
	asked := len(args) == 1 || slices.Contains([]string{"help", "-h", "-help", "--help"}, args[1])
	switch {
	case len(within) == 0:
		return usagef("unknown command %q: lockstep help lists them", strings.Join(args[:min(len(args), 2)], " "))
	case !asked:
		return usagef("unknown command %q: lockstep %s lists those there are", strings.Join(args[:2], " "), args[0])
	}
	fmt.Fprintf(c.out, "Usage: lockstep %s SUBCOMMAND [flags]\n\n", args[0])
	list(c.out, within)
	fmt.Fprintf(c.out, "\nlockstep help %s SUBCOMMAND tells more.\n", args[0])
	return nil
}

func list(w io.Writer, commands []command) {
	for _, cmd := range commands {
		fmt.Fprintf(w, "  %-18s %s\n", cmd.name, cmd.summary)
	}
}

func help(c *console, args []string) error {
	if len(args) > 1 {
		cmd, _, ok := find(args[1:])
		if !ok {
			return group(c, args[1:])
		}
		_, err := io.WriteString(c.out, cmd.help)
		return err
	}
	fmt.Fprintln(c.out, "Lockstep replicates a key-value store between clusters, with Vault's API.\n\nUsage: lockstep COMMAND [flags]")
	fmt.Fprintln(c.out)
	list(c.out, commands)
	fmt.Fprintln(c.out, "\nlockstep help COMMAND tells more.")
	return nil
}
