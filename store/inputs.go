package store

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
)

// inputKey is what makes files the same: queue, name and bytes.
func inputKey(queue string, in Input) []byte {
	return []byte(queue + "/" + string(in.Name) + "/" + string(in.SHA256))
}

// refuseDuplicate returns a *Duplicate of the batch that has the same file and is not yet finalizing, or, if those that have
// ended count, of the first one that ever had it.
func refuseDuplicate(tx *bbolt.Tx, m *Meta, ended bool) error {
	key := inputKey(m.Queue, m.Input)
	of := tx.Bucket(bucketActive).Get(key)
	if of == nil && ended {
		of = tx.Bucket(bucketInputs).Get(key)
		if _, err := getRecord(tx, string(of)); err != nil {
			of = nil // one that cannot be read is no reason: the index made anew would not know it
		}
	}
	if of == nil {
		return nil
	}
	return &Duplicate{Of: string(of)}
}

// enterInput enters a batch in the index of inputs, unless an older one has the same file.
func enterInput(tx *bbolt.Tx, r *Record) error {
	inputs, key := tx.Bucket(bucketInputs), inputKey(r.Queue, r.Input)
	if first := inputs.Get(key); first != nil && string(first) <= r.ID {
		return nil
	}
	return inputs.Put(key, []byte(r.ID))
}

// indexInputs makes the index of inputs anew unless it is right: a version of stoker that knows none may have admitted
// batches.
func (s *Store) indexInputs() error {
	s.indexing.Lock()
	defer s.indexing.Unlock()
	if s.indexed {
		return nil
	}
	right := true
	err := s.view(func(tx *bbolt.Tx) error {
		right = tx.Bucket(bucketInputs) != nil
		if !right {
			return nil
		}
		return eachInputMisfit(tx, func(string, string) { right = false })
	})
	if err == nil && !right {
		err = s.write(fillInputs)
	}
	if err != nil {
		return fmt.Errorf("index inputs: %w", err)
	}
	s.indexed = true
	return nil
}

func fillInputs(tx *bbolt.Tx) error {
	if tx.Bucket(bucketInputs) != nil {
		if err := tx.DeleteBucket(bucketInputs); err != nil {
			return err
		}
	}
	if _, err := tx.CreateBucket(bucketInputs); err != nil {
		return err
	}
	return tx.Bucket(bucketBatches).ForEach(func(id, v []byte) error {
		r, err := decodeRecord(string(id), v)
		if err != nil {
			return ignoreBadRecord(err)
		}
		return enterInput(tx, r)
	})
}

// eachInputMisfit visits what is wrong with the index of inputs, by batch. Records that cannot be read say nothing of it.
func eachInputMisfit(tx *bbolt.Tx, visit func(id, misfit string)) error {
	inputs, right := tx.Bucket(bucketInputs), 0
	err := tx.Bucket(bucketBatches).ForEach(func(id, v []byte) error {
		r, err := decodeRecord(string(id), v)
		if err != nil {
			return ignoreBadRecord(err)
		}
		switch first := string(inputs.Get(inputKey(r.Queue, r.Input))); {
		case first == "":
			visit(r.ID, "the index of inputs does not know its file")
		case first == r.ID:
			right++
		case first > r.ID:
			visit(r.ID, "the index of inputs takes its file for one of the later batch "+first)
		}
		return nil
	})
	if err != nil || right == inputs.Stats().KeyN {
		return err
	}
	return inputs.ForEach(func(key, id []byte) error {
		r, err := getRecord(tx, string(id))
		if errors.Is(err, ErrNotFound) || err == nil && !bytes.Equal(inputKey(r.Queue, r.Input), key) {
			visit(string(id), fmt.Sprintf("the index of inputs takes another file for its own, %q", key))
		}
		return nil
	})
}
