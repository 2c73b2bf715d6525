// Package share watches over the folders that others write to as well. They may be on shares, which may hang, so that
// an operation comes back after minutes or never, and may be gone, so that an empty folder stands in their place.
//
// Nothing can end an operation that hangs; it holds its goroutine and a thread until the share answers. So whoever asks
// next is refused at once, and one share holds up only who met its silence first.
package share

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"stoker/store/durable"
)

const (
	// Patience is how long an operation may take before its share counts as one that does not answer.
	Patience = 5 * time.Second
	// syncPatience is that of a sync, which may have a whole result file to send.
	syncPatience = time.Minute
)

// Folder is one that may be on a share.
type Folder struct {
	Name string // as people call it: "inbox", "outbox", "archive"
	Dir  string
	// Mount says that the folder must be a mount point itself.
	Mount bool
	// Stay says that the folder must stay on the mount where it was seen first.
	Stay bool
}

// FS does what the filesystem below it does, in the folders of a daemon.
type FS struct {
	below   durable.FS
	folders []*folder
	watch   Watch // of who uses it; nil: nobody's
}

// Watch is told of each call, which takes as long as its share wants.
type Watch interface {
	Begin()
	End()
}

// For is the same filesystem for somebody whose calls are watched.
func (s *FS) For(w Watch) *FS { return &FS{s.below, s.folders, w} }

// watched runs a call.
func (s *FS) watched(call func() error) error {
	if s.watch == nil {
		return call()
	}
	s.watch.Begin()
	defer s.watch.End()
	return call()
}

var _ durable.FS = (*FS)(nil)

// New returns the filesystem below these folders.
func New(below durable.FS, folders ...Folder) *FS {
	f := &FS{below: below}
	for _, d := range folders {
		f.folders = append(f.folders, &folder{Folder: d, calls: map[*call]struct{}{}})
	}
	return f
}

// Trouble is what is wrong with a folder.
type Trouble struct {
	Name  string
	Dir   string
	Since time.Time
	Err   error // *SilentError or *UnmountedError
}

// Troubles returns what is wrong now, as far as anybody noticed. It does not ask the shares.
func (s *FS) Troubles() []Trouble {
	var all []Trouble
	for _, f := range s.folders {
		if t, ok := f.trouble(); ok {
			all = append(all, t)
		}
	}
	return all
}

// SilentError means that a share does not answer.
type SilentError struct {
	Name, Dir string
	Since     time.Time
	Call      string // that has not come back
}

func (e *SilentError) Error() string {
	return fmt.Sprintf("%s %s has not answered since %s (%s)", e.Name, e.Dir, e.Since.Format("2006-01-02 15:04:05"), e.Call)
}

// Timeout says that this passes.
func (e *SilentError) Timeout() bool { return true }

// folder is a Folder with what is under way in it.
type folder struct {
	Folder

	mu        sync.Mutex
	calls     map[*call]struct{} // that have not come back
	answered  time.Time          // when the latest one began that came back
	mount     string             // where the folder was seen to be mounted, of a folder that must stay there
	unmounted *UnmountedError    // as of the last look
}

// call is an operation under way.
type call struct {
	what     string
	began    time.Time
	patience time.Duration
}

func (f *folder) begin(what string, patience time.Duration) (*call, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.silence(); err != nil {
		return nil, err
	}
	c := &call{what, time.Now(), patience}
	f.calls[c] = struct{}{}
	return c, nil
}

func (f *folder) end(c *call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.calls, c)
	if c.began.After(f.answered) {
		f.answered = c.began
	}
}

// silence returns a *SilentError if a call has not come back in time, and none that began later has: one that is slow
// because it waits for another share says nothing of this one.
func (f *folder) silence() error {
	var first *call
	for c := range f.calls {
		late := time.Since(c.began) >= c.patience && !f.answered.After(c.began)
		if late && (first == nil || c.began.Before(first.began)) {
			first = c
		}
	}
	if first == nil {
		return nil
	}
	return &SilentError{f.Name, f.Dir, first.began, first.what}
}

func (f *folder) trouble() (Trouble, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err, ok := f.silence().(*SilentError); ok {
		return Trouble{f.Name, f.Dir, err.Since, err}, true
	}
	if f.unmounted != nil {
		return Trouble{f.Name, f.Dir, f.unmounted.Since, f.unmounted}, true
	}
	return Trouble{}, false
}

// do runs an operation in the folder.
func (f *folder) do(what string, patience time.Duration, do func() error) error {
	c, err := f.begin(what, patience)
	if err != nil {
		return err
	}
	defer f.end(c)
	return do()
}

// of returns the folder that a path is in, nil if that is none.
func (s *FS) of(path string) *folder {
	i := slices.IndexFunc(s.folders, func(f *folder) bool {
		rel, err := filepath.Rel(f.Dir, path)
		return err == nil && filepath.IsLocal(rel)
	})
	if i < 0 {
		return nil
	}
	return s.folders[i]
}

// at runs an operation on a path.
func (s *FS) at(op, path string, do func() error) error { return s.with(op, path, Patience, do) }

func (s *FS) with(op, path string, patience time.Duration, do func() error) error {
	f := s.of(path)
	if f == nil {
		return do()
	}
	return s.watched(func() error {
		return f.do(op+" "+path, patience, func() error {
			if err := f.checkMount(); err != nil {
				return err
			}
			return do()
		})
	})
}

// OpenFile implements durable.FS.
func (s *FS) OpenFile(path string, flag int, perm fs.FileMode) (f durable.File, err error) {
	op := "open"
	if flag&os.O_CREATE != 0 {
		op = "create"
	}
	err = s.at(op, path, func() (err error) {
		f, err = s.below.OpenFile(path, flag, perm)
		return err
	})
	if in := s.of(path); err == nil && in != nil {
		f = file{f, in, s}
	}
	return f, err
}

// Stat implements durable.FS.
func (s *FS) Stat(path string) (st fs.FileInfo, err error) {
	err = s.at("stat", path, func() (err error) {
		st, err = s.below.Stat(path)
		return err
	})
	return st, err
}

// Lstat implements durable.FS.
func (s *FS) Lstat(path string) (st fs.FileInfo, err error) {
	err = s.at("stat", path, func() (err error) {
		st, err = s.below.Lstat(path)
		return err
	})
	return st, err
}

// ReadDir implements durable.FS.
func (s *FS) ReadDir(dir string) (entries []fs.DirEntry, err error) {
	err = s.at("read folder", dir, func() (err error) {
		entries, err = s.below.ReadDir(dir)
		return err
	})
	return entries, err
}

// Mkdir implements durable.FS.
func (s *FS) Mkdir(dir string, perm fs.FileMode) error {
	return s.at("make folder", dir, func() error { return s.below.Mkdir(dir, perm) })
}

// Remove implements durable.FS.
func (s *FS) Remove(path string) error {
	return s.at("remove", path, func() error { return s.below.Remove(path) })
}

// RemoveAll implements durable.FS.
func (s *FS) RemoveAll(dir string) error {
	return s.at("remove", dir, func() error { return s.below.RemoveAll(dir) })
}

// Rename implements durable.FS.
func (s *FS) Rename(from, to string) error {
	return s.between(from, to, func() error { return s.below.Rename(from, to) })
}

// RenameNew implements durable.FS.
func (s *FS) RenameNew(from, to string) error {
	return s.between(from, to, func() error { return s.below.RenameNew(from, to) })
}

// between runs an operation on two paths. If they are on two shares, which of them hangs cannot be told: it counts as the
// one that the file goes to. What is asked of the other one alone shows if it is that one.
func (s *FS) between(from, to string, do func() error) error {
	return s.at("rename", to, func() error {
		if f := s.of(from); f != nil && f != s.of(to) {
			if err := f.checkMount(); err != nil {
				return err
			}
		}
		return do()
	})
}

// SyncDir implements durable.FS.
func (s *FS) SyncDir(dir string) error {
	return s.with("sync folder", dir, syncPatience, func() error { return s.below.SyncDir(dir) })
}

// Scratch implements durable.FS.
func (s *FS) Scratch(dir string) (durable.File, error) { return s.below.Scratch(dir) }

// Soon asks something that may hang, and does not wait longer than a share is given. An answer that comes later is
// lost.
func Soon[T any](ask func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		v, err := ask()
		answered <- answer{v, err}
	}()
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	select {
	case a := <-answered:
		return a.value, a.err
	case <-timer.C:
		var none T
		return none, os.ErrDeadlineExceeded
	}
}
