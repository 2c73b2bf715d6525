package daemon

import (
	"maps"
	"time"

	"stoker/daemon/dispatch"
	"stoker/daemon/outbox"
	"stoker/store"
)

// firstNote is how long a batch runs before it gets its first NAME.status.txt: most small ones have ended by then, and need
// none.
const firstNote = 2 * time.Second

// noter knows when which batch's NAME.status.txt is to be written. Only used by Run.
type noter struct {
	due    map[string]time.Time // by batch
	listed time.Time            // when the batches that do not run were looked at
}

func newNoter() *noter { return &noter{due: map[string]time.Time{}} }

// writeNotes hands the outbox what NAME.status.txt is to say of the batches whose note is due: soon of those that run, and
// then each NotesEvery; of the others, for which all records must be read, when it is NotesEvery anyway.
func (d *Daemon) writeNotes(n *noter, now time.Time) {
	running := map[string]dispatch.Running{}
	for _, r := range d.line.Dispatch.Snapshot().Running {
		running[r.ID] = r
	}
	all := now.Sub(n.listed) >= outbox.NotesEvery
	records, err := d.runningRecords(running)
	if all {
		records, err = d.openRecords()
	}
	if err != nil {
		d.o.Logger.Error().Err(err).Msg("read batches for status notes")
		return
	}
	var notes []outbox.Note
	for id, r := range records {
		if n.isDue(id, running[id].ID != "", now) {
			notes = append(notes, d.note(r, running[id]))
		}
	}
	if all {
		n.listed = now
		maps.DeleteFunc(n.due, func(id string, _ time.Time) bool { return records[id] == nil })
	}
	d.line.Outbox.SetNotes(notes)
}

func (d *Daemon) runningRecords(running map[string]dispatch.Running) (map[string]*store.Record, error) {
	records := make(map[string]*store.Record, len(running))
	for id := range running {
		r, err := d.store.Get(id)
		if err != nil {
			return nil, err
		}
		if !r.State.Ended() { // it may have since
			records[id] = r
		}
	}
	return records, nil
}

// openRecords returns those of all batches that have not ended.
func (d *Daemon) openRecords() (map[string]*store.Record, error) {
	records, err := d.store.List()
	open := map[string]*store.Record{}
	for _, r := range records {
		if !r.State.Ended() {
			open[r.ID] = r
		}
	}
	return open, err
}

// isDue reports whether a batch's note is to be written now; then it is not again before NotesEvery.
func (n *noter) isDue(id string, runs bool, now time.Time) bool {
	due, known := n.due[id]
	if !known && runs {
		n.due[id] = now.Add(firstNote)
		return false
	}
	if now.Before(due) {
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
