package store

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"go.etcd.io/bbolt"

	"stoker/store/durable"
	"stoker/store/faults"
)

// view reads the database.
func (s *Store) view(read func(*bbolt.Tx) error) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		defer s.health.waits.begin()()
		return read(tx)
	})
}

// update changes a batch's record in one durable commit.
func (s *Store) update(id string, change func(tx *bbolt.Tx, r *Record) error) (*Record, error) {
	var r *Record
	err := s.write(func(tx *bbolt.Tx) (err error) {
		if r, err = getRecord(tx, id); err != nil {
			return err
		}
		if err := change(tx, r); err != nil {
			return err
		}
		return putRecord(tx, r)
	})
	if err != nil {
		return nil, fmt.Errorf("update batch %s: %w", id, err)
	}
	return r, nil
}

// change is what one caller wants of a commit. It may be made more than once: only the last time counts.
type change struct {
	apply   func(tx *bbolt.Tx) error
	refused error // what apply returned
}

// write changes the database in one durable commit, which it shares with whoever else writes at that time. An error of the
// change undoes it. A commit that fails is final, but for one that found no room for its pages: bbolt writes those first,
// into free places, so that until the meta page points to them nothing has happened.
func (s *Store) write(apply func(tx *bbolt.Tx) error) error {
	c := &change{apply: apply}
	if err := s.writes.Do(c, s.writeAll); err != nil {
		return err
	}
	return c.refused
}

// writeAll makes all changes in one transaction. When one is refused it begins anew without that one, whose caller learns it
// only once the others are durable: it may have been refused because of them.
func (s *Store) writeAll(changes []*change) error {
	for len(changes) > 0 {
		refused, err := s.writeOnce(changes)
		if refused == nil {
			return err
		}
		changes = slices.DeleteFunc(changes, func(c *change) bool { return c == refused })
	}
	return nil
}

// writeOnce is one transaction. It ends with nothing done at the first change that is refused.
func (s *Store) writeOnce(changes []*change) (refused *change, err error) {
	if err := s.health.check(); err != nil {
		return nil, err
	}
	var txid int
	end := func() {}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		faults.Hang("store")
		txid = tx.ID()
		end = s.health.waits.begin() // not before: so far nothing waited for the disk
		for _, c := range changes {
			if c.refused = c.apply(tx); c.refused != nil {
				refused = c
				return c.refused
			}
		}
		return nil
	})
	end()
	switch {
	case err == nil || refused != nil:
		return refused, nil
	case isFullWrite(err) && s.lastCommit() < txid:
		return nil, durable.Full(s.dir, leastRoom, err)
	}
	return nil, s.health.fail(err)
}

// isFullWrite reports whether a write found no room. A sync that did has no operation in its error.
func isFullWrite(err error) bool {
	var path *fs.PathError
	return durable.IsFull(err) && errors.As(err, &path) && path.Op == "write"
}

// lastCommit is the number of the transaction that the database's meta pages tell of.
func (s *Store) lastCommit() (txid int) {
	s.db.View(func(tx *bbolt.Tx) error {
		txid = tx.ID()
		return nil
	})
	return txid
}

// errNothing undoes a transaction that was to do nothing.
var errNothing = errors.New("nothing is to be changed")

// Ping comes back once a change of the database could begin. It changes nothing.
func (s *Store) Ping() {
	s.db.Update(func(*bbolt.Tx) error { return errNothing }) // a database that cannot be used any more is told of elsewhere
}
