// Package share watches over the folders that others write to as well. They may be on shares, which may hang, so that
// an operation comes back after minutes or never, and may be gone, so that an empty folder stands in their place.
//
// Nothing can end an operation that hangs; it holds its goroutine and a thread until the share answers. So whoever asks
// next is refused at once, and one share holds up only who met its silence first.
package share

import (
	"fmt"
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
	durable.FS // around below
	below      durable.FS
	folders    []*folder
	watch      Watch // of who uses it; nil: nobody's
}

// Watch is told of each call, which takes as long as its share wants.
type Watch interface {
	Begin()
	End()
}

// For is the same filesystem for somebody whose calls are watched.
func (s *FS) For(w Watch) *FS { return over(s.below, s.folders, w) }

// watched runs a call.
func (s *FS) watched(call func() error) error {
	if s.watch == nil {
		return call()
	}
	s.watch.Begin()
	defer s.watch.End()
	return call()
}

// New returns the filesystem below these folders.
func New(below durable.FS, folders ...Folder) *FS {
	var all []*folder
	for _, d := range folders {
		all = append(all, &folder{Folder: d, calls: map[*call]struct{}{}})
	}
	return over(below, all, nil)
}

func over(below durable.FS, folders []*folder, w Watch) *FS {
	s := &FS{below: below, folders: folders, watch: w}
	s.FS = durable.Around(below, s.around)
	return s
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
	durable.Call
	began time.Time
}

func (c *call) patience() time.Duration {
	if c.Op == durable.OpSync || c.Op == durable.OpSyncDir {
		return syncPatience
	}
	return Patience
}

// String says what it does.
func (c *call) String() string {
	words := string(c.Op)
	switch c.Op {
	case durable.OpReadDir:
		words = "read folder"
	case durable.OpMkdir:
		words = "make folder"
	case durable.OpSyncDir:
		words = "sync folder"
	case durable.OpChtime:
		words = "set time of"
	}
	return words + " " + c.Path
}

func (f *folder) begin(what durable.Call) (*call, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.silence(); err != nil {
		return nil, err
	}
	c := &call{what, time.Now()}
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
		late := time.Since(c.began) >= c.patience() && !f.answered.After(c.began)
		if late && (first == nil || c.began.Before(first.began)) {
			first = c
		}
	}
	if first == nil {
		return nil
	}
	return &SilentError{f.Name, f.Dir, first.began, first.String()}
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
func (f *folder) do(what durable.Call, do func() error) error {
	c, err := f.begin(what)
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

// around runs a call in the folder that it is about.
func (s *FS) around(c durable.Call, do func() error) error {
	f := s.of(c.Path)
	mounted := func() error {
		if err := s.checkMounts(c, f); err != nil {
			return err
		}
		return do()
	}
	if f == nil {
		return mounted()
	}
	err := s.watched(func() error { return f.do(c, mounted) })
	if _, silent := err.(*SilentError); silent && c.Op == durable.OpClose {
		go do() // lets go of the descriptor all the same, and nobody waits for it
	}
	return err
}

// checkMounts looks at the folders whose names a call uses. If a file is renamed between two shares, which of them hangs
// cannot be told: it counts as the one that the file goes to. What is asked of the other one alone shows if it is that one.
func (s *FS) checkMounts(c durable.Call, at *folder) error {
	if c.Opened {
		return nil
	}
	if at != nil {
		if err := at.checkMount(); err != nil {
			return err
		}
	}
	if from := s.of(c.From); from != nil && from != at {
		return from.checkMount()
	}
	return nil
}

// Scratch implements durable.FS. It is nobody's call: shares are no place for it.
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
