package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/bbolt"

	"stoker/store/batchfile"
	"stoker/store/faults"
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
	journal     *journal
	progress    Progress
	suspects    map[uint32]int
	publication *Publication
	published   bool // a done frame was seen
	parser      batchfile.Parser
	begun       int64    // when the first request was handed out, Unix milliseconds
	cursor      uint32   // the next request to hand out
	again       []uint32 // damaged results to hand out before that
}

// Recovery is what was found in a journal behind the last checkpoint.
type Recovery struct {
	Adopted   int   // whole results, kept
	Doubled   int   // results of requests that had one already, ignored
	CutBytes  int64 // torn tail, cut off
	Redone    uint32
	Rescanned bool // the checkpoint was of no use, so that the whole journal was read
}

// OpenBatch opens a batch that has not ended, and recovers it: whole results behind the last checkpoint are adopted, a
// torn tail is cut off.
func (s *Store) OpenBatch(id string) (*Batch, error) {
	b, err := s.openBatch(id, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := b.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("recover batch %s: %w", id, err), b.Close())
	}
	return b, nil
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
	b.begun = b.Record.InProgressAt
	if b.Meta, err = readMeta(b.dir); err != nil {
		return nil, err
	}
	p, err := s.Progress(id)
	if err != nil && !errors.Is(err, errProgress) {
		return nil, err
	}
	if err == nil {
		b.progress = *p
	} // else the journal is read from its start
	if b.snapshot.input, err = os.Open(filepath.Join(b.dir, inputFile)); err != nil {
		return nil, err
	}
	if b.snapshot.index, err = os.Open(filepath.Join(b.dir, indexFile)); err != nil {
		return nil, err
	}
	b.journal, err = openJournal(filepath.Join(b.dir, journalFile), mode)
	return b, err
}

// recover reads the journal behind the checkpoint.
func (b *Batch) recover() error {
	if b.progress.Offset < int64(len(journalHead)) || b.progress.Offset > b.journal.offset {
		// No checkpoint, a damaged one, or one ahead of the journal: results count from the start again.
		b.progress = Progress{Offset: int64(len(journalHead)), Redone: b.progress.Redone}
		b.Recovered.Rescanned = b.Record.State != Validating
	}
	if err := b.readControlFrames(); err != nil {
		return err
	}
	before := b.progress.HandedOut
	valid, err := scanJournal(b.journal.f, b.progress.Offset, b.journal.offset, false, b.adopt)
	if err != nil {
		return err
	}
	b.Recovered.CutBytes = b.journal.offset - valid
	if !faults.Planted("tail-not-cut") {
		if err := b.journal.truncate(valid); err != nil {
			return err
		}
	}
	b.progress.Offset = valid
	b.progress.HandedOut = max(b.progress.HandedOut, before)
	b.Recovered.Redone = b.progress.HandedOut - b.progress.Records()
	b.progress.Redone += b.Recovered.Redone
	b.again = slices.Clone(b.progress.redo)
	return nil
}

// adopt enters a frame that was found behind the checkpoint.
func (b *Batch) adopt(_ int64, f Frame) error {
	if !f.Kind.IsResult() {
		return b.control(f)
	}
	if f.Seq >= b.Meta.Requests {
		return fmt.Errorf("result of request %d in a batch of %d", f.Seq, b.Meta.Requests)
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
func (b *Batch) readControlFrames() error {
	if b.Record.State != Finalizing && b.Record.Suspects == 0 {
		return nil
	}
	_, err := scanJournal(b.journal.f, int64(len(journalHead)), b.progress.Offset, true, func(_ int64, f Frame) error {
		if f.Kind.IsResult() {
			return nil
		}
		return b.control(f)
	})
	return err
}

func (b *Batch) control(f Frame) error {
	switch f.Kind {
	case KindSuspect:
		b.suspects[f.Seq] = int(f.Status)
	case KindPublish:
		p, err := decodePublication(f.Payload)
		if err != nil {
			return err
		}
		b.publication = p
	case KindDone:
		b.published = true
	}
	return nil
}

// Close lets go of the batch's files. Buffered frames are written first, so that only a crash has to redo them.
func (b *Batch) Close() error {
	var err error
	if b.journal != nil {
		err = errors.Join(b.journal.flush(), b.journal.close())
	}
	for _, f := range []*os.File{b.snapshot.input, b.snapshot.index} {
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

// Next returns a request that is to be given to the engine, in input order. It reports false at the end, and while
// results run WindowSize ahead of the oldest missing one.
func (b *Batch) Next() (seq uint32, ok bool) {
	if len(b.again) > 0 {
		seq, b.again = b.again[0], b.again[1:]
		return seq, true
	}
	b.cursor = max(b.cursor, b.progress.done.low)
	for b.cursor < b.Meta.Requests && b.progress.Has(b.cursor) {
		b.cursor++
	}
	if b.cursor >= b.Meta.Requests || b.cursor-b.progress.done.low >= WindowSize {
		return 0, false
	}
	if b.begun == 0 {
		b.begun = now()
	}
	seq = b.cursor
	b.cursor++
	b.progress.HandedOut = max(b.progress.HandedOut, b.cursor)
	return seq, true
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
	if w.flags&rowTooLong != 0 {
		head, err := b.snapshot.head(w)
		if err != nil {
			return batchfile.Request{}, err
		}
		line := batchfile.Line{Number: int64(w.line), Offset: w.offset, Length: int64(w.length), TooLong: true, Head: head}
		return batchfile.Request{}, batchfile.TooLongError(line, int(b.Meta.MaxLine))
	}
	text, err := b.snapshot.line(w)
	if err != nil {
		return batchfile.Request{}, err
	}
	req, err := b.parser.Parse(text, int64(w.line))
	if err == nil && w.flags&rowDuplicate != 0 {
		err = batchfile.DuplicateError(req.Ref, 0)
	}
	return req, err
}

// Append adds a frame to the journal. A result for a request that has one is ignored, which fresh reports.
func (b *Batch) Append(f Frame) (fresh bool, err error) {
	if f.Kind.IsResult() {
		if fresh, err = b.progress.count(f); err != nil || !fresh {
			return fresh, err
		}
	}
	if err := b.journal.append(f); err != nil {
		return false, fmt.Errorf("batch %s: %w", b.Meta.ID, err)
	}
	if f.Kind == KindSuspect {
		b.suspects[f.Seq] = int(f.Status)
	}
	return true, nil
}

// Flush hands appended frames to the operating system: they survive the death of the process, not a power cut.
func (b *Batch) Flush() error { return b.journal.flush() }

// Checkpoint is a batch's progress at one moment, for Store.Commit to make durable.
type Checkpoint struct {
	id       string
	journal  *os.File
	progress []byte
	suspects int
	begun    int64
	engine   Engine
	Results  uint32 // how many requests have their record at this checkpoint
}

// Checkpoint takes the batch's progress down. Engine is what answers its requests now; zero if nothing does.
func (b *Batch) Checkpoint(engine Engine) (Checkpoint, error) {
	if err := b.journal.flush(); err != nil {
		return Checkpoint{}, fmt.Errorf("batch %s: %w", b.Meta.ID, err)
	}
	b.progress.Offset = b.journal.offset
	return Checkpoint{
		id: b.Meta.ID, journal: b.journal.f, progress: b.progress.encode(), suspects: len(b.suspects),
		begun: b.begun, engine: engine, Results: b.progress.Records(),
	}, nil
}

// Commit makes checkpoints durable: it syncs the journals, then writes all progress in one transaction. An error is
// final: what the disk holds is known again only after the process has started anew and read it.
func (s *Store) Commit(checkpoints []Checkpoint) error {
	write := func() error { return s.putCheckpoints(checkpoints) }
	sync := func() error { return syncJournals(checkpoints) }
	if faults.Planted("checkpoint-first") {
		write, sync = sync, write
	}
	if err := sync(); err != nil {
		return err
	}
	faults.Crash("commit.journals-synced")
	if err := write(); err != nil {
		return err
	}
	faults.Crash("commit.checkpointed")
	return nil
}

func syncJournals(checkpoints []Checkpoint) error {
	for _, c := range checkpoints {
		if err := fdatasync(c.journal); err != nil {
			return fmt.Errorf("sync journal of %s: %w", c.id, err)
		}
	}
	return nil
}

func (s *Store) putCheckpoints(checkpoints []Checkpoint) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for _, c := range checkpoints {
			if err := putCheckpoint(tx, c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("commit checkpoint: %w", err)
	}
	return nil
}

func putCheckpoint(tx *bbolt.Tx, c Checkpoint) error {
	if err := tx.Bucket(bucketProgress).Put([]byte(c.id), c.progress); err != nil {
		return err
	}
	r, err := getRecord(tx, c.id)
	if err != nil {
		return err
	}
	if !r.checkpointed(c) {
		return nil
	}
	return putRecord(tx, r)
}

// checkpointed enters what a checkpoint says beside the progress, and reports whether that is news.
func (r *Record) checkpointed(c Checkpoint) bool {
	news := r.Suspects != c.suspects
	r.Suspects = c.suspects
	if r.State == Validating && c.begun != 0 {
		r.State, r.InProgressAt, news = InProgress, c.begun, true
	}
	if c.begun != 0 && c.engine != (Engine{}) && !slices.Contains(r.Engines, c.engine) {
		r.Engines, news = append(r.Engines, c.engine), true
	}
	return news
}
