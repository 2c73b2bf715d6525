// Package store keeps batches so that no crash loses or doubles a line: a bbolt index, and a folder for each batch with
// its input's snapshot, a line index and a journal of results.
//
// The order of durability, which recovery relies on:
//
//  1. snapshot, line index and meta.json are synced, then the batch is committed to bbolt: accepted
//  2. results are appended to the journal; each second the journals are synced, then a checkpoint is committed
//  3. before the first result file appears a publish frame is synced; after the last one a done frame
//
// bbolt is an index: whatever stands only there can be found again in the batch folders, which Rebuild does.
package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/go-json-experiment/json"
	"go.etcd.io/bbolt"

	"stoker/store/durable"
	"stoker/store/journal"
)

var (
	// ErrInUse means that another process holds the state folder.
	ErrInUse = errors.New("state is in use by another process")
	// ErrNoState means that the state folder holds no state yet.
	ErrNoState = errors.New("no state yet")
	// ErrNotFound means that there is no such batch.
	ErrNotFound = errors.New("no such batch")
)

var (
	bucketBatches  = []byte("batches")  // id → Record as JSON
	bucketProgress = []byte("progress") // id → Progress
	bucketNames    = []byte("names")    // queue/NAME → id: reserved for result files
	bucketActive   = []byte("active")   // queue/INPUT NAME/sha256 → id: until finalizing
	bucketInputs   = []byte("inputs")   // the same → id of the first batch of this file, also once it has ended; see inputs.go
	bucketInfo     = []byte("info")     // instance → this stoker's id
	keyInstance    = []byte("instance")
)

// buckets are those that every database has. Older ones have no bucketInputs until they are opened for writing.
func buckets() [][]byte {
	return [][]byte{bucketBatches, bucketProgress, bucketNames, bucketActive, bucketInfo}
}

// Store is an open state folder. Its methods may be called from several goroutines; a Batch belongs to one at a time.
type Store struct {
	dir      string
	fs       durable.FS // of the batch folders
	db       *database
	lock     *os.File // of the state folder
	readOnly bool     // no daemon runs
	instance string
	health   *health
	writes   durable.Group[*change]
	space    func(dir string) (durable.Space, error)

	mu       sync.Mutex
	reserved map[string]struct{} // names of admissions under way

	indexing sync.Mutex
	indexed  bool // the index of inputs is right
}

// Close lets go of the state. Batches must be closed before.
func (s *Store) Close() error {
	var err error
	if s.db != nil {
		err = s.db.Close()
	}
	return errors.Join(err, s.lock.Close())
}

// Instance is this stoker's id, which names its folder under .processing.
func (s *Store) Instance() string { return s.instance }

// Dir is the state folder.
func (s *Store) Dir() string { return s.dir }

func (s *Store) batchDir(id string) string { return filepath.Join(s.dir, batchesDir, id) }

// Get returns a batch's record, or ErrNotFound.
func (s *Store) Get(id string) (*Record, error) {
	var r *Record
	err := s.view(func(tx *bbolt.Tx) (err error) {
		r, err = getRecord(tx, id)
		return err
	})
	return r, err
}

// List returns the records of all batches, oldest first. Records that cannot be read are left out: Census has them.
func (s *Store) List() ([]*Record, error) {
	var all []*Record
	err := s.eachRecord(func(id string, r *Record, err error) {
		if err == nil {
			all = append(all, r)
		}
	})
	return all, err
}

// BadRecord is a record that cannot be read. Its batch waits until Rebuild finds it again in its folder.
type BadRecord struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// Census counts the batches by their states, and returns the records that cannot be read.
func (s *Store) Census() (states map[State]int, bad []BadRecord, err error) {
	states = map[State]int{}
	err = s.eachRecord(func(id string, r *Record, err error) {
		if err != nil {
			bad = append(bad, BadRecord{id, err.Error()})
		} else {
			states[r.State]++
		}
	})
	return states, bad, err
}

func (s *Store) eachRecord(visit func(id string, r *Record, err error)) error {
	return s.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketBatches).ForEach(func(k, v []byte) error {
			r, err := decodeRecord(string(k), v)
			visit(string(k), r, err)
			return nil
		})
	})
}

// Progress returns how far a batch was at its last checkpoint. A damaged checkpoint counts as none, as it does when the
// batch is opened: that reads the journal instead. Verify reports it.
func (s *Store) Progress(id string) (*Progress, error) {
	p, err := s.checkpoint(id)
	if errors.Is(err, errProgress) {
		return new(Progress), nil
	}
	return p, err
}

// checkpoint returns a batch's last checkpoint, or errProgress if it is damaged.
func (s *Store) checkpoint(id string) (*Progress, error) {
	var p *Progress
	err := s.view(func(tx *bbolt.Tx) (err error) {
		p, err = getProgress(tx, id)
		return err
	})
	return p, err
}

// Meta returns what was fixed about a batch when it was accepted.
func (s *Store) Meta(id string) (*Meta, error) { return readMeta(s.fs, s.batchDir(id)) }

func getRecord(tx *bbolt.Tx, id string) (*Record, error) {
	v := tx.Bucket(bucketBatches).Get([]byte(id))
	if v == nil {
		return nil, fmt.Errorf("batch %s: %w", id, ErrNotFound)
	}
	return decodeRecord(id, v)
}

// errBadRecord means that a batch's record cannot be read.
var errBadRecord = errors.New("bad record")

// blockedError means that a record only says why Rebuild could make none of the batch's folder.
type blockedError struct{ reason string }

func (e *blockedError) Error() string { return e.reason }

func ignoreBadRecord(err error) error {
	if errors.Is(err, errBadRecord) {
		return nil
	}
	return err
}

// decodeRecord reads a record and holds it against its key: bbolt's pages carry no checksum.
func decodeRecord(id string, v []byte) (*Record, error) {
	r := new(Record)
	err := json.Unmarshal(v, r)
	switch {
	case err != nil:
	case r.Unreadable != "":
		err = &blockedError{r.Unreadable}
	case r.ID != id:
		err = fmt.Errorf("it is of %q", r.ID)
	case !r.State.known():
		err = fmt.Errorf("%q is no state", r.State)
	default:
		return r, nil
	}
	return nil, fmt.Errorf("%w of %s: %w", errBadRecord, id, err)
}

func putRecord(tx *bbolt.Tx, r *Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record of %s: %w", r.ID, err)
	}
	return tx.Bucket(bucketBatches).Put([]byte(r.ID), b)
}

func getProgress(tx *bbolt.Tx, id string) (*Progress, error) {
	v := tx.Bucket(bucketProgress).Get([]byte(id))
	if v == nil {
		return &Progress{Offset: journal.Start}, nil
	}
	p, err := decodeProgress(v)
	if err != nil {
		return nil, fmt.Errorf("read progress of %s: %w", id, err)
	}
	return p, nil
}
