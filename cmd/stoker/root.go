package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"stoker/daemon"
	"stoker/daemon/client"
	"stoker/daemon/config"
	"stoker/daemon/share"
	"stoker/hint"
	"stoker/store"
)

// Exit codes are an interface: docs/commands.md lists them.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitSomeFailed  = 3
	exitNotRunning  = 10
	exitInUse       = 11
	exitTemporary   = 75
	exitConfig      = 78
	exitInterrupted = 130
)

// app is what every command shares: the world outside, and the flags that all of them have.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string
	configPath     string
	root           string
	begun          bool // the command line was understood
}

// exitError ends the program with a code. Without an error the report on stdout has said everything.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func (a *app) run(args []string) int {
	root := a.newRootCommand()
	root.SetArgs(args)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	return a.fail(cmd, err)
}

func (a *app) newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "stoker",
		Short: "Run JSONL batches of LLM requests that people drop into a folder",
		Long: `stoker watches a folder. Drop a JSONL batch of LLM requests into it: stoker records the batch so that no
crash loses or doubles a line, feeds it to a vLLM engine that stays loaded between batches, and puts the results
into an outbox.`,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Version:           version(),
	}
	root.SetVersionTemplate("stoker {{.Version}}\n")
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.PersistentFlags().StringVar(&a.configPath, "config", "", "configuration file (default: $STOKER_CONFIG, config.toml in --root, ~/.config/stoker/config.toml, /etc/stoker/config.toml)")
	root.PersistentFlags().StringVar(&a.root, "root", "", "folder for inbox, outbox, archive and state, instead of those in [paths]")
	for _, group := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"run", "Running:", []*cobra.Command{newRunCommand(a), newOnceCommand(a), newSetupCommand(a)}},
		{"batches", "Batches:", []*cobra.Command{newSubmitCommand(a), newCheckCommand(a), newStatusCommand(a), newListCommand(a), newShowCommand(a)}},
		{"care", "Care:", []*cobra.Command{newVerifyCommand(a), newBenchCommand(a), newStateCommand(a), newConfigCommand(a), newServiceCommand(a), newManCommand(a), newVersionCommand(a)}},
	} {
		root.AddGroup(&cobra.Group{ID: group.id, Title: group.title})
		for _, c := range group.commands {
			c.GroupID = group.id
			root.AddCommand(c)
			a.noteBegin(c)
		}
	}
	return root
}

// usageError is a mistake on the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

// noteBegin has a command and those below it note that they began: what cobra refuses before that is a mistake on the
// command line.
func (a *app) noteBegin(c *cobra.Command) {
	if run := c.RunE; run != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			a.begun = true
			return run(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		a.noteBegin(sub)
	}
}

func (a *app) configOptions(overrides map[string]string) config.Options {
	return config.Options{Path: a.configPath, Root: a.root, Environ: a.environ, Overrides: overrides}
}

// loadConfig reads the configuration; overrides are what flags of the command set, by key.
func (a *app) loadConfig(overrides map[string]string) (*config.Loaded, error) {
	return config.Load(a.configOptions(overrides))
}

// fail prints an error with its hint and returns the exit code.
func (a *app) fail(cmd *cobra.Command, err error) int {
	if !a.begun {
		err = &usageError{err}
	}
	code, hint := a.classify(cmd, err)
	if exit, ok := errors.AsType[*exitError](err); ok && exit.err == nil {
		return code
	}
	if all := config.All(err); len(all) > 0 {
		for _, e := range all {
			a.say(e.Error(), e.Hint)
		}
		return code
	}
	a.say(err.Error(), hint)
	return code
}

func (a *app) say(message, hint string) {
	a.complain("error", message)
	if hint != "" {
		a.complain("hint", hint)
	}
}

func (a *app) complain(kind, text string) {
	lines := "stoker: " + kind + ": " + harmless(text)
	if isJournal(a.stderr, a.environ) {
		mark := fmt.Sprintf("<%d>", priority(zerolog.ErrorLevel))
		lines = mark + strings.ReplaceAll(lines, "\n", "\n"+mark)
	}
	fmt.Fprintln(a.stderr, lines)
}

// classify finds an error's exit code, and what the user can do about it.
func (a *app) classify(cmd *cobra.Command, err error) (code int, advice string) {
	var (
		exit      *exitError
		usage     *usageError
		hinted    *hint.Error
		fault     *store.FinalError
		unmounted *share.UnmountedError
		folder    *daemon.FolderError
	)
	switch {
	case errors.As(err, &exit):
		return exit.code, exit.hint
	case errors.As(err, &usage):
		return exitUsage, fmt.Sprintf("see '%s --help'", cmd.CommandPath())
	case errors.Is(err, config.ErrInvalid), errors.Is(err, daemon.ErrBadPath):
		return exitConfig, ""
	case errors.Is(err, store.ErrInUse):
		return exitInUse, fmt.Sprintf("is another stoker running? '%s' asks it", a.commandLine("status"))
	case errors.Is(err, store.ErrDamagedDB):
		return exitFailure, fmt.Sprintf("'%s' makes it anew from the batches beside it", a.commandLine("state rebuild"))
	case errors.Is(err, store.ErrReadOnly):
		return exitTemporary, "Linux makes a filesystem read-only after an I/O error: see dmesg, check the disk, then remount it"
	case errors.Is(err, store.ErrRemoved):
		return exitFailure, "put the state folder back; a new one knows nothing of what is under .processing in the inbox: move that back into the inbox to run it again"
	case errors.As(err, &unmounted):
		return exitTemporary, "mount the share, then try again"
	case errors.As(err, &folder) && errors.Is(err, os.ErrPermission):
		return exitFailure, letUse(folder)
	case errors.As(err, &fault):
		return exitFailure, "see dmesg for the disk's errors; the next start goes on from what the disk holds"
	case errors.Is(err, client.ErrNotRunning):
		return exitNotRunning, a.howToStart()
	case errors.Is(err, context.Canceled):
		return exitInterrupted, ""
	case errors.As(err, &hinted):
		return exitFailure, hinted.Hint
	}
	return exitFailure, ""
}
