package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stoker/daemon"
	"stoker/daemon/api"
	"stoker/daemon/config"
	"stoker/engine/environment"
	"stoker/store"
	"stoker/store/durable"
	"stoker/store/layout"
)

type onceFlags struct {
	model, output string
}

func newOnceCommand(a *app) *cobra.Command {
	var f onceFlags
	cmd := &cobra.Command{
		Use:   "once FILE...",
		Short: "Run these files, print where the results are, and stop",
		Long: `Once starts an engine, runs the files and stops: what a script around LLM.generate does, but a crash, Ctrl-C or a terminal
that is closed loses nothing (under nohup it goes on). Run the same command again to go on where it stopped. Results go beside each file (with --root: to its outbox), or to
--output: a file for one FILE, a folder for several. It exits with 3 if some lines failed.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error { return a.once(cmd.Context(), paths, f) },
	}
	cmd.Flags().StringVar(&f.model, "model", "", "model to load, instead of engine.model")
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "where the results go")
	return cmd
}

func (a *app) once(ctx context.Context, paths []string, f onceFlags) error {
	ctx, abort := endedByHangup(ctx)
	p, err := a.planOnce(paths, f)
	if err != nil {
		return err
	}
	batches, err := a.runOnce(ctx, abort, p)
	if err != nil {
		return err
	}
	return a.deliverOnce(p, batches)
}

// oncePlan is what is to run, and where the results go.
type oncePlan struct {
	loaded     *config.Loaded
	drops      []drop
	deliveries []delivery // of the drops
	resumes    bool       // goes on with a run that died
}

func (a *app) planOnce(paths []string, f onceFlags) (*oncePlan, error) {
	if err := checkFiles(paths); err != nil { // before anything reads them: reading a pipe would wait for ever
		return nil, fmt.Errorf("once: %w", err)
	}
	loaded, err := a.onceConfig(paths, f)
	if err != nil {
		return nil, err
	}
	if err := loaded.CheckRunnable(); err != nil {
		return nil, err
	}
	p := &oncePlan{loaded: loaded}
	if p.drops, err = planDrops(paths, &loaded.Config, submitFlags{}); err != nil {
		return nil, err
	}
	_, fresh := os.Stat(filepath.Join(onceRoot(loaded), ".state"))
	p.resumes = a.root == "" && fresh == nil
	p.deliveries, err = planDelivery(paths, f.output, a.root != "", p.resumes)
	return p, err
}

// runOnce starts a daemon, and stops it when all files have ended.
func (a *app) runOnce(ctx context.Context, abort <-chan struct{}, p *oncePlan) ([]api.Batch, error) {
	d, _, err := a.newDaemon(ctx, p.loaded, noNotifier)
	switch {
	case errors.Is(err, context.Canceled):
		return nil, interrupted()
	case err != nil:
		return nil, err
	}
	if a.root == "" {
		defer os.Remove(filepath.Dir(p.loaded.API.Socket)) // once the daemon has stopped it is empty
	}
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		done <- d.Run(runCtx, abort)
		close(done)
	}()
	batches, err := a.dropAndFollow(ctx, d, p, done)
	stop()
	return batches, errors.Join(err, <-done)
}

// dropAndFollow drops what was not dropped before and waits until all of it has ended.
func (a *app) dropAndFollow(ctx context.Context, d *daemon.Daemon, p *oncePlan, done <-chan error) ([]api.Batch, error) {
	select {
	case <-d.Running():
	case err := <-done:
		if ctx.Err() != nil {
			return nil, cmp.Or(err, error(interrupted()))
		}
		return nil, cmp.Or(err, errStopped)
	}
	if err := p.dropMissing(ctx, d); err != nil {
		return nil, err
	}
	var since time.Time // all have ended
	batches, err := a.follow(ctx, d, p.drops, done, func(batches []api.Batch) bool {
		if since.IsZero() {
			since = time.Now()
		}
		return allArchived(batches) || time.Since(since) > archiveTimeout
	})
	if errors.Is(err, context.Canceled) {
		return nil, interrupted()
	}
	return batches, err
}

// deliverOnce moves the results to their places, and removes the state, which no run needs any more.
func (a *app) deliverOnce(p *oncePlan, batches []api.Batch) error {
	for i := range batches {
		if err := p.deliveries[i].take(p.loaded.Paths.Outbox, &batches[i]); err != nil {
			return err
		}
	}
	if a.root == "" {
		if err := os.RemoveAll(onceRoot(p.loaded)); err != nil {
			return fmt.Errorf("clean up: %w", err)
		}
	}
	return a.reportEnded(batches, func(i int) []string { return p.deliveries[i].paths })
}

// onceConfig is the configuration with folders of its own, the same for the same files, so that a second run goes on.
func (a *app) onceConfig(paths []string, f onceFlags) (*config.Loaded, error) {
	overrides := map[string]string{}
	if f.model != "" {
		overrides["engine.model"] = f.model
	}
	loaded, err := a.loadConfig(overrides)
	if err != nil {
		return nil, err
	}
	if loaded.Origin("log.level").Source == config.FromDefault {
		loaded.Log.Level = "warn"
	}
	if a.root != "" {
		return loaded, nil
	}
	loaded.Inbox.Ready = config.ReadyRename // nobody but this command drops into an inbox of its own
	root, err := a.newOnceRoot(paths, &loaded.Engine)
	if err != nil {
		return nil, err
	}
	loaded.Paths = config.Paths{
		Inbox: filepath.Join(root, "inbox"), Outbox: filepath.Join(root, "outbox"),
		Archive: filepath.Join(root, "archive"), State: filepath.Join(root, ".state"),
	}
	loaded.API.Socket = filepath.Join(os.TempDir(), "stoker-once-"+filepath.Base(root), "stoker.sock")
	return loaded, nil
}

func onceRoot(l *config.Loaded) string { return filepath.Dir(l.Paths.Inbox) }

// newOnceRoot is $XDG_STATE_HOME/stoker/once/HASH, with a hash of the model and of the files' paths and contents: what one model
// began is not gone on with by another.
func (a *app) newOnceRoot(paths []string, e *config.Engine) (string, error) {
	digest := sha256.New()
	fmt.Fprintf(digest, "%s\x00%s\x00%s\x00", e.Kind, e.Model, e.Revision)
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return "", err
		}
		sum, _, err := durable.Hash(durable.Local{}, abs)
		if err != nil {
			return "", fmt.Errorf("once: %w", err)
		}
		fmt.Fprintf(digest, "%s\x00%s\x00", abs, sum)
	}
	base := a.variable("XDG_STATE_HOME")
	if !filepath.IsAbs(base) {
		home := a.variable("HOME")
		if home == "" {
			return "", errors.New("once: neither $XDG_STATE_HOME nor $HOME is set, so that there is no place for the state")
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "stoker", "once", fmt.Sprintf("%x", digest.Sum(nil)[:8])), nil
}

func (a *app) variable(name string) string { return environment.Get(a.environ, name) }

func interrupted() *exitError {
	return &exitError{code: exitInterrupted, err: errors.New("interrupted; what is done is kept"), hint: "run the same command again to go on"}
}

// archiveTimeout is how long `once` waits for inputs to be archived after their results are there. The next start does it
// as well.
const archiveTimeout = 10 * time.Second

func allArchived(batches []api.Batch) bool {
	return !slices.ContainsFunc(batches, func(b api.Batch) bool { return !b.Archived })
}

// dropMissing drops the files that no batch was made of yet, and that do not wait from a run before, and those whose batch
// is to run again.
func (p *oncePlan) dropMissing(ctx context.Context, src api.Source) error {
	list, err := src.Batches(ctx, "")
	if err != nil {
		return err
	}
	shared := inboxShare(&p.loaded.Config)
	sweepDrops(shared, filepath.Dir(p.drops[0].to), oncePrefix, 0) // of those who use this state, one runs at a time
	for i := range p.drops {
		d := &p.drops[i]
		d.prefix = oncePrefix
		if d.sha256, _, err = durable.Hash(durable.Local{}, d.from); err != nil {
			return fmt.Errorf("once: %w", err)
		}
		found, ended := findBatches(list, p.drops[i:i+1])
		if len(found) > 0 && ended && p.runsAgain(i, &found[0]) {
			d.after = found[0].EndedAt
			found = nil
		}
		if len(found) > 0 || claimed(d.to, d.sha256) {
			continue
		}
		if err := d.copy(shared); err != nil {
			return err
		}
	}
	return nil
}

// runsAgain reports whether a file whose batch has ended runs again. Results that have left the outbox were delivered, and the
// file is given anew, but for a run that died right after.
func (p *oncePlan) runsAgain(i int, b *api.Batch) bool {
	return delivered(p.loaded.Paths.Outbox, b) && !(p.resumes && p.deliveries[i].isThere())
}

// delivered reports whether a batch's results have left the outbox: its batch object does so last.
func delivered(outbox string, b *api.Batch) bool {
	paths := resultPaths(outbox, b)
	_, err := os.Lstat(paths[len(paths)-1])
	return errors.Is(err, fs.ErrNotExist)
}

// claimed reports whether a file with these contents was dropped by a run before: it waits in the inbox, or was claimed and not
// yet admitted.
func claimed(to string, sum durable.SHA256) bool {
	inbox, name := filepath.Split(to)
	claims, _ := fs.Glob(os.DirFS(inbox), layout.ClaimDir("", "*", "*")) // not with the name: it may look like a pattern
	same := func(path string) bool {
		got, _, err := durable.Hash(durable.Local{}, path)
		return err == nil && got == sum
	}
	return same(to) || slices.ContainsFunc(claims, func(dir string) bool { return same(filepath.Join(inbox, dir, name)) })
}

// delivery is where one file's results go.
type delivery struct {
	stem   string // the errors file is stem.errors.jsonl, the batch object stem.batch.json
	output string
	stay   bool // in the outbox
	paths  []string
}

// planDelivery says where the results go. Of a run that goes on with one that died, some may be there already.
func planDelivery(paths []string, output string, hasRoot, resumes bool) ([]delivery, error) {
	st, err := os.Stat(filepath.Clean(output)) // "FILE/" is none, and FILE is there
	folder := len(paths) > 1 || strings.HasSuffix(output, "/") || err == nil && st.IsDir()
	if folder && output != "" && err == nil && !st.IsDir() {
		return nil, &usageError{fmt.Errorf("--output %s is a file, and the results need a folder", output)}
	}
	var plan []delivery
	for _, p := range paths {
		stem, _, _ := store.SplitInputName(filepath.Base(p))
		var d delivery
		switch {
		case output == "" && hasRoot:
			d.stay = true
		case output == "":
			d.stem = filepath.Join(filepath.Dir(p), stem)
			d.output = d.stem + store.SuffixOutput
		case folder:
			d.stem = filepath.Join(output, stem)
			d.output = d.stem + store.SuffixOutput
		default:
			d.stem, d.output = strings.TrimSuffix(output, ".jsonl"), output
		}
		if err := d.check(); err != nil && !resumes {
			return nil, err
		}
		plan = append(plan, d)
	}
	return plan, nil
}

// check refuses to replace a file, before an engine is started for it.
func (d *delivery) check() error {
	if d.stay {
		return nil
	}
	for _, path := range []string{d.output, d.stem + store.SuffixErrors, d.stem + store.SuffixBatch} {
		if _, err := os.Lstat(path); err == nil {
			return &exitError{code: exitFailure, err: fmt.Errorf("%s is there already", path), hint: "move it away, or give another --output"}
		}
	}
	return nil
}

// isThere reports whether all results were delivered before: the batch object comes last.
func (d *delivery) isThere() bool {
	_, err := os.Lstat(d.stem + store.SuffixBatch)
	return err == nil
}

// take moves a batch's results to their place.
func (d *delivery) take(outbox string, b *api.Batch) error {
	d.paths = resultPaths(outbox, b)
	if d.stay {
		return nil
	}
	if err := durable.MkdirAll(durable.Local{}, filepath.Dir(d.output), 0o775); err != nil {
		return err
	}
	for i, from := range d.paths {
		to := d.output
		if suffix := resultSuffix(from); suffix != store.SuffixOutput {
			to = d.stem + suffix
		}
		if err := deliver(from, to); err != nil {
			return fmt.Errorf("deliver results: %w", err)
		}
		d.paths[i] = to
	}
	return nil
}

// deliver moves a file, also one that a run before had moved or copied already when it died. That neither is there is an
// error: what was told to be there would not be.
func deliver(from, to string) error {
	err := durable.Move(durable.Local{}, from, to)
	_, there := os.Lstat(to)
	switch {
	case errors.Is(err, fs.ErrNotExist) && there == nil:
		return nil // a run before did
	case errors.Is(err, fs.ErrExist):
		if same, hashErr := durable.SameContents(durable.Local{}, from, to); hashErr == nil && same {
			return os.Remove(from)
		}
	}
	return err
}

func resultSuffix(path string) string {
	suffixes := []string{store.SuffixOutput, store.SuffixErrors, store.SuffixBatch}
	i := slices.IndexFunc(suffixes, func(s string) bool { return strings.HasSuffix(path, s) })
	return suffixes[i]
}
