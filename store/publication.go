package store

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"go.etcd.io/bbolt"

	"stoker/store/durable"
	"stoker/store/faults"
	"stoker/store/journal"
)

// Publication is what a batch's publish frame holds: enough to go on after a crash between two renames, and to know
// each file again.
type Publication struct {
	Name       FileName        `json:"name"`
	State      State           `json:"state"` // Completed or Failed
	InputOrder bool            `json:"input_order"`
	Changed    bool            `json:"changed_after_claim"` // the input differs from its snapshot
	Files      []PublishedFile `json:"files"`
	Batch      []byte          `json:"batch"` // NAME.batch.json's bytes, as base64
}

// PublishedFile is one result file. Output is absent for a failed batch, errors where there is none.
type PublishedFile struct {
	Suffix string         `json:"suffix"` // ".output.jsonl" or ".errors.jsonl"
	SHA256 durable.SHA256 `json:"sha256"`
	Bytes  int64          `json:"bytes"`
}

// Suffixes of result files.
const (
	SuffixOutput    = ".output.jsonl"
	SuffixErrors    = ".errors.jsonl"
	SuffixBatch     = ".batch.json"
	SuffixStatus    = ".status.txt"
	SuffixDuplicate = ".duplicate.json"
)

func decodePublication(b []byte) (*Publication, error) {
	p := new(Publication)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("read publish frame: %w", err)
	}
	return p, nil
}

// Publication returns the batch's newest publish frame, or nil before there is one.
func (b *Batch) Publication() *Publication { return b.publication }

// Published reports whether the publication is complete and durable.
func (b *Batch) Published() bool { return b.published }

// Finalize marks a complete batch as finalizing: from here on the same file may be dropped again. It may be repeated.
func (b *Batch) Finalize() error {
	r, err := b.store.update(b.Meta.ID, func(tx *bbolt.Tx, r *Record) error {
		if r.State != Finalizing && !r.State.Ended() {
			r.State, r.FinalizingAt = Finalizing, now()
		}
		return dropActive(tx, r)
	})
	if err == nil {
		b.Record = r
	}
	return err
}

// dropActive ends a batch's being one that a file duplicates, unless a newer batch has taken its place.
func dropActive(tx *bbolt.Tx, r *Record) error {
	active, key := tx.Bucket(bucketActive), inputKey(r.Queue, r.Input)
	if string(active.Get(key)) != r.ID {
		return nil
	}
	return active.Delete(key)
}

// Reopen takes a batch whose records were found damaged back from finalizing. What is published of it by then keeps
// its name; the batch will get another one.
func (b *Batch) Reopen() error {
	r, err := b.store.update(b.Meta.ID, func(tx *bbolt.Tx, r *Record) error {
		r.State, r.FinalizingAt = InProgress, 0
		active, key := tx.Bucket(bucketActive), inputKey(r.Queue, r.Input)
		if active.Get(key) != nil {
			return nil
		}
		return active.Put(key, []byte(r.ID))
	})
	if err == nil {
		b.Record = r
	}
	return err
}

// Publish records a publication durably, before the first of its files appears.
func (b *Batch) Publish(p *Publication) error {
	payload, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode publish frame of %s: %w", b.Meta.ID, err)
	}
	if err := b.appendSynced(journal.Frame{Kind: journal.KindPublish, Payload: payload}); err != nil {
		return err
	}
	b.publication, b.published = p, false
	faults.Crash("publish.recorded")
	return nil
}

func (b *Batch) appendSynced(f journal.Frame) error {
	if err := b.journal.AppendNow(f); err != nil {
		return fmt.Errorf("batch %s: %w", b.Meta.ID, durable.Full(b.store.dir, leastRoom+f.Size(), err))
	}
	if err := b.journal.Datasync(); err != nil {
		return fmt.Errorf("sync journal of %s: %w", b.Meta.ID, err)
	}
	return nil
}

// ReserveOther reserves another name for result files, because the reserved one was taken by a foreign file.
func (b *Batch) ReserveOther(taken func(string, FileName) (bool, error)) (FileName, error) {
	stem, _, _ := SplitInputName(string(b.Meta.Input.Name))
	name, err := b.store.reserveName(b.Meta.Queue, FileName(stem), taken)
	if err != nil {
		return "", err
	}
	defer b.store.unreserve(b.Meta.Queue, name)
	err = b.store.write(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketNames).Put(nameKey(b.Meta.Queue, name), []byte(b.Meta.ID))
	})
	if err != nil {
		return "", fmt.Errorf("reserve name %q: %w", name, err)
	}
	return name, nil
}

// End records that all result files are published and durable. It may be repeated.
func (b *Batch) End() error {
	p := b.publication
	if p == nil {
		return fmt.Errorf("end batch %s: it is not published", b.Meta.ID)
	}
	if !b.published {
		if err := b.appendSynced(journal.Frame{Kind: journal.KindDone}); err != nil {
			return err
		}
		b.published = true
	}
	faults.Crash("publish.done-framed")
	r, err := b.store.update(b.Meta.ID, func(tx *bbolt.Tx, r *Record) error {
		b.progress.Offset = b.journal.Size()
		if err := tx.Bucket(bucketProgress).Put([]byte(r.ID), b.progress.encode()); err != nil {
			return err
		}
		if !r.State.Ended() {
			r.EndedAt = now()
		}
		r.State, r.PublishedAs, r.Changed = p.State, p.Name, p.Changed
		return dropActive(tx, r)
	})
	if err != nil {
		return err
	}
	b.Record = r
	faults.Crash("publish.ended")
	return nil
}

// SetArchived records that a batch's input has left .processing.
func (s *Store) SetArchived(id string) error {
	_, err := s.update(id, func(_ *bbolt.Tx, r *Record) error {
		r.Archived = true
		return nil
	})
	return err
}
