package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"stoker/daemon/api"
	"stoker/daemon/client"
	"stoker/daemon/config"
	"stoker/store/batchfile/check"
)

type submitFlags struct {
	queue, name  string
	wait, dryRun bool
}

func newSubmitCommand(a *app) *cobra.Command {
	var f submitFlags
	cmd := &cobra.Command{
		Use:   "submit FILE...",
		Short: "Copy batch files into the inbox",
		Long: `Submit copies files into the inbox under temporary names and renames them, so that the daemon never sees half a
file. With --wait it shows progress until they have ended; Ctrl-C then leaves the batches running. It exits with 3 if
some lines failed.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error { return a.submit(cmd.Context(), paths, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.queue, "queue", "", "queue: the inbox's sub-folder to drop into")
	flags.StringVar(&f.name, "name", "", "name to drop the file under, instead of its own (one FILE)")
	flags.BoolVar(&f.wait, "wait", false, "wait until the batches have ended, and show progress")
	flags.BoolVar(&f.dryRun, "dry-run", false, "check the files and say where they would go")
	return cmd
}

func (a *app) submit(ctx context.Context, paths []string, f submitFlags) error {
	c, loaded, unanswered := a.reach(ctx)
	if loaded == nil {
		return unanswered
	}
	drops, err := planDrops(paths, &loaded.Config, f)
	if err != nil {
		return err
	}
	if f.dryRun {
		return a.dryRun(ctx, drops, check.Options{MaxLine: int(loaded.Inbox.MaxLine)})
	}
	if err := checkFiles(paths); err != nil { // all or none, as far as that can be known before
		return fmt.Errorf("submit: %w", err)
	}
	if f.wait && errors.Is(unanswered, os.ErrPermission) {
		return a.notAllowed(loaded, true)
	}
	if errors.Is(unanswered, client.ErrNotRunning) {
		a.noteHidden(loaded)
		if f.wait {
			return unanswered
		}
		fmt.Fprintln(a.stderr, "stoker: note: the daemon is not running; the files wait in the inbox until it does")
	}
	began, shared := time.Now(), inboxShare(&loaded.Config)
	sweepDrops(shared, filepath.Dir(drops[0].to), submitPrefix, abandoned)
	for i := range drops {
		if loaded.Inbox.Duplicates != config.DuplicatesSkip { // else a file whose batch has ended makes no other
			drops[i].after = time.Now()
		}
		if err := drops[i].copy(shared); err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "stoker: %s is in the inbox\n", check.Printable(drops[i].to))
	}
	if !f.wait {
		return nil
	}
	return a.awaitBatches(ctx, c, drops, began, loaded.Paths.Outbox)
}

// checkFiles refuses what the inbox would never take.
func checkFiles(paths []string) error {
	for _, path := range paths {
		st, err := os.Stat(path)
		switch {
		case err != nil:
			return err
		case !st.Mode().IsRegular():
			return fmt.Errorf("%s: not a regular file", path)
		case st.Size() == 0:
			return fmt.Errorf("%s: the file is empty", path)
		}
	}
	return nil
}

func (a *app) dryRun(ctx context.Context, drops []drop, o check.Options) error {
	var paths []string
	for _, d := range drops {
		paths = append(paths, d.from)
	}
	ok, err := check.Files(ctx, paths, a.stdin, o, check.NewText(a.stdout, shownProblems))
	if err != nil {
		return err
	}
	for _, d := range drops {
		fmt.Fprintf(a.stdout, "%s would go to %s\n", check.Printable(d.from), check.Printable(d.to))
	}
	if !ok {
		return &exitError{code: exitSomeFailed}
	}
	return nil
}

// awaitBatches waits until the batches of the dropped files have ended.
func (a *app) awaitBatches(ctx context.Context, c *client.Client, drops []drop, began time.Time, outbox string) error {
	batches, err := a.follow(ctx, c, drops, nil, func([]api.Batch) bool { return true })
	if err != nil {
		return a.detached(ctx, err)
	}
	a.noteSkipped(batches, began)
	return a.reportEnded(batches, func(i int) []string { return resultPaths(outbox, &batches[i]) })
}

// noteSkipped tells of batches that ended before.
func (a *app) noteSkipped(batches []api.Batch, began time.Time) {
	for _, b := range batches {
		if b.EndedAt.Before(began) {
			fmt.Fprintf(a.stderr, "stoker: note: %s is the same file as %s, which has ended; it does not run again\n", check.Printable(b.InputName), b.ID)
		}
	}
}

func (a *app) detached(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &exitError{code: exitInterrupted, err: errors.New("interrupted; the batches go on"), hint: fmt.Sprintf("'%s' shows them", a.commandLine("status --watch"))}
	}
	return err
}
