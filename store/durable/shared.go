package durable

import "sync"

// Shared is a filesystem for goroutines that change names in the same folders at the same time. A sync of a folder covers
// the changes of all of them: those who ask for one while another is under way share the next.
func Shared(fsys FS) FS {
	return &sharing{FS: fsys, syncing: map[string]*syncing{}, naming: make(chan struct{}, 1)}
}

type sharing struct {
	FS
	naming chan struct{} // holds one while a name is given

	mu      sync.Mutex
	syncing map[string]*syncing // folders whose sync somebody waits for
}

type syncing struct {
	group   Group[struct{}]
	callers int
}

// SyncDir implements FS.
func (s *sharing) SyncDir(dir string) error {
	group := s.enter(dir)
	defer s.leave(dir)
	return group.Do(struct{}{}, func([]struct{}) error { return s.FS.SyncDir(dir) })
}

func (s *sharing) enter(dir string) *Group[struct{}] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.syncing[dir] == nil {
		s.syncing[dir] = new(syncing)
	}
	s.syncing[dir].callers++
	return &s.syncing[dir].group
}

func (s *sharing) leave(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.syncing[dir].callers--; s.syncing[dir].callers == 0 {
		delete(s.syncing, dir)
	}
}

// RenameNew implements FS, for one after another: where the filesystem cannot refuse a name that is taken, who renames
// looks first, and two at a time would find the same name free.
func (s *sharing) RenameNew(from, to string) error {
	s.naming <- struct{}{}
	defer func() { <-s.naming }()
	return s.FS.RenameNew(from, to)
}
