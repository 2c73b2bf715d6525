package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stoker/daemon/api"
	"stoker/daemon/client"
	"stoker/daemon/inbox"
	"stoker/store"
	"stoker/store/batchfile/check"
	"stoker/store/durable"
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
	loaded, err := a.loadConfig(nil)
	if err != nil {
		return err
	}
	drops, err := planDrops(paths, filepath.Join(loaded.Paths.Inbox, f.queue), f)
	if err != nil {
		return err
	}
	if f.dryRun {
		return a.dryRun(ctx, drops, check.Options{MaxLine: int(loaded.Inbox.MaxLine)})
	}
	if err := checkFiles(paths); err != nil { // all or none, as far as that can be known before
		return fmt.Errorf("submit: %w", err)
	}
	c := client.New(loaded.SocketPath())
	if _, err := c.Status(ctx); errors.Is(err, client.ErrNotRunning) {
		if f.wait {
			return err
		}
		fmt.Fprintln(a.stderr, "stoker: note: the daemon is not running; the files wait in the inbox until it does")
	}
	since := time.Now()
	for i := range drops {
		if err := drops[i].copy(); err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "stoker: %s is in the inbox\n", printable(drops[i].to))
	}
	if !f.wait {
		return nil
	}
	return a.awaitBatches(ctx, c, drops, since, loaded.Paths.Outbox)
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

// drop is one file on its way into the inbox.
type drop struct {
	from, to, queue string
	temp            string         // pattern of its name while it is copied
	sha256          durable.SHA256 // once copied
	after           time.Time      // batches that ended before do not count
}

func planDrops(paths []string, dir string, f submitFlags) ([]drop, error) {
	if f.name != "" && len(paths) > 1 {
		return nil, &usageError{errors.New("--name goes with one FILE")}
	}
	if f.queue != "" && (strings.ContainsRune(f.queue, '/') || !inbox.IsQueue(f.queue)) {
		return nil, &usageError{fmt.Errorf("%q is no name of a queue", f.queue)}
	}
	var drops []drop
	from := map[string]string{} // by name
	for _, path := range paths {
		name := filepath.Base(path)
		if f.name != "" {
			name = f.name
		}
		if err := checkDropName(path, name); err != nil {
			return nil, err
		}
		if other := from[name]; other != "" {
			return nil, &usageError{fmt.Errorf("%s and %s have the same name", other, path)}
		}
		from[name] = path
		drops = append(drops, drop{from: path, to: filepath.Join(dir, name), queue: f.queue, temp: ".submit-*.tmp"})
	}
	return drops, nil
}

// checkDropName refuses a name that the inbox would not take.
func checkDropName(path, name string) error {
	const hint = "'stoker submit --name' drops it under another name"
	if _, _, ok := store.SplitInputName(name); !ok || name != filepath.Base(name) {
		return &exitError{code: exitUsage, err: fmt.Errorf("%s: stoker takes .jsonl, .jsonl.gz and .jsonl.zst files", name), hint: hint}
	}
	if inbox.IsIgnored(name) {
		return &exitError{code: exitUsage, err: fmt.Errorf("%s: the inbox does not take files named %s", path, name), hint: hint}
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
		fmt.Fprintf(a.stdout, "%s would go to %s\n", printable(d.from), printable(d.to))
	}
	if !ok {
		return &exitError{code: exitSomeFailed}
	}
	return nil
}

// copy puts the file into the inbox: temporary name, sync, rename that replaces nothing.
func (d *drop) copy() error {
	src, err := os.Open(d.from)
	if err != nil {
		return fmt.Errorf("submit: %w", err)
	}
	defer src.Close()
	if err := durable.MkdirAll(durable.Local{}, filepath.Dir(d.to), 0o775); err != nil {
		return fmt.Errorf("submit %s: %w", d.from, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(d.to), d.temp)
	if err != nil {
		return fmt.Errorf("submit %s: %w", d.from, err)
	}
	defer os.Remove(tmp.Name())
	digest := sha256.New()
	_, err = io.Copy(io.MultiWriter(tmp, digest), src)
	err = errors.Join(err, tmp.Chmod(0o664), tmp.Sync(), tmp.Close())
	if err == nil {
		err = durable.Local{}.RenameNew(tmp.Name(), d.to)
	}
	if errors.Is(err, fs.ErrExist) {
		return &exitError{code: exitFailure, err: fmt.Errorf("submit %s: %s waits in the inbox already", d.from, d.to), hint: "--name gives this one another name"}
	}
	if err != nil {
		return fmt.Errorf("submit %s: %w", d.from, err)
	}
	d.sha256 = durable.Sum(digest)
	return durable.SyncDir(durable.Local{}, filepath.Dir(d.to))
}

const pollEvery = 300 * time.Millisecond

// awaitBatches waits until the batches of the dropped files have ended.
func (a *app) awaitBatches(ctx context.Context, c *client.Client, drops []drop, since time.Time, outbox string) error {
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
		batches, ended := findBatches(list, drops, since)
		if ended {
			p.clear()
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

func (a *app) detached(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &exitError{code: exitInterrupted, err: errors.New("interrupted; the batches go on"), hint: fmt.Sprintf("'%s' shows them", a.commandLine("status --watch"))}
	}
	return err
}

// findBatches finds the newest batch of each dropped file, and whether all have ended and left the inbox.
func findBatches(list *api.Batches, drops []drop, since time.Time) (found []api.Batch, ended bool) {
	ended = true
	for _, d := range drops {
		var newest *api.Batch
		for i := range list.Batches {
			b := &list.Batches[i]
			if b.Queue == d.queue && string(b.InputName) == filepath.Base(d.to) && b.InputSHA256 == string(d.sha256) &&
				(!b.State.Ended() || b.EndedAt.After(since) && b.EndedAt.After(d.after)) {
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
		fmt.Fprintf(a.stdout, "%s: %s, %d completed, %d failed\n", printable(b.InputName), b.State, b.Completed, b.Failed)
		if b.Changed {
			fmt.Fprintf(a.stderr, "stoker: note: %s: %s\n", printable(b.InputName), changedNote)
		}
		for _, path := range paths(i) {
			fmt.Fprintf(a.stdout, "  %s\n", printable(path))
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
		return &exitError{code: exitFailure, err: fmt.Errorf("%s failed: %s", printable(b.InputName), printable(b.Refused.Message))}
	case b.State == store.Failed:
		return &exitError{code: exitFailure, err: fmt.Errorf("%s failed", printable(b.InputName))}
	case b.Failed > 0:
		return &exitError{code: exitSomeFailed}
	}
	return nil
}
