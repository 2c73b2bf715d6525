package store

import (
	"context"
	"errors"

	"stoker/store/batchfile"
	"stoker/store/journal"
)

// checkJournal reads the checkpointed part of the journal frame by frame, and holds it against the checkpoint.
func (v *verifier) checkJournal(ctx context.Context) error {
	b, start := v.batch, journal.Start
	end, known := v.checkpoint()
	v.offsets = make([]int64, b.Meta.Requests)
	var damage []span
	next := start
	valid, err := b.journal.Scan(ctx, start, end, true, func(at int64, f journal.Frame) error {
		if at != next {
			damage = append(damage, span{next, at})
		}
		next = at + f.Size()
		if f.Kind.IsResult() {
			v.checkRecord(at, f, known)
		}
		if err := b.enter(f); err != nil {
			return err
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if valid < end {
		damage = append(damage, span{valid, end})
	}
	if b.journal.HeadDamaged() {
		v.note(b.journal.Name(), "its head is damaged; the next start mends that of a batch that has not ended")
	}
	v.lost = v.checkRecords(known)
	v.checkDamage(damage)
	return nil
}

// checkpoint returns how far the journal is checked, and whether there is a checkpoint to hold it against.
func (v *verifier) checkpoint() (end int64, known bool) {
	p, j := &v.batch.progress, v.batch.journal
	switch {
	case p.Offset < journal.Start && !v.record.State.Ended():
		v.note(v.store.db.Path(), "the checkpoint is damaged; the next start reads the journal instead, which has %d bytes", j.Size())
		return j.Size(), false
	case p.Offset < journal.Start:
		v.broken(CheckpointOK, v.store.db.Path(), 0, "the checkpoint is damaged; the journal tells what is done")
		return j.Size(), false
	case p.Offset > j.Size():
		v.broken(CheckpointOK, j.Name(), 0, "the checkpoint covers %d bytes, the journal has %d", p.Offset, j.Size())
		return j.Size(), true
	}
	return p.Offset, true
}

// checkRecord proves that a record is the first of its request, and names it.
func (v *verifier) checkRecord(at int64, f journal.Frame, known bool) {
	b := v.batch
	name := b.journal.Name()
	v.report.Records++
	if f.Seq >= b.Meta.Requests {
		v.broken(NoStray, name, 0, "the record at %d is of request %d, but there are %d", at, f.Seq, b.Meta.Requests)
		return
	}
	ref, err := v.ref(f.Seq) // what is wrong with the snapshot is told already
	if first := v.offsets[f.Seq]; first != 0 {
		v.broken(OneRecord, name, ref.Line, "the record at %d is a second one of this request; the first one is at %d", at, first)
		return
	}
	v.offsets[f.Seq] = at
	if known && !b.progress.Has(f.Seq) {
		v.broken(NothingLost, name, ref.Line, "the record at %d stands before the checkpoint, which does not know it", at)
	}
	id, line, ok := batchfile.ReadRef(f.Payload)
	if err == nil && (!ok || id != ref.CustomID || (line != 0 && line != ref.Line)) {
		v.broken(NoStray, name, ref.Line, "the record at %d is of custom_id %q, line %d; the request's is %q", at, id, line, ref.CustomID)
	}
}

// ref is what a request's record must say of it.
func (v *verifier) ref(seq uint32) (batchfile.Ref, error) {
	req, err := v.batch.Request(seq)
	if bad, ok := errors.AsType[*batchfile.LineError](err); ok {
		return bad.Ref, nil
	}
	return req.Ref, err
}

// line is a request's line number, or 0 if it cannot be read.
func (v *verifier) line(seq uint32) int64 {
	w, err := v.batch.snapshot.row(seq)
	if err != nil {
		return 0
	}
	return int64(w.line)
}

// checkRecords proves that the requests that should have a record have it, and returns how many lost theirs.
func (v *verifier) checkRecords(known bool) (lost int64) {
	b := v.batch
	name := b.journal.Name()
	complete := v.record.State.Ended() || v.record.State == Finalizing
	found := int64(0)
	for seq, at := range v.offsets {
		switch seq := uint32(seq); {
		case at != 0:
			found++
		case known && b.progress.Has(seq):
			lost++
			v.broken(NothingLost, name, v.line(seq), "the checkpoint counts a record of this request, but there is none%s", v.rerun())
		case complete:
			lost++
			v.broken(OneRecord, name, v.line(seq), "the batch is %s, but this request has no record%s", v.record.State, v.rerun())
		}
	}
	if n := int64(b.progress.Records()); known && lost == 0 && found != n {
		v.broken(NothingLost, name, 0, "%d requests have a record before the checkpoint, which counts %d", found, n)
	}
	return lost
}

// rerun says what becomes of a request without a record.
func (v *verifier) rerun() string {
	if v.record.State.Ended() {
		return ""
	}
	return "; it runs again before the batch is published"
}

// span is a part of a file, from its first byte to behind its last one.
type span struct{ from, to int64 }

// checkDamage tells where the journal holds bytes that are no frame. If no record is missing they are history: what was
// lost there has run again, or told only how often.
func (v *verifier) checkDamage(damage []span) {
	name := v.batch.journal.Name()
	for _, d := range damage {
		if v.lost > 0 {
			v.broken(NothingLost, name, 0, "no valid frame from %d to %d, before the checkpoint", d.from, d.to)
		} else {
			v.note(name, "no valid frame from %d to %d, but no record is missing", d.from, d.to)
		}
	}
}
