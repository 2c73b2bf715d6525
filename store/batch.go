package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"stoker/store/batchfile"
	"stoker/store/durable"
	"stoker/store/journal"
)

// Batch is an open batch: its requests to read and its journal to append to. It belongs to one goroutine at a time.
type Batch struct {
	Meta   *Meta
	Record *Record
	// Recovered says what opening the batch found behind its last checkpoint.
	Recovered Recovery

	store       *Store
	dir         string
	snapshot    snapshotReader
	journal     *journal.Journal
	progress    Progress
	suspects    map[uint32]int
	publication *Publication
	published   bool       // a done frame was seen
	names       []FileName // of all publish frames that were seen
	engines     []Engine   // what answered, as far as the journal was read or the record knows
	parser      batchfile.Parser
	begun       int64    // when the first request was handed out, or failed without the engine, Unix milliseconds
	cursor      uint32   // the next request to take
	former      window   // requests that a former life handed out: those without a record run again
	noted       uint32   // the journal knows that all below this were handed out
	unnoted     []uint32 // handed out since then, out of turn
	again       []uint32 // damaged results to take before that
}

// OpenBatch opens a batch that has not ended, and recovers it: whole results behind the last checkpoint are adopted, a
// torn tail is cut off. That may take minutes, where a whole journal is read. A batch that was not opened because the
// context ended is as it was.
func (s *Store) OpenBatch(ctx context.Context, id string) (*Batch, error) {
	b, err := s.openBatch(id, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	err = b.checkSnapshot()
	if err == nil {
		err = b.recover(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("recover batch %s: %w", id, err), b.Close())
	}
	return b, nil
}

// checkSnapshot refuses a snapshot or a line index that lost a part, before any of it runs.
func (b *Batch) checkSnapshot() error {
	if err := checkSize(b.snapshot.input, b.Meta.Input.Snapshot); err != nil {
		return fmt.Errorf("snapshot %w", err)
	}
	if err := checkSize(b.snapshot.index, int64(b.Meta.Requests)*rowSize); err != nil {
		return fmt.Errorf("line index %w", err)
	}
	return nil
}

func checkSize(f durable.File, want int64) error {
	st, err := f.Stat()
	if err == nil && st.Size() != want {
		err = fmt.Errorf("is %d bytes long, not %d", st.Size(), want)
	}
	return err
}

func (s *Store) openBatch(id string, mode int) (_ *Batch, err error) {
	b := &Batch{store: s, dir: s.batchDir(id), suspects: map[uint32]int{}}
	defer func() {
		if err != nil {
			b.Close()
			err = fmt.Errorf("open batch %s: %w", id, err)
		}
	}()
	if b.Record, err = s.Get(id); err != nil {
		return nil, err
	}
	b.begun, b.engines = b.Record.InProgressAt, slices.Clone(b.Record.Engines)
	if b.Meta, err = readMeta(s.fs, b.dir); err != nil {
		return nil, err
	}
	if err = b.Meta.check(b.Record); err != nil {
		return nil, err
	}
	p, err := s.checkpoint(id)
	if err != nil && !errors.Is(err, errProgress) {
		return nil, err
	}
	if err == nil {
		b.progress = *p
	} // else its offset is 0, which no checkpoint has: the journal is read from its start
	if b.snapshot.input, err = s.fs.OpenFile(filepath.Join(b.dir, inputFile), os.O_RDONLY, 0); err != nil {
		return nil, err
	}
	if b.snapshot.index, err = s.fs.OpenFile(filepath.Join(b.dir, indexFile), os.O_RDONLY, 0); err != nil {
		return nil, err
	}
	b.journal, err = journal.Open(s.fs, filepath.Join(b.dir, journalFile), mode)
	return b, err
}

// Close lets go of the batch's files. Buffered frames are written first, so that only a crash has to redo them.
func (b *Batch) Close() error {
	var err error
	if b.journal != nil {
		err = errors.Join(b.journal.Flush(), b.journal.Close())
	}
	for _, f := range []durable.File{b.snapshot.input, b.snapshot.index} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// Progress is how far the batch is, checkpointed or not.
func (b *Batch) Progress() *Progress { return &b.progress }

// Complete reports whether every request has its record.
func (b *Batch) Complete() bool { return b.progress.Records() == b.Meta.Requests }

// Next takes a request that is to run, in input order; HandOut follows if it is given to the engine. It reports false at the
// end, and while results run WindowSize ahead of the oldest missing one.
func (b *Batch) Next() (seq uint32, ok bool) {
	for len(b.again) > 0 {
		seq, b.again = b.again[0], b.again[1:]
		if !b.progress.Has(seq) {
			return seq, true
		}
	}
	b.seek()
	if b.cursor >= b.Meta.Requests || b.cursor-b.progress.done.low >= WindowSize {
		return 0, false
	}
	seq = b.cursor
	b.cursor++
	return seq, true
}

// seek moves the cursor to the next request without a record.
func (b *Batch) seek() {
	b.cursor = max(b.cursor, b.progress.done.low)
	for b.cursor < b.Meta.Requests && b.progress.Has(b.cursor) {
		b.cursor++
	}
}

func (b *Batch) noteBegun() {
	if b.begun == 0 {
		b.begun = now()
	}
}

// Left is how many requests Next will still return, at most.
func (b *Batch) Left() int {
	return len(b.again) + int(b.Meta.Requests-max(b.cursor, b.progress.done.low))
}

// LeftBytes is how long the lines of these requests are, at most. An error is that of reading the line index.
func (b *Batch) LeftBytes() (n int64, err error) {
	for _, seq := range b.again {
		w, err := b.snapshot.row(seq)
		if err != nil {
			return 0, err
		}
		n += int64(w.length)
	}
	if b.seek(); b.cursor >= b.Meta.Requests {
		return n, nil
	}
	w, err := b.snapshot.row(b.cursor)
	return n + b.Meta.Input.Snapshot - w.offset, err
}

// Rest takes all requests that Next would still return, in input order, so that they can be handed out in another one. It
// takes none if the window is in the way.
func (b *Batch) Rest() (rest []uint32) {
	if b.Meta.Requests-b.progress.done.low > WindowSize {
		return nil
	}
	for seq, ok := b.Next(); ok; seq, ok = b.Next() {
		rest = append(rest, seq)
	}
	return rest
}

// HandOut notes that a request is given to the engine, for the first time in this life, and reports whether a former life gave
// it to one, too: then it counts as run again. Those of damaged results were counted when they were found.
func (b *Batch) HandOut(seq uint32) (again bool) {
	b.noteBegun()
	_, counted := slices.BinarySearch(b.progress.redo, seq)
	if again = b.former.has(seq) && !counted; again {
		b.progress.Redone++
	}
	if b.progress.handed.has(seq) {
		return again
	}
	b.progress.handed.reach(seq)
	if seq >= b.progress.handed.low {
		b.unnoted = append(b.unnoted, seq)
	}
	return again
}

// Deaths is how often the engine died while it held the request, as far as the journal knows.
func (b *Batch) Deaths(seq uint32) int { return b.suspects[seq] }

// Request reads and parses a request. A line that cannot run is a *batchfile.LineError; any other error is the disk's.
// The request aliases a buffer that the next call overwrites.
func (b *Batch) Request(seq uint32) (batchfile.Request, error) {
	w, err := b.snapshot.row(seq)
	if err != nil {
		return batchfile.Request{}, err
	}
	text, err := b.snapshot.line(w)
	if err != nil {
		return batchfile.Request{}, err
	}
	if w.flags&rowTooLong != 0 {
		line := batchfile.Line{Number: int64(w.line), Offset: w.offset, Length: int64(w.length), TooLong: true, Head: text}
		return batchfile.Request{}, batchfile.TooLongError(line, int(b.Meta.MaxLine))
	}
	if w.flags&rowInvalid == 0 {
		return b.parser.ParseAgain(text, int64(w.line))
	}
	req, err := b.parser.Parse(text, int64(w.line))
	if err == nil && w.flags&rowDuplicate != 0 {
		err = batchfile.DuplicateError(req.Ref, int64(w.first))
	}
	return req, err
}

// Append adds a result or a suspect to the journal. A result for a request that has one is ignored, which fresh
// reports. After ENOSPC the frame is kept and written with the next one.
func (b *Batch) Append(f journal.Frame) (fresh bool, err error) {
	if f.Seq >= b.Meta.Requests {
		return false, fmt.Errorf("batch %s: append frame of request %d: there are %d", b.Meta.ID, f.Seq, b.Meta.Requests)
	}
	if f.Kind.IsResult() {
		if fresh, err = b.progress.count(f); err != nil || !fresh {
			return fresh, err
		}
		b.noteBegun()
	}
	if err := b.enter(f); err != nil {
		return false, err
	}
	if err := b.journal.Append(f); err != nil {
		return false, fmt.Errorf("batch %s: %w", b.Meta.ID, err)
	}
	return true, nil
}

// Buffered is how many bytes of frames wait to be written, because there was no room for them.
func (b *Batch) Buffered() int { return b.journal.Buffered() }

// Size is how many bytes the batch's records take up, a little more than their result files do.
func (b *Batch) Size() int64 { return b.journal.Size() }

// Flush hands appended frames to the operating system: they survive the death of the process, not a power cut. Which
// requests were handed out goes with them, so that the next life can say what it runs again.
func (b *Batch) Flush() error {
	if low := b.progress.handed.low; low > b.noted || len(b.unnoted) > 0 {
		f := journal.Frame{Kind: journal.KindHanded, Seq: low, Payload: encodeSeqs(b.unnoted)}
		b.noted, b.unnoted = low, b.unnoted[:0]
		if err := b.journal.Append(f); err != nil {
			return err
		}
	}
	return b.journal.Flush()
}
