package daemon

import (
	"context"
	"errors"
	"os"

	"stoker/daemon/api"
	"stoker/daemon/dispatch"
	"stoker/engine"
	"stoker/store"
)

var _ api.Daemon = (*Daemon)(nil)

// Status implements api.Daemon.
func (d *Daemon) Status(context.Context) (*api.Status, error) {
	states, bad, err := d.store.Census()
	if err != nil {
		return nil, err
	}
	e, feed, in, out := d.engine.Status(), d.line.Dispatch.Snapshot(), d.line.Inbox.Status(), d.line.Outbox.Status()
	return &api.Status{
		SchemaVersion: api.SchemaVersion, Running: true, Version: d.o.Version, PID: os.Getpid(), Instance: d.store.Instance(),
		StartedAt: d.started, Draining: d.draining.Load() != nil, Settings: d.settings(), Engine: &e, Dispatch: &feed, Inbox: &in, Outbox: &out,
		Storage: d.storage(&feed, &in, &out), Batches: states, BadRecords: bad, Reload: d.reload.Load(),
	}, nil
}

func (d *Daemon) settings() *api.Settings {
	c := d.config.Load()
	return &api.Settings{
		ConfigFile: d.o.ConfigFile, Inbox: c.Paths.Inbox, Outbox: c.Paths.Outbox, Archive: c.Paths.Archive, State: c.Paths.State,
		Ready: string(c.Inbox.Ready), Duplicates: string(c.Inbox.Duplicates), MaxLine: int64(c.Inbox.MaxLine), RequireMount: c.Inbox.RequireMount,
	}
}

// Batches implements api.Daemon.
func (d *Daemon) Batches(_ context.Context, state store.State) (*api.Batches, error) {
	list, err := api.List(d.store, state)
	if err != nil {
		return nil, err
	}
	feed := d.line.Dispatch.Snapshot()
	for i := range list.Batches {
		d.refresh(&list.Batches[i], &feed)
	}
	return list, nil
}

// Batch implements api.Daemon.
func (d *Daemon) Batch(_ context.Context, id string) (*api.Batch, error) {
	b, err := api.Find(d.store, id)
	if err != nil {
		return nil, err
	}
	feed := d.line.Dispatch.Snapshot()
	d.refresh(b, &feed)
	return b, nil
}

// refresh replaces the last checkpoint's figures by those of now, and says why a batch waits.
func (d *Daemon) refresh(b *api.Batch, feed *dispatch.Snapshot) {
	for _, u := range feed.Unreadable {
		if u.ID == b.ID {
			b.Reason = "cannot be read: " + u.Reason
		}
	}
	for _, r := range feed.Running {
		if r.ID == b.ID {
			b.Completed, b.Failed, b.Redone, b.CompletionTokens, b.Reason = r.Completed, r.Failed, r.Redone, r.Tokens, r.Reason
		}
	}
	if b.Reason == "" {
		b.Reason = d.waitReason(b.State)
	}
}

// waitReason says why an accepted batch has not begun, or one that is done is not published; "" of others.
func (d *Daemon) waitReason(state store.State) string {
	switch state {
	case store.Validating:
		return d.engineReason()
	case store.Finalizing:
		if silent := d.silent("outbox"); silent != nil {
			return silent.Error()
		}
		return d.line.Outbox.Status().Reason
	}
	return ""
}

// silent says why a share cannot be used, as far as it is noticed, while whoever noticed it is held up.
func (d *Daemon) silent(name string) error {
	for _, t := range d.shares.Troubles() {
		if t.Name == name {
			return t.Err
		}
	}
	return nil
}

func (d *Daemon) engineReason() string {
	switch e := d.engine.Status(); e.State {
	case engine.Ready:
		return "waits for its turn"
	case engine.Failed:
		return "engine is down: " + e.Reason
	case engine.BackOff:
		return "engine is started again: " + e.Reason
	default:
		return "engine is not ready yet"
	}
}

// Verify implements api.Daemon.
func (d *Daemon) Verify(ctx context.Context, id string) (*api.Verification, error) {
	p := d.o.Config.Paths
	report, err := d.store.Verify(ctx, id, store.Folders{FS: d.shares, Inbox: p.Inbox, Outbox: p.Outbox, Archive: p.Archive})
	if err != nil {
		return nil, err
	}
	left, err := d.engine.Leftovers()
	if err != nil {
		return nil, err
	}
	return api.Verified(report, left, "process %s is left of a former worker"), nil
}

// Ready implements api.Daemon.
func (d *Daemon) Ready() (engine.State, error) {
	in, err := d.line.Inbox.Status(), d.silent("inbox")
	switch {
	case err != nil:
	case in.Scanned.IsZero():
		err = errors.New("the inbox has not been read yet")
	case in.Problem != "":
		err = errors.New(in.Problem)
	}
	return d.engine.Status().State, err
}
