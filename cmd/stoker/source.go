package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"stoker/daemon/api"
	"stoker/daemon/client"
	"stoker/daemon/config"
	"stoker/engine"
	"stoker/store"
	"stoker/store/batchfile/check"
	"stoker/store/durable"
)

// withSource calls f with the daemon if it answers, else with the state as it lies on the disk.
func (a *app) withSource(ctx context.Context, f func(api.Source, *config.Loaded) error) error {
	daemon, loaded, err := a.reach(ctx)
	if err == nil {
		return f(daemon, loaded)
	}
	if loaded == nil {
		return err
	}
	forbidden := errors.Is(err, os.ErrPermission)
	if !errors.Is(err, client.ErrNotRunning) && !forbidden {
		return err
	}
	s, err := store.OpenReadOnly(loaded.Paths.State)
	switch {
	case errors.Is(err, store.ErrNoState):
		return f(noState{}, loaded)
	case errors.Is(err, store.ErrInUse): // a daemon that was still starting answers by now
		if daemon, loaded, again := a.reach(ctx); again == nil {
			return f(daemon, loaded)
		}
		return &exitError{code: exitInUse, err: err,
			hint: fmt.Sprintf("does another stoker run, or did this one start when api.socket was another? None answers on %s", loaded.SocketPath())}
	case errors.Is(err, os.ErrPermission):
		return a.notAllowed(loaded, forbidden)
	case err != nil:
		return err
	}
	defer s.Close()
	return f(&onDisk{s, loaded}, loaded)
}

// notAllowed is the error where the user may read neither what the daemon says, if it was forbidden to ask, nor the state.
func (a *app) notAllowed(loaded *config.Loaded, forbidden bool) error {
	if forbidden {
		return &exitError{code: exitFailure, err: fmt.Errorf("ask %s: permission denied", loaded.SocketPath()),
			hint: "the socket's group may ask. The service's is stoker: 'sudo usermod -aG stoker NAME', then log in anew"}
	}
	return &exitError{code: exitNotRunning, err: fmt.Errorf("the daemon is not running, and only its user can read %s", loaded.Paths.State),
		hint: "start it, or ask with sudo"}
}

// onDisk answers from the state folder.
type onDisk struct {
	store  *store.Store
	loaded *config.Loaded
}

func (o *onDisk) Status(context.Context) (*api.Status, error) {
	states, bad, err := o.store.Census()
	if err != nil {
		return nil, err
	}
	return &api.Status{SchemaVersion: api.SchemaVersion, Instance: o.store.Instance(), Batches: states, BadRecords: bad}, nil
}

func (o *onDisk) Batches(_ context.Context, state store.State) (*api.Batches, error) {
	return api.List(o.store, state)
}

func (o *onDisk) Batch(_ context.Context, id string) (*api.Batch, error) {
	return api.Find(o.store, id)
}

func (o *onDisk) Verify(ctx context.Context, id string) (*api.Verification, error) {
	report, err := o.store.Verify(ctx, id, folders(o.loaded))
	if err != nil {
		return nil, err
	}
	left, err := engine.AllLeftovers(o.store.Instance(), o.store.Dir())
	if err != nil {
		return nil, err
	}
	return api.Verified(report, left, "no daemon runs, but process %s of its worker does"), nil
}

// folders is where batches' files are, besides the state folder.
func folders(l *config.Loaded) store.Folders {
	p := &l.Paths
	return store.Folders{FS: durable.Beneath{p.Inbox, p.Outbox, p.Archive}, Inbox: p.Inbox, Outbox: p.Outbox, Archive: p.Archive}
}

// noState answers where stoker never ran.
type noState struct{}

func (noState) Status(context.Context) (*api.Status, error) {
	return &api.Status{SchemaVersion: api.SchemaVersion, Batches: map[store.State]int{}}, nil
}

func (noState) Batches(context.Context, store.State) (*api.Batches, error) {
	return &api.Batches{SchemaVersion: api.SchemaVersion, Batches: []api.Batch{}}, nil
}

func (noState) Batch(_ context.Context, id string) (*api.Batch, error) {
	return nil, fmt.Errorf("batch %s: %w", id, store.ErrNotFound)
}

func (noState) Verify(_ context.Context, id string) (*api.Verification, error) {
	if id != "" {
		return nil, fmt.Errorf("batch %s: %w", id, store.ErrNotFound)
	}
	return api.Verified(&store.Report{Findings: []store.Finding{}}, nil, ""), nil
}

// resolve finds the batch that the user means: an id, an unambiguous prefix of one, or an input's name, whose newest
// batch it is, which it says.
func (a *app) resolve(ctx context.Context, src api.Source, arg string) (string, error) {
	list, err := src.Batches(ctx, "")
	if err != nil {
		return "", err
	}
	var byPrefix, byName []string
	for _, b := range list.Batches {
		stem, _, _ := store.SplitInputName(string(b.InputName))
		switch {
		case b.ID == arg:
			return b.ID, nil
		case strings.HasPrefix(b.ID, arg), strings.HasPrefix(b.ID, "batch_"+arg):
			byPrefix = append(byPrefix, b.ID)
		case string(b.InputName) == arg, stem == arg, string(b.Name) == arg:
			byName = append(byName, b.ID)
		}
	}
	switch {
	case len(byName) > 0:
		newest := byName[len(byName)-1]
		fmt.Fprintf(a.stderr, "stoker: %s is batch %s, the newest of %d\n", check.Printable(arg), newest, len(byName))
		return newest, nil
	case len(byPrefix) == 1:
		return byPrefix[0], nil
	case len(byPrefix) > 1:
		return "", &exitError{code: exitFailure, err: fmt.Errorf("%s is the beginning of %d batch ids", check.Printable(arg), len(byPrefix)), hint: fmt.Sprintf("give more of it; '%s' shows them", a.commandLine("list"))}
	}
	return "", &exitError{code: exitFailure, err: fmt.Errorf("no batch %s", check.Printable(arg)), hint: fmt.Sprintf("'%s' shows all", a.commandLine("list"))}
}
