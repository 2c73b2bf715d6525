package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stoker/store/durable"
)

// FinalError means that a write to the state failed, so that nobody knows what the disk holds: after a failed sync the
// kernel forgets which pages were never written, and reading them back shows what the disk does not have. Only a new
// process that reads the disk knows again. It does not unwrap: a sync that fails for lack of space is as final as any,
// and must not be taken for a full disk, which is waited for.
type FinalError struct{ cause error }

func (e *FinalError) Error() string { return "the state cannot be relied on: " + e.cause.Error() }

// Is lets what there is something to be done for be known: a damaged database, and a state that was removed.
func (e *FinalError) Is(target error) bool {
	return (target == ErrDamagedDB || target == ErrRemoved) && errors.Is(e.cause, target)
}

// Cause is the fault that came first.
func (e *FinalError) Cause() error { return e.cause }

// health remembers the first fault of the state that is final. After it nothing is written or synced any more, on
// whatever descriptor.
type health struct {
	mu      sync.Mutex
	final   *FinalError
	faulted chan struct{}
	waits   waits
}

func newHealth() *health {
	return &health{faulted: make(chan struct{}), waits: waits{began: map[*wait]struct{}{}}}
}

// check returns the final fault, if there was one.
func (h *health) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.final == nil {
		return nil
	}
	return h.final
}

func (h *health) fail(cause error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.final == nil {
		h.final = &FinalError{cause}
		close(h.faulted)
	}
	return h.final
}

// changed judges the end of an operation that changes the state. What says that nothing was done is left to the caller.
func (h *health) changed(err error) error {
	if err == nil || durable.IsFull(err) || IsScarce(err) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
		return err
	}
	return h.fail(err)
}

// synced judges the end of a sync.
func (h *health) synced(err error) error {
	if err == nil || IsScarce(err) {
		return err
	}
	return h.fail(err)
}

// change runs an operation that changes the state, unless that is over.
func (h *health) change(op func() error) error {
	if err := h.check(); err != nil {
		return err
	}
	defer h.waits.begin()()
	return h.changed(op())
}

// sync runs a sync, unless the state is not written to any more.
func (h *health) sync(op func() error) error {
	if err := h.check(); err != nil {
		return err
	}
	defer h.waits.begin()()
	return h.synced(op())
}

// IsScarce reports whether the machine lacks something that comes back by itself; nothing was written.
func IsScarce(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// ErrRemoved means that the state is not where it was opened any more.
var ErrRemoved = errors.New("was removed, or something else is in its place")

// CheckPlace finds out whether the state is still where it was opened. If not, that is final: whatever is written belongs to
// files that nobody finds.
func (s *Store) CheckPlace() error {
	if !isAt(s.lock) {
		return s.health.fail(fmt.Errorf("%s %w", s.lock.Name(), ErrRemoved))
	}
	if !isAt(s.db.file) {
		return s.health.fail(fmt.Errorf("%w: %s %w", ErrDamagedDB, s.db.Path(), ErrRemoved))
	}
	return nil
}

// isAt reports whether a file has its name still. When in doubt it has.
func isAt(f *os.File) bool {
	st, err := f.Stat()
	if err != nil {
		return true
	}
	there, err := os.Stat(f.Name())
	return err == nil && os.SameFile(st, there) || err != nil && !errors.Is(err, fs.ErrNotExist)
}

// Faulted is closed once the state cannot be relied on; Fault says why. The process must end and start anew.
func (s *Store) Faulted() <-chan struct{} { return s.health.faulted }

// Fault is the *FinalError that closed Faulted, or nil.
func (s *Store) Fault() error { return s.health.check() }

// vital is the filesystem of the batch folders: what fails there for good is remembered, and ends all writing.
type vital struct {
	durable.FS
	health *health
}

// OpenFile implements durable.FS.
func (v vital) OpenFile(path string, flag int, perm fs.FileMode) (durable.File, error) {
	if flag&os.O_CREATE != 0 {
		return v.create(func() (durable.File, error) { return v.FS.OpenFile(path, flag, perm) })
	}
	f, err := v.FS.OpenFile(path, flag, perm) // which changes nothing
	if err != nil {
		return nil, err
	}
	return vitalFile{f, v.health}, nil
}

// Scratch implements durable.FS.
func (v vital) Scratch(dir string) (durable.File, error) {
	return v.create(func() (durable.File, error) { return v.FS.Scratch(dir) })
}

func (v vital) create(create func() (durable.File, error)) (f durable.File, err error) {
	err = v.health.change(func() (err error) {
		f, err = create()
		return err
	})
	if err != nil {
		return nil, err
	}
	return vitalFile{f, v.health}, nil
}

// Mkdir implements durable.FS.
func (v vital) Mkdir(dir string, perm fs.FileMode) error {
	return v.health.change(func() error { return v.FS.Mkdir(dir, perm) })
}

// Remove implements durable.FS.
func (v vital) Remove(path string) error {
	return v.health.change(func() error { return v.FS.Remove(path) })
}

// RemoveAll implements durable.FS.
func (v vital) RemoveAll(dir string) error {
	return v.health.change(func() error { return v.FS.RemoveAll(dir) })
}

// Rename implements durable.FS.
func (v vital) Rename(from, to string) error {
	return v.health.change(func() error { return v.FS.Rename(from, to) })
}

// RenameNew implements durable.FS.
func (v vital) RenameNew(from, to string) error {
	return v.health.change(func() error { return v.FS.RenameNew(from, to) })
}

// SyncDir implements durable.FS.
func (v vital) SyncDir(dir string) error {
	return v.health.sync(func() error { return v.FS.SyncDir(dir) })
}

// vitalFile is an open file of the state.
type vitalFile struct {
	durable.File
	health *health
}

// Read implements durable.File.
func (f vitalFile) Read(b []byte) (int, error) {
	defer f.health.waits.begin()()
	return f.File.Read(b)
}

// ReadAt implements durable.File.
func (f vitalFile) ReadAt(b []byte, at int64) (int, error) {
	defer f.health.waits.begin()()
	return f.File.ReadAt(b, at)
}

// Write implements durable.File.
func (f vitalFile) Write(b []byte) (n int, err error) {
	err = f.health.change(func() (err error) {
		n, err = f.File.Write(b)
		return err
	})
	return n, err
}

// WriteAt implements durable.File.
func (f vitalFile) WriteAt(b []byte, at int64) (n int, err error) {
	err = f.health.change(func() (err error) {
		n, err = f.File.WriteAt(b, at)
		return err
	})
	return n, err
}

// WriteString implements durable.File.
func (f vitalFile) WriteString(s string) (int, error) { return f.Write([]byte(s)) }

// Truncate implements durable.File.
func (f vitalFile) Truncate(size int64) error {
	return f.health.change(func() error { return f.File.Truncate(size) })
}

// Chmod implements durable.File.
func (f vitalFile) Chmod(mode fs.FileMode) error {
	return f.health.change(func() error { return f.File.Chmod(mode) })
}

// Chown implements durable.File.
func (f vitalFile) Chown(uid, gid int) error {
	return f.health.change(func() error { return f.File.Chown(uid, gid) })
}

// Chtime implements durable.File.
func (f vitalFile) Chtime(mtime time.Time) error {
	return f.health.change(func() error { return f.File.Chtime(mtime) })
}

// Sync implements durable.File.
func (f vitalFile) Sync() error { return f.health.sync(f.File.Sync) }

// Datasync implements durable.File.
func (f vitalFile) Datasync() error { return f.health.sync(f.File.Datasync) }
