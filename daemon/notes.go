package daemon

import (
	"context"
	"maps"
	"time"

	"stoker/daemon/dispatch"
	"stoker/daemon/outbox"
	"stoker/store"
)

const (
	// firstNote is how long a batch runs before it gets its first NAME.status.txt: most small ones have ended by then, and
	// need none.
	firstNote = 2 * time.Second
	// lookForNotes is how often it is looked whose note is due.
	lookForNotes = time.Second
)

// noter knows when which batch's NAME.status.txt is to be written. Its goroutine waits for the dispatcher, which may take
// minutes to open a batch.
type noter struct {
	due    map[string]time.Time // by batch
	listed time.Time            // when the batches that do not run were looked at
}

func newNoter() *noter { return &noter{due: map[string]time.Time{}} }

// keepNotes has notes written until ctx ends. What it returns waits for the last look to be over, for which the dispatcher must
// have been told to stop.
func (d *Daemon) keepNotes(ctx context.Context) (wait func()) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		n, tick := newNoter(), time.NewTicker(lookForNotes)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				d.writeNotes(n, now)
			}
		}
	}()
	return func() { <-over }
}

// writeNotes hands the outbox what NAME.status.txt is to say of the batches whose note is due: soon of those that run, and
// then each NotesEvery; of the others, for which all records must be read, when it is NotesEvery anyway.
func (d *Daemon) writeNotes(n *noter, now time.Time) {
	running := map[string]dispatch.Running{}
	for _, r := range d.line.Dispatch.Snapshot().Running {
		running[r.ID] = r
	}
	records := d.dueRecords(n, running, now)
	if now.Sub(n.listed) >= outbox.NotesEvery {
		records = append(records, d.otherRecords(n, running, now)...)
	}
	notes := make([]outbox.Note, 0, len(records))
	for _, r := range records {
		notes = append(notes, d.note(r, running[r.ID]))
	}
	d.line.Outbox.SetNotes(notes)
}

// dueRecords returns those of running batches whose note is due. One that cannot be read is reported elsewhere.
func (d *Daemon) dueRecords(n *noter, running map[string]dispatch.Running, now time.Time) (due []*store.Record) {
	for id := range running {
		if _, known := n.due[id]; !known {
			n.due[id] = now.Add(firstNote)
		}
		if !n.isDue(id, now) {
			continue
		}
		if r, err := d.store.Get(id); err == nil && !r.State.Ended() {
			due = append(due, r)
		}
	}
	return due
}

// otherRecords returns those of batches that neither run nor have ended, and whose note is due. It forgets ended ones.
func (d *Daemon) otherRecords(n *noter, running map[string]dispatch.Running, now time.Time) (due []*store.Record) {
	n.listed = now
	records, err := d.store.List()
	if err != nil {
		d.o.Logger.Error().Err(err).Msg("list batches for status notes")
		return nil
	}
	open := map[string]bool{}
	for _, r := range records {
		if r.State.Ended() {
			continue
		}
		open[r.ID] = true
		if _, runs := running[r.ID]; !runs && n.isDue(r.ID, now) {
			due = append(due, r)
		}
	}
	maps.DeleteFunc(n.due, func(id string, _ time.Time) bool { return !open[id] })
	return due
}

// isDue reports whether a batch's note is to be written now; then it is not again before NotesEvery.
func (n *noter) isDue(id string, now time.Time) bool {
	if now.Before(n.due[id]) {
		return false
	}
	n.due[id] = now.Add(outbox.NotesEvery)
	return true
}

func (d *Daemon) note(r *store.Record, now dispatch.Running) outbox.Note {
	n := outbox.Note{
		Queue: r.Queue, Name: r.Name, ID: r.ID, State: r.State, Reason: now.Reason, Done: now.Completed + now.Failed,
		Failed: now.Failed, Total: r.Requests, ETA: time.Duration(now.ETASeconds) * time.Second,
	}
	if n.Reason == "" {
		n.Reason = d.waitReason(r.State)
	}
	return n
}
