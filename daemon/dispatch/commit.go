package dispatch

import (
	"slices"

	"stoker/store"
)

// commitResult is what a commit in the background came to.
type commitResult struct {
	runs        []*run
	checkpoints []store.Checkpoint
	err         error
}

// commit makes what was recorded durable, in the background: of all batches if that is due, else of those that are complete,
// which somebody waits for. While one is under way the next one gathers.
func (d *Dispatcher) commit() error {
	if d.committing {
		d.commitAgain = true
		return nil
	}
	result, err := d.gather()
	if err != nil || len(result.runs) == 0 {
		d.due = d.due && slices.ContainsFunc(d.runs, func(r *run) bool { return r.dirty }) // as on a full disk
		return err
	}
	if d.due {
		d.uncommitted = 0
	}
	d.committing, d.commitAgain, d.due = true, false, false
	go func() {
		result.err = d.o.Store.Commit(result.checkpoints)
		d.committed <- result
	}()
	return nil
}

// gather takes down the progress of the batches that have news, and are complete unless all are due.
func (d *Dispatcher) gather() (commitResult, error) {
	var result commitResult
	for _, r := range d.runs {
		d.o.Pulse.Beat()
		if !r.dirty || !d.due && !r.batch.Complete() {
			continue
		}
		c, err := r.batch.Checkpoint(r.engine)
		if err := d.patient(err); err != nil {
			return result, err
		}
		if err != nil {
			continue // the disk is full; later
		}
		r.dirty = false
		result.runs = append(result.runs, r)
		result.checkpoints = append(result.checkpoints, c)
	}
	return result, nil
}

// afterCommit hands on the batches whose every record is durable now.
func (d *Dispatcher) afterCommit(result commitResult) error {
	d.committing = false
	if result.err != nil {
		for _, r := range result.runs {
			r.dirty = true
		}
		return d.patient(result.err)
	}
	ended := map[*run]bool{}
	for i, r := range result.runs {
		durable := result.checkpoints[i].Results
		d.o.Logger.Debug().Str("batch", r.id).Uint32("records", durable).Msg("records are durable")
		if durable == r.batch.Meta.Requests {
			ended[r] = true
		}
	}
	if len(ended) > 0 {
		d.release(ended)
	}
	if err := d.openWaiting(); err != nil {
		return err
	}
	if d.commitAgain {
		return d.commit()
	}
	return nil
}

// release gives complete batches to whoever publishes them.
func (d *Dispatcher) release(ended map[*run]bool) {
	kept := d.runs[:0]
	for _, r := range d.runs {
		if ended[r] {
			d.o.Finish(r.batch)
		} else {
			kept = append(kept, r)
		}
	}
	clear(d.runs[len(kept):])
	d.runs = kept
}

// lastCommit is the one before the daemon stops.
func (d *Dispatcher) lastCommit() error {
	d.due = true
	result, err := d.gather()
	if err != nil || len(result.checkpoints) == 0 {
		return err
	}
	return d.patient(d.o.Store.Commit(result.checkpoints)) // the journals are synced: the next start reads them instead
}
