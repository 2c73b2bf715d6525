package inbox

import (
	"os"
	"slices"
	"syscall"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// Watcher tells that the inbox may have changed. It is only a hint: no event says that a file is complete, events get
// lost, and a folder that is unmounted or replaced stops sending them without a word (fsnotify/fsnotify#774).
type Watcher interface {
	// Dirty fires when something may have changed.
	Dirty() <-chan struct{}
	// Follow watches a folder, again if it was replaced. It is called before the folder is read, so that nothing falls
	// between.
	Follow(dir string)
	// Alive reports whether events are to be expected.
	Alive() bool
	Close()
}

// blind is a Watcher that sees nothing: everything is found by looking.
type blind struct{}

func (blind) Dirty() <-chan struct{} { return nil }
func (blind) Follow(string)          {}
func (blind) Alive() bool            { return false }
func (blind) Close()                 {}

// events is a Watcher that turns the filesystem's events into one bit: look again.
type events struct {
	dirty  chan struct{}
	dir    string
	notify *fsnotify.Watcher
	inodes map[string]uint64 // of the folders that are watched
	log    zerolog.Logger
}

// NewWatcher watches an inbox by the system's events, or not at all if it cannot. Its folders are told to it by Follow.
func NewWatcher(inbox string, log zerolog.Logger) Watcher {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn().Err(err).Msg("cannot watch the inbox by events; polling instead")
		return blind{}
	}
	w := &events{dirty: make(chan struct{}, 1), dir: inbox, notify: notify, inodes: map[string]uint64{}, log: log}
	go w.drain()
	return w
}

// Dirty implements Watcher.
func (w *events) Dirty() <-chan struct{} { return w.dirty }

// drain empties both channels: one that is not read stalls the other.
func (w *events) drain() {
	events, errors := w.notify.Events, w.notify.Errors
	for events != nil || errors != nil {
		select {
		case e, open := <-events:
			if !open {
				events = nil
			} else if e.Op == fsnotify.Chmod {
				continue
			}
		case _, open := <-errors: // an overflow, say
			if !open {
				errors = nil
			}
		}
		select {
		case w.dirty <- struct{}{}:
		default:
		}
	}
}

// Follow implements Watcher.
func (w *events) Follow(dir string) {
	inode := inodeOf(dir)
	watched := slices.Contains(w.notify.WatchList(), dir)
	if watched && inode == w.inodes[dir] {
		return
	}
	if watched {
		w.notify.Remove(dir) // it is another folder by now
	}
	again := w.inodes[dir] == inode
	w.inodes[dir] = inode
	if inode == 0 {
		return
	}
	if err := w.notify.Add(dir); err != nil && !again {
		w.log.Warn().Err(err).Str("folder", dir).Msg("cannot watch by events; the regular scan finds its files")
	}
}

// Alive implements Watcher.
func (w *events) Alive() bool { return slices.Contains(w.notify.WatchList(), w.dir) }

// Close implements Watcher.
func (w *events) Close() { w.notify.Close() }

func inodeOf(path string) uint64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Ino
	}
	return 0
}

// IsShare reports whether a folder is on a filesystem whose events do not show what other machines do: NFS, SMB, FUSE,
// 9p. The magic numbers are those of statfs(2).
func IsShare(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	switch uint32(st.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC:
		return true, nil
	}
	return false, nil
}
