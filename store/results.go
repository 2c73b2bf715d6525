package store

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"stoker/store/batchfile"
	"stoker/store/durable"
	"stoker/store/journal"
)

// Results are all records of a complete batch, checked frame by frame, to be read in either order.
type Results struct {
	Totals  Totals // of the last Each
	batch   *Batch
	offsets durable.File // row n: journal offset of request n's record, 8 bytes; 0: none. It has no name
}

// Totals add up a batch's records.
type Totals struct {
	Completed, Failed              uint32
	PromptTokens, CompletionTokens uint64
	FinishReasons                  map[string]int64
	Errors                         map[ErrorKey]int64
}

// ErrorKey tells errors apart in the totals.
type ErrorKey struct{ Code, Message string }

// maxErrorKeys bounds how many different errors are counted one by one.
const maxErrorKeys = 1000

// Results checks the whole journal of a complete batch and indexes it. If records are damaged, their requests are opened
// again, so that Next returns them, and the error is journal.ErrDamaged.
func (b *Batch) Results() (*Results, error) {
	if err := b.journal.Flush(); err != nil {
		return nil, durable.Full(b.store.dir, leastRoom+int64(b.Buffered()), err)
	}
	need := leastRoom + int64(b.Meta.Requests)*8
	f, err := b.store.fs.Scratch(b.dir)
	if err != nil {
		return nil, fmt.Errorf("index results of %s: %w", b.Meta.ID, durable.Full(b.store.dir, need, err))
	}
	r := &Results{batch: b, offsets: f}
	if err := r.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("index results of %s: %w", b.Meta.ID, durable.Full(b.store.dir, need, err)), r.Close())
	}
	return r, nil
}

func (r *Results) build() error {
	if err := r.offsets.Truncate(int64(r.batch.Meta.Requests) * 8); err != nil {
		return err
	}
	w := offsetWriter{f: r.offsets}
	err := r.batch.eachResult(func(at int64, f journal.Frame) error { return w.put(f.Seq, at) })
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		err = r.findMissing()
	}
	return err
}

// eachResult calls visit for each result of the journal that is of one of the batch's requests, with its offset, in the order
// in which they finished. The payload is valid only during the call.
func (b *Batch) eachResult(visit func(at int64, f journal.Frame) error) error {
	_, err := b.journal.Scan(context.Background(), journal.Start, b.journal.Size(), true, func(at int64, f journal.Frame) error {
		if !f.Kind.IsResult() || f.Seq >= b.Meta.Requests {
			return nil
		}
		return visit(at, f)
	})
	return err
}

// findMissing reopens the requests whose record is gone.
func (r *Results) findMissing() error {
	var missing []uint32
	in := bufio.NewReaderSize(io.NewSectionReader(r.offsets, 0, int64(r.batch.Meta.Requests)*8), 1<<18)
	for seq := range r.batch.Meta.Requests {
		at, err := readOffset(in)
		if err != nil {
			return err
		}
		if at == 0 {
			missing = append(missing, seq)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := r.reopen(missing); err != nil {
		return err
	}
	return fmt.Errorf("%w: %d requests run again, the first ones %v", journal.ErrDamaged, len(missing), missing[:min(len(missing), 5)])
}

// reopen makes requests whose records are damaged run again, and counts anew those that are left.
func (r *Results) reopen(missing []uint32) error {
	p := &r.batch.progress
	p.clearTally()
	err := r.eachByCompletion(func(f journal.Frame) error {
		p.tally(f)
		return nil
	})
	p.redo = missing
	p.Redone += uint32(len(missing))
	r.batch.again = slices.Clone(missing)
	return err
}

// Close frees the index of results; it can be made again.
func (r *Results) Close() error { return r.offsets.Close() }

// Each calls visit for every record, in input order or in the order in which they finished. The payload is valid only
// during the call.
func (r *Results) Each(inputOrder bool, visit func(journal.Frame) error) error {
	r.Totals = Totals{FinishReasons: map[string]int64{}, Errors: map[ErrorKey]int64{}}
	counted := func(f journal.Frame) error {
		r.Totals.count(f)
		return visit(f)
	}
	if inputOrder {
		return r.eachByInput(counted)
	}
	return r.eachByCompletion(counted)
}

func (r *Results) eachByInput(visit func(journal.Frame) error) error {
	in := bufio.NewReaderSize(io.NewSectionReader(r.offsets, 0, int64(r.batch.Meta.Requests)*8), 1<<18)
	frames := r.batch.journal.Reader()
	for range r.batch.Meta.Requests {
		at, err := readOffset(in)
		if err != nil {
			return err
		}
		f, err := frames.Read(at)
		if err != nil {
			return fmt.Errorf("read result of %s at %d: %w", r.batch.Meta.ID, at, err)
		}
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

func (r *Results) eachByCompletion(visit func(journal.Frame) error) error {
	return r.batch.eachResult(func(at int64, f journal.Frame) error {
		var b [8]byte
		if _, err := r.offsets.ReadAt(b[:], int64(f.Seq)*8); err != nil {
			return err
		}
		if int64(binary.LittleEndian.Uint64(b[:])) != at {
			return nil // a second record of the same request: the first one counts
		}
		return visit(f)
	})
}

func (t *Totals) count(f journal.Frame) {
	t.PromptTokens += uint64(f.PromptTokens)
	t.CompletionTokens += uint64(f.CompletionTokens)
	if f.Kind == journal.KindOutput {
		t.Completed++
		if reason := f.Finish.String(); reason != "" {
			t.FinishReasons[reason]++
		}
		return
	}
	t.Failed++
	code, message := batchfile.ErrorSummary(f.Payload)
	key := ErrorKey{code, message}
	if _, known := t.Errors[key]; !known && len(t.Errors) >= maxErrorKeys {
		key.Message = ""
	}
	t.Errors[key]++
}

func readOffset(r *bufio.Reader) (int64, error) {
	b, err := r.Peek(8)
	if err != nil {
		return 0, err
	}
	at := int64(binary.LittleEndian.Uint64(b))
	_, err = r.Discard(8)
	return at, err
}

// offsetWriter fills a file of offsets. Results finish nearly in input order, so that sorting a few thousand of them
// makes runs that are written at once.
type offsetWriter struct {
	f       durable.File
	pending []offsetRow
	buf     []byte
}

type offsetRow struct {
	seq uint32
	at  int64
}

func (w *offsetWriter) put(seq uint32, at int64) error {
	w.pending = append(w.pending, offsetRow{seq, at})
	if len(w.pending) < WindowSize {
		return nil
	}
	return w.flush()
}

func (w *offsetWriter) flush() error {
	slices.SortStableFunc(w.pending, func(a, b offsetRow) int { return int(int64(a.seq) - int64(b.seq)) })
	w.pending = slices.CompactFunc(w.pending, func(a, b offsetRow) bool { return a.seq == b.seq }) // keeps the first
	for rows := w.pending; len(rows) > 0; {
		n := 1
		for n < len(rows) && rows[n].seq == rows[0].seq+uint32(n) {
			n++
		}
		if err := w.writeRun(rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	w.pending = w.pending[:0]
	return nil
}

// writeRun writes the offsets of consecutive requests, except where an earlier record stands.
func (w *offsetWriter) writeRun(rows []offsetRow) error {
	size, at := len(rows)*8, int64(rows[0].seq)*8
	w.buf = slices.Grow(w.buf[:0], size)[:size]
	if _, err := w.f.ReadAt(w.buf, at); err != nil {
		return err
	}
	for i, r := range rows {
		if slot := w.buf[i*8:]; binary.LittleEndian.Uint64(slot) == 0 {
			binary.LittleEndian.PutUint64(slot, uint64(r.at))
		}
	}
	_, err := w.f.WriteAt(w.buf, at)
	return err
}
