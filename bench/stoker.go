package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"stoker/daemon/api"
	"stoker/daemon/client"
	"stoker/engine"
	"stoker/hint"
	"stoker/store"
)

// daemon is stoker itself: its own binary, with a root of its own. A round is from the first file's rename into the inbox until
// the last batch has ended, its results being there, synced.
type daemon struct {
	command func(args ...string) *exec.Cmd // of stoker with the configuration and the root
	socket  string
	root    string
	log     string

	child   *child
	client  *client.Client
	engines []int // process groups of the workers
	round   int
}

func (d *daemon) start(ctx context.Context) (Loaded, error) {
	began := time.Now()
	if err := os.MkdirAll(d.inbox(), 0o755); err != nil {
		return Loaded{}, err
	}
	var err error
	if d.child, err = startChild(d.command("run"), d.log); err != nil {
		return Loaded{}, fmt.Errorf("start stoker: %w", err)
	}
	d.client = client.New(d.socket)
	var status *api.Status
	var workers []engine.Status
	err = d.child.until(ctx, lookEvery, func() (ready bool, err error) {
		if status, err = d.client.Status(ctx); err != nil {
			if errors.Is(err, client.ErrNotRunning) {
				err = nil
			}
			return false, err
		}
		workers = replicas(status.Engine)
		return allReady(workers)
	})
	if err != nil {
		return Loaded{}, err
	}
	for _, w := range workers {
		d.engines = append(d.engines, w.PID)
	}
	return Loaded{Seconds: time.Since(began).Seconds(), MaxNumSeqs: status.Engine.MaxNumSeqs, KVTokens: status.Engine.KVTokens}, nil
}

// replicas are the workers of an engine, each with its own state.
func replicas(e *engine.Status) []engine.Status {
	if len(e.Replicas) > 0 {
		return e.Replicas
	}
	return []engine.Status{*e}
}

func allReady(workers []engine.Status) (bool, error) {
	for _, w := range workers {
		if w.State == engine.Failed {
			return false, &hint.Error{Message: w.Reason, Hint: w.Hint}
		}
	}
	return !slices.ContainsFunc(workers, func(w engine.Status) bool { return w.State != engine.Ready }), nil
}

func (d *daemon) cpu() CPU { return cpuOf(d.child.pid(), append(d.engines, d.child.pid())...) }

func (d *daemon) inbox() string { return filepath.Join(d.root, "inbox") }

func (d *daemon) run(ctx context.Context, _ string, files []string) (Sample, error) {
	d.round++
	names, err := d.stage(files)
	if err != nil {
		return Sample{}, fmt.Errorf("drop files: %w", err)
	}
	before := d.cpu()
	began := time.Now()
	for _, name := range names {
		if err := os.Rename(filepath.Join(d.root, name), filepath.Join(d.inbox(), name)); err != nil {
			return Sample{}, fmt.Errorf("drop files: %w", err)
		}
	}
	batches, err := d.await(ctx, names)
	if err != nil {
		return Sample{}, err
	}
	s := Sample{Seconds: time.Since(began).Seconds(), CPU: d.cpu().minus(before)}
	for _, b := range batches {
		s.Requests += int64(b.Requests)
		s.Failed += int64(b.Failed)
		s.Tokens += int64(b.CompletionTokens)
	}
	return s, nil
}

// stage copies the files beside the inbox, so that they can be renamed into it, under names that are new in each round.
func (d *daemon) stage(files []string) (names []string, err error) {
	for _, path := range files {
		name := fmt.Sprintf("r%d-%s", d.round, filepath.Base(path))
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(d.root, name), text, 0o644); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// await waits for the batches of files to end. The daemon is asked only once their batch objects are there: asking costs.
func (d *daemon) await(ctx context.Context, names []string) ([]api.Batch, error) {
	missing := names
	var batches []api.Batch
	err := d.child.until(ctx, lookEvery, func() (bool, error) {
		for len(missing) > 0 {
			stem, _, _ := store.SplitInputName(missing[0])
			if _, err := os.Stat(filepath.Join(d.root, "outbox", stem+store.SuffixBatch)); err != nil {
				return false, nil
			}
			missing = missing[1:]
		}
		list, err := d.client.Batches(ctx, "")
		if err != nil {
			return false, err
		}
		batches = batches[:0]
		for _, b := range list.Batches {
			if strings.HasPrefix(string(b.InputName), fmt.Sprintf("r%d-", d.round)) && !b.EndedAt.IsZero() {
				batches = append(batches, b)
			}
		}
		return len(batches) == len(names), nil
	})
	return batches, err
}

func (d *daemon) stop() {
	if d.child != nil {
		unix.Kill(d.child.pid(), unix.SIGTERM)
		d.child.stop()
	}
}
