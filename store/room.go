package store

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"stoker/store/dedupe"
	"stoker/store/durable"
)

const (
	// reserveFloor is what is kept free in the state's filesystem, for checkpoints of what is under way and for what is
	// in flight when it becomes full: the database needs room for every commit.
	reserveFloor = 16 << 20
	// reserveShare is the part of a small filesystem that is kept free instead.
	reserveShare = 16
	// leastRoom is what any write is said to need: files grow by blocks, and a checkpoint follows.
	leastRoom = 1 << 20
)

// Room returns a *durable.FullError unless the state has room for a file of so many bytes, beside what must stay free.
func (s *Store) Room(bytes int64) error { return s.room(bytes, 1) }

// Cramped returns a *durable.FullError if even half of what must stay free is used up, so that nothing more should be
// begun.
func (s *Store) Cramped() error { return s.room(0, 2) }

// room wants bytes beside one nth of the reserve.
func (s *Store) room(bytes, nth int64) error {
	space, err := s.space(s.dir)
	if err != nil {
		return err
	}
	need := bytes + min(reserveFloor, space.Total/reserveShare)/nth
	if space.Free >= need {
		return nil
	}
	return &durable.FullError{Dir: s.dir, Need: need, Free: space.Free, Total: space.Total, Err: unix.ENOSPC}
}

// thrifty is the state's filesystem for a copy whose size is not known before. It stops writing before the reserve is
// used up.
type thrifty struct {
	durable.FS
	room func(bytes int64) error
}

// OpenFile implements durable.FS.
func (t thrifty) OpenFile(path string, flag int, perm fs.FileMode) (durable.File, error) {
	f, err := t.FS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return &thriftyFile{File: f, room: t.room}, nil
}

// Scratch implements durable.FS.
func (t thrifty) Scratch(dir string) (durable.File, error) {
	f, err := t.FS.Scratch(dir)
	if err != nil {
		return nil, err
	}
	return &thriftyFile{File: f, room: t.room}, nil
}

// roomEvery is how many bytes are written between two looks at the room.
const roomEvery = 1 << 20

type thriftyFile struct {
	durable.File
	room    func(bytes int64) error
	written int
}

// Write implements durable.File.
func (f *thriftyFile) Write(b []byte) (int, error) {
	if f.written += len(b); f.written >= roomEvery {
		f.written = 0
		if err := f.room(int64(len(b))); err != nil {
			return 0, err
		}
	}
	return f.File.Write(b)
}

// sized says how much a snapshot that found no room needs in all, as far as can be told when so many bytes of the input
// were read.
func (s *snapshot) sized(dir string, read int64, err error) error {
	written := s.decoded + int64(s.index.n)*(rowSize+dedupe.PairSize)
	need := float64(written) * float64(s.meta.Input.Bytes) / float64(max(1, read))
	return durable.Full(dir, int64(need), err)
}

// lacking enters into a lack of room what is free once the half of a snapshot is gone.
func (s *Store) lacking(err error) error {
	var full *durable.FullError
	if errors.As(err, &full) {
		return durable.Full(s.dir, full.Need, full.Err)
	}
	return durable.Full(s.dir, leastRoom, err)
}
