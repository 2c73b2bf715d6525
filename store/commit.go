package store

import (
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"stoker/store/faults"
	"stoker/store/journal"
)

// Checkpoint is a batch's progress at one moment, for Store.Commit to make durable.
type Checkpoint struct {
	id       string
	journal  *journal.Journal
	progress []byte
	suspects int
	begun    int64
	engine   Engine
	Results  uint32 // how many requests have their record at this checkpoint
}

// Checkpoint takes the batch's progress down. Engine is what answers its requests now; zero if nothing does.
func (b *Batch) Checkpoint(engine Engine) (Checkpoint, error) {
	if err := b.noteEngine(engine); err != nil {
		return Checkpoint{}, fmt.Errorf("batch %s: %w", b.Meta.ID, err)
	}
	if err := b.journal.Flush(); err != nil {
		return Checkpoint{}, fmt.Errorf("batch %s: %w", b.Meta.ID, err)
	}
	b.progress.Offset = b.journal.Size()
	return Checkpoint{
		id: b.Meta.ID, journal: b.journal, progress: b.progress.encode(), suspects: len(b.suspects),
		begun: b.begun, engine: engine, Results: b.progress.Records(),
	}, nil
}

// answering is what an engine frame holds, so that the journal tells what the database does.
type answering struct {
	Begun  int64  `json:"begun"` // when the batch's first request was handed out, Unix milliseconds
	Engine Engine `json:"engine"`
}

// noteEngine adds an engine to the journal that is new to the batch and has answered.
func (b *Batch) noteEngine(e Engine) error {
	if b.begun == 0 || b.progress.Records() == 0 || e == (Engine{}) || slices.Contains(b.engines, e) {
		return nil
	}
	payload, err := json.Marshal(answering{b.begun, e})
	if err != nil {
		return fmt.Errorf("encode engine frame: %w", err)
	}
	b.engines = append(b.engines, e)
	return b.journal.Append(journal.Frame{Kind: journal.KindEngine, Payload: payload})
}

// Commit makes checkpoints durable: it syncs the journals, then writes all progress in one transaction. A
// *durable.FullError says that the database has no room and the checkpoints are to be committed again later; any other
// error is final: what the disk holds is known again only after the process has started anew and read it.
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

// syncsAtOnce is how many journals are synced at a time: filesystems do several syncs for the price of one.
const syncsAtOnce = 16

func syncJournals(checkpoints []Checkpoint) error {
	var all errgroup.Group
	all.SetLimit(syncsAtOnce)
	for _, c := range checkpoints {
		all.Go(func() error {
			if err := c.journal.Datasync(); err != nil {
				return fmt.Errorf("sync journal of %s: %w", c.id, err)
			}
			return nil
		})
	}
	return all.Wait()
}

func (s *Store) putCheckpoints(checkpoints []Checkpoint) error {
	err := s.write(func(tx *bbolt.Tx) error {
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
