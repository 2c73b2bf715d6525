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
	"stoker/store"
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

const pollEvery = 300 * time.Millisecond

// awaitBatches waits until the batches of the dropped files have ended.
func (a *app) awaitBatches(ctx context.Context, c *client.Client, drops []drop, began time.Time, outbox string) error {
	p := newProgress(a.stderr)
	defer p.clear()
	for {
		status, err := c.Status(ctx)
		if err != nil {
			return a.detached(ctx, err)
		}
		list, err := c.Batches(ctx, "")
		if err != nil {
			return a.detached(ctx, err)
		}
		batches, ended := findBatches(list, drops)
		if ended {
			p.clear()
			a.noteSkipped(batches, began)
			return a.reportEnded(batches, func(i int) []string { return resultPaths(outbox, &batches[i]) })
		}
		if err := engineDown(status); err != nil {
			return err
		}
		p.show(status, batches)
		select {
		case <-ctx.Done():
			return a.detached(ctx, ctx.Err())
		case <-time.After(pollEvery):
		}
	}
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

// findBatches finds the newest batch of each dropped file, and whether all have ended and left the inbox.
func findBatches(list *api.Batches, drops []drop) (found []api.Batch, ended bool) {
	ended = true
	for _, d := range drops {
		var newest *api.Batch
		for i := range list.Batches {
			b := &list.Batches[i]
			if b.Queue == d.queue && string(b.InputName) == filepath.Base(d.to) && b.InputSHA256 == string(d.sha256) &&
				(!b.State.Ended() || b.EndedAt.After(d.after)) {
				newest = b
			}
		}
		if newest == nil {
			ended = false
			continue
		}
		found = append(found, *newest)
		ended = ended && newest.State.Ended()
	}
	return found, ended
}

// engineDown is an error once the engine will not start again by itself.
func engineDown(s *api.Status) error {
	if s.Engine == nil || s.Engine.State != "failed" {
		return nil
	}
	return &exitError{code: exitFailure, err: fmt.Errorf("the engine is down: %s", s.Engine.Reason), hint: s.Engine.Hint}
}

// reportEnded prints how each batch ended and where its results are. The error is the worst of their ends.
func (a *app) reportEnded(batches []api.Batch, paths func(i int) []string) error {
	var worst error
	for i := range batches {
		b := &batches[i]
		fmt.Fprintf(a.stdout, "%s: %s, %d completed, %d failed\n", check.Printable(b.InputName), b.State, b.Completed, b.Failed)
		if b.Changed {
			fmt.Fprintf(a.stderr, "stoker: note: %s: %s\n", check.Printable(b.InputName), changedNote)
		}
		for _, path := range paths(i) {
			fmt.Fprintf(a.stdout, "  %s\n", check.Printable(path))
		}
		if err := verdict(b); err != nil && (worst == nil || b.State == store.Failed) {
			worst = err
		}
	}
	return worst
}

// verdict is an ended batch's exit code.
func verdict(b *api.Batch) error {
	switch {
	case b.State == store.Failed && b.Refused != nil:
		return &exitError{code: exitFailure, err: fmt.Errorf("%s failed: %s", check.Printable(b.InputName), check.Printable(b.Refused.Message))}
	case b.State == store.Failed:
		return &exitError{code: exitFailure, err: fmt.Errorf("%s failed", check.Printable(b.InputName))}
	case b.Failed > 0:
		return &exitError{code: exitSomeFailed}
	}
	return nil
}
