package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

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
func (h *health) vital(fsys durable.FS) durable.FS { return durable.Around(fsys, h.around) }

// around runs a call, unless it would write to a state that cannot be relied on.
func (h *health) around(c durable.Call, do func() error) error {
	switch c.Op {
	case durable.OpOpen, durable.OpStat, durable.OpReadDir, durable.OpClose:
		return do()
	case durable.OpRead:
		defer h.waits.begin()()
		return do()
	}
	if err := h.check(); err != nil {
		return err
	}
	defer h.waits.begin()()
	if c.Op == durable.OpSync || c.Op == durable.OpSyncDir {
		return h.synced(do())
	}
	return h.changed(do())
}
