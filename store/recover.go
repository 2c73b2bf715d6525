package store

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/go-json-experiment/json"

	"stoker/store/faults"
	"stoker/store/journal"
)

// Recovery is what was found in a journal behind the last checkpoint.
type Recovery struct {
	Adopted   int   // whole results, kept
	Doubled   int   // results of requests that had one already, ignored
	Stray     int   // results of requests that the batch does not have, ignored
	CutBytes  int64 // torn tail, cut off
	Redone    uint32
	Rescanned bool // the checkpoint was of no use, so that the whole journal was read
}

// recover brings an opened batch to where its journal is, and the journal to where the batch can go on.
func (b *Batch) recover(ctx context.Context) error {
	checked, err := b.readJournal(ctx)
	if err != nil {
		return err
	}
	return b.mend(checked)
}

// readJournal reads the journal behind the checkpoint, or all of it if the checkpoint is of no use. It changes no file.
// Checked is how far the checkpoint covers it.
func (b *Batch) readJournal(ctx context.Context) (checked int64, err error) {
	checked = b.progress.Offset
	if checked < journal.Start || checked > b.journal.Size() {
		checked = journal.Start // the checkpoint is damaged, or ahead of the journal
		b.Recovered.Rescanned = true
	}
	read := b.readTail
	if b.Recovered.Rescanned {
		read = b.rescan
	}
	valid, err := read(ctx, checked)
	if err != nil {
		return 0, err
	}
	b.settle(valid)
	return checked, nil
}

// readTail adopts the whole frames behind the checkpoint, and returns where the last one ends.
func (b *Batch) readTail(ctx context.Context, checked int64) (valid int64, err error) {
	if err := b.readControlFrames(ctx); err != nil {
		return 0, err
	}
	return b.journal.Scan(ctx, checked, b.journal.Size(), false, b.adopt)
}

// settle takes down what a journal that is valid up to an offset says of the batch.
func (b *Batch) settle(valid int64) {
	p := &b.progress
	b.Recovered.CutBytes = max(0, b.journal.Size()-valid)
	p.Offset = valid
	b.Recovered.Redone = p.handed.count() - p.Records() - uint32(len(p.redo)) // those were counted when they were reopened
	b.former, b.noted = p.handed, p.handed.low
	b.again = slices.Clone(p.redo)
	if b.begun == 0 && p.handed.count() > 0 {
		b.begun = b.Meta.CreatedAt // it ran, but a crash came before the first checkpoint
	}
}

// mend makes the files fit what was read: temporary files go, a torn tail is cut off. What was adopted may lie in memory
// only, if just the process died: it is made durable before anything is built on it.
func (b *Batch) mend(checked int64) error {
	unchecked := b.journal.Size() > checked
	if err := b.sweep(); err != nil {
		return err
	}
	if err := b.journal.MendHead(); err != nil {
		return err
	}
	if !faults.Planted("tail-not-cut") {
		if err := b.journal.Truncate(b.progress.Offset); err != nil {
			return err
		}
	}
	if unchecked {
		if err := b.journal.Rewrite(checked); err != nil {
			return err
		}
		if err := b.journal.Datasync(); err != nil {
			return fmt.Errorf("sync journal: %w", err)
		}
	}
	if !b.Recovered.Rescanned {
		return nil
	}
	// The old checkpoint must not fit again by chance once the journal has grown.
	c, err := b.Checkpoint(Engine{})
	if err != nil {
		return err
	}
	return b.store.Commit([]Checkpoint{c})
}

// sweep removes the temporary files of a process that died.
func (b *Batch) sweep() error {
	for _, name := range temporaries(b.store.fs, b.dir) {
		if err := b.store.fs.Remove(filepath.Join(b.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// adopt enters a frame that was found behind the checkpoint.
func (b *Batch) adopt(_ int64, f journal.Frame) error {
	if err := b.enter(f); err != nil || !f.Kind.IsResult() {
		return err
	}
	if f.Seq >= b.Meta.Requests {
		b.Recovered.Stray++
		return nil
	}
	if faults.Planted("adopt-nothing") {
		return nil
	}
	if faults.Planted("adopted-twice") {
		if err := b.journal.Append(f); err != nil {
			return err
		}
	}
	fresh, err := b.progress.count(f)
	if fresh {
		b.Recovered.Adopted++
	} else {
		b.Recovered.Doubled++
	}
	return err
}

// readControlFrames finds the control frames before the checkpoint. They are written only while the engine dies or when
// the batch is finalizing, so only then the checked part of the journal is read.
func (b *Batch) readControlFrames(ctx context.Context) error {
	if b.Record.State != Finalizing && b.Record.Suspects == 0 {
		return nil
	}
	_, err := b.journal.Scan(ctx, journal.Start, b.progress.Offset, true, func(_ int64, f journal.Frame) error {
		return b.enter(f)
	})
	return err
}

// enter takes in what a frame says beside the progress. A result behind a publish frame voids it: the batch was
// reopened.
func (b *Batch) enter(f journal.Frame) error {
	switch f.Kind {
	case journal.KindOutput, journal.KindError:
		b.publication, b.published = nil, false
	case journal.KindHanded:
		return b.enterHanded(f)
	case journal.KindSuspect:
		b.suspects[f.Seq] = int(f.Status)
	case journal.KindPublish:
		p, err := decodePublication(f.Payload)
		if err != nil {
			return err
		}
		b.publication, b.published = p, false
		if !slices.Contains(b.names, p.Name) {
			b.names = append(b.names, p.Name)
		}
	case journal.KindDone:
		b.published = b.publication != nil
	case journal.KindEngine:
		return b.enterEngine(f.Payload)
	}
	return nil
}

func (b *Batch) enterHanded(f journal.Frame) error {
	seqs, err := decodeSeqs(f.Payload)
	if err != nil {
		return err
	}
	b.progress.handed.raise(min(f.Seq, b.Meta.Requests))
	for _, seq := range seqs {
		if seq < b.Meta.Requests {
			b.progress.handed.reach(seq)
		}
	}
	return nil
}

func (b *Batch) enterEngine(payload []byte) error {
	var a answering
	if err := json.Unmarshal(payload, &a); err != nil {
		return fmt.Errorf("read engine frame: %w", err)
	}
	if b.begun == 0 {
		b.begun = a.Begun
	}
	if !slices.Contains(b.engines, a.Engine) {
		b.engines = append(b.engines, a.Engine)
	}
	return nil
}

// rescan counts the batch's results from the journal alone. There is no checkpoint that tells a torn tail from damage
// further up, so frames behind damage are adopted, too; it costs a bit of memory for each request.
func (b *Batch) rescan(ctx context.Context, start int64) (valid int64, err error) {
	p := Progress{Redone: b.progress.Redone}
	records, end := newBitmap(b.Meta.Requests), uint32(0)
	valid, err = b.journal.Scan(ctx, start, b.journal.Size(), true, func(_ int64, f journal.Frame) error {
		if err := b.enter(f); err != nil || !f.Kind.IsResult() {
			return err
		}
		switch {
		case f.Seq >= b.Meta.Requests:
			b.Recovered.Stray++
		case records.has(f.Seq):
			b.Recovered.Doubled++
		default:
			b.Recovered.Adopted++
			records.add(f.Seq)
			end = max(end, f.Seq+1)
			p.tally(f)
			b.progress.handed.reach(f.Seq)
		}
		return nil
	})
	if err != nil {
		return valid, err
	}
	p.handed = b.progress.handed
	p.setRecords(records.has, end)
	b.progress = p
	return valid, nil
}

// bitmap is a set of requests.
type bitmap []uint64

func newBitmap(requests uint32) bitmap { return make(bitmap, (uint64(requests)+63)/64) }

func (m bitmap) has(seq uint32) bool { return m[seq/64]&(1<<(seq%64)) != 0 }
func (m bitmap) add(seq uint32)      { m[seq/64] |= 1 << (seq % 64) }
