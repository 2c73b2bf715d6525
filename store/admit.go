package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"go.etcd.io/bbolt"

	"stoker/store/durable"
	"stoker/store/faults"
	"stoker/store/journal"
)

var (
	// ErrTruncated means that an input's compressed stream ends early: more may come.
	ErrTruncated = errors.New("compressed stream is cut off")
	// ErrNoNewline means that an input's last line has no end: more may come.
	ErrNoNewline = errors.New("last line has no newline")
	// ErrChanged means that an input changed while it was copied.
	ErrChanged = errors.New("file changed while it was copied")
)

// Duplicate means that a batch with the same queue, name and bytes has not ended. It is an error so that Admit can
// return it.
type Duplicate struct{ Of string }

func (d *Duplicate) Error() string { return "same file as batch " + d.Of + ", which has not ended" }

// Admission is a claimed file that is to become a batch.
type Admission struct {
	ID       string     // as claimed
	FS       durable.FS // where the claimed file is; nil: the machine's own
	Path     string     // of the claimed file
	Queue    string
	Defaults map[string]any
	Metadata map[string]string
	MaxLine  int64 // bytes
	Strict   bool  // refuse the batch for one bad line
	// Complete says that nothing more is expected: a cut-off stream is refused and a last line without newline taken,
	// instead of ErrTruncated and ErrNoNewline.
	Complete bool
	// NameTaken reports whether the outbox already holds result files of this name.
	NameTaken func(queue string, name FileName) (bool, error)
	// SkipEnded makes a batch that has ended count as one that this file duplicates.
	SkipEnded bool
}

// maxModels bounds the list of models that a batch's requests name.
const maxModels = 32

// Admit makes a claimed file a batch: it copies the file into the state folder while hashing, counting and indexing it,
// reserves a name for its results and commits it. Once it returns the inbox may vanish. Errors that ask for patience are
// ErrTruncated, ErrNoNewline and ErrChanged, and a *durable.FullError while the state has no room; a *Duplicate asks for
// moving the file away, and a *FinalError for a new start. A file without a valid line
// becomes a batch too, with Meta.Refused set. A batch that is accepted already is returned as it is.
func (s *Store) Admit(ctx context.Context, a Admission) (*Record, error) {
	if r, err := s.Get(a.ID); !errors.Is(err, ErrNotFound) {
		return r, err
	}
	if err := s.indexInputs(); err != nil { // when it was opened there was no room
		return nil, fmt.Errorf("admit %s: %w", a.Path, err)
	}
	if a.FS == nil {
		a.FS = durable.Local{}
	}
	dir := s.batchDir(a.ID)
	if err := s.health.check(); err != nil {
		return nil, fmt.Errorf("admit %s: %w", a.Path, err)
	}
	if s.hasResults(a.ID) { // which no batch has before it is accepted: the database is older than its folders
		return nil, fmt.Errorf("admit %s: %w: it does not know batch %s, whose folder has results", a.Path, ErrDamagedDB, a.ID)
	}
	if err := s.fs.RemoveAll(dir); err != nil { // what an admission that a crash cut off left behind
		return nil, fmt.Errorf("admit %s: %w", a.Path, err)
	}
	if err := s.fs.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("admit %s: %w", a.Path, s.lacking(err))
	}
	r, err := s.admit(ctx, dir, a)
	if err != nil {
		if !errors.Is(err, errCommit) || durable.IsFull(err) { // else the record may be on the disk all the same: it needs its folder
			s.fs.RemoveAll(dir) // half a snapshot would use up the room that is lacking
		}
		return nil, fmt.Errorf("admit %s: %w", a.Path, s.lacking(err))
	}
	return r, nil
}

// errCommit means that a commit failed, and that nobody knows how far it came.
var errCommit = errors.New("commit")

func (s *Store) admit(ctx context.Context, dir string, a Admission) (*Record, error) {
	m, err := takeSnapshot(ctx, thrifty{s.fs, s.Room}, dir, a)
	if err != nil {
		return nil, err
	}
	if err := s.view(func(tx *bbolt.Tx) error { return refuseDuplicate(tx, m, a.SkipEnded) }); err != nil {
		return nil, err
	}
	stem, _, _ := SplitInputName(string(m.Input.Name))
	m.Name, err = s.reserveName(a.Queue, FileName(stem), a.NameTaken)
	if err != nil {
		return nil, err
	}
	defer s.unreserve(a.Queue, m.Name) // bbolt holds it from here on
	if err := journal.Create(s.fs, filepath.Join(dir, journalFile)); err != nil {
		return nil, err
	}
	if err := writeMeta(s.fs, dir, m); err != nil { // syncs dir
		return nil, err
	}
	if err := durable.SyncDir(s.fs, filepath.Dir(dir)); err != nil {
		return nil, err
	}
	faults.Crash("admit.snapshot-synced")
	return s.accept(m, a.SkipEnded)
}

func (s *Store) accept(m *Meta, skipEnded bool) (*Record, error) {
	r := newRecord(m)
	err := s.write(func(tx *bbolt.Tx) error {
		if err := refuseDuplicate(tx, m, skipEnded); err != nil { // of one that was accepted while this one was copied
			return err
		}
		if err := tx.Bucket(bucketActive).Put(inputKey(m.Queue, m.Input), []byte(m.ID)); err != nil {
			return err
		}
		if err := enterInput(tx, r); err != nil {
			return err
		}
		if err := tx.Bucket(bucketNames).Put(nameKey(m.Queue, m.Name), []byte(m.ID)); err != nil {
			return err
		}
		return putRecord(tx, r)
	})
	if _, duplicate := errors.AsType[*Duplicate](err); duplicate {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCommit, err)
	}
	faults.Crash("admit.accepted")
	return r, nil
}

// reserveName finds a free name: NAME, NAME~2, NAME~3, … It stays reserved until unreserve.
func (s *Store) reserveName(queue string, name FileName, taken func(string, FileName) (bool, error)) (FileName, error) {
	for n := 1; ; n++ {
		candidate := name
		if n > 1 {
			candidate += FileName("~" + strconv.Itoa(n))
		}
		ok, err := s.tryReserve(queue, candidate, taken)
		if err != nil {
			return "", fmt.Errorf("reserve name %q: %w", candidate, err)
		}
		if ok {
			return candidate, nil
		}
	}
}

// tryReserve reserves a name unless a batch, an admission under way or the outbox has it.
func (s *Store) tryReserve(queue string, name FileName, taken func(string, FileName) (bool, error)) (bool, error) {
	free, err := s.hold(nameKey(queue, name))
	if err != nil || !free {
		return false, err
	}
	exists, err := taken(queue, name)
	if err != nil || exists {
		s.unreserve(queue, name)
	}
	return err == nil && !exists, err
}

func (s *Store) hold(key []byte) (free bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, busy := s.reserved[string(key)]; busy {
		return false, nil
	}
	err = s.view(func(tx *bbolt.Tx) error {
		free = tx.Bucket(bucketNames).Get(key) == nil
		return nil
	})
	if free {
		s.reserved[string(key)] = struct{}{}
	}
	return free, err
}

func (s *Store) unreserve(queue string, name FileName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.reserved, string(nameKey(queue, name)))
}
