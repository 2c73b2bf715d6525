package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"stoker/daemon/api"
	"stoker/daemon/dispatch"
	"stoker/engine"
	"stoker/store"
	"stoker/store/batchfile/check"
)

const pollEvery = 300 * time.Millisecond

// errStopped means that the daemon stopped before what it was started for was done.
var errStopped = errors.New("stopped before the files had ended")

// follow shows how far the batches of the dropped files are, until all have ended and settled says that they are to be waited
// for no longer. done tells of the end of the daemon that this process runs; nil if it runs none.
func (a *app) follow(ctx context.Context, src api.Source, drops []drop, done <-chan error, settled func([]api.Batch) bool) ([]api.Batch, error) {
	p := newProgress(a.stderr)
	defer p.clear()
	for {
		status, err := src.Status(ctx)
		if err != nil {
			return nil, err
		}
		list, err := src.Batches(ctx, "")
		if err != nil {
			return nil, err
		}
		batches, ended := findBatches(list, drops)
		if ended && settled(batches) {
			return batches, nil
		}
		if err := engineDown(status); err != nil && !ended {
			return nil, err
		}
		if err := otherModel(status, batches); err != nil && done != nil {
			return nil, err
		}
		p.show(status, batches)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case err := <-done:
			return nil, cmp.Or(err, errStopped)
		case <-time.After(pollEvery):
		}
	}
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
	if s.Engine == nil || s.Engine.State != engine.Failed {
		return nil
	}
	return &exitError{code: exitFailure, err: fmt.Errorf("the engine is down: %s", s.Engine.Reason), hint: s.Engine.Hint}
}

// otherModel is an error once a batch waits for the model that it began with.
func otherModel(s *api.Status, batches []api.Batch) error {
	if s.Dispatch == nil {
		return nil
	}
	for i := range batches {
		b := &batches[i]
		waits := func(r dispatch.Running) bool { return r.ID == b.ID && r.Reason == dispatch.ModelChanged }
		if slices.ContainsFunc(s.Dispatch.Running, waits) {
			return &exitError{
				code: exitFailure, err: fmt.Errorf("%s began with another model than %s", check.Printable(b.InputName), s.Engine.Model),
				hint: "give it that model: 'stoker show' names it",
			}
		}
	}
	return nil
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
