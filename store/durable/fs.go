package durable

import (
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// FS is the filesystem as stoker uses it. Paths are absolute. What it returns are errors of the operating system, with
// the operation and the path.
//
// Two kinds of promise are kept apart, as filesystems do: what Sync and Datasync of a File have returned for is durable
// in its contents, what SyncDir has returned for is durable in its names. Nothing else survives a power cut for certain.
type FS interface {
	// OpenFile opens a file with the flags of package os. It follows no link in the last place.
	OpenFile(path string, flag int, perm fs.FileMode) (File, error)
	Stat(path string) (fs.FileInfo, error)
	Lstat(path string) (fs.FileInfo, error)
	ReadDir(dir string) ([]fs.DirEntry, error)
	Mkdir(dir string, perm fs.FileMode) error
	Remove(path string) error
	RemoveAll(dir string) error
	// Rename gives a file another name, in place of what has it. It syncs nothing.
	Rename(from, to string) error
	// RenameNew does so unless the name is taken, which is fs.ErrExist.
	RenameNew(from, to string) error
	// SyncDir makes the names in a folder durable.
	SyncDir(dir string) error
	// Scratch makes a file without a name in a folder's filesystem. It is gone once it is closed.
	Scratch(dir string) (File, error)
}

// File is an open file.
type File interface {
	io.ReadWriteCloser
	io.ReaderAt
	io.WriterAt
	io.StringWriter
	Name() string
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	Chmod(mode fs.FileMode) error
	Chown(uid, gid int) error
	// Chtime sets the time of modification.
	Chtime(mtime time.Time) error
	// Sync makes contents, size and times durable.
	Sync() error
	// Datasync makes contents and size durable, without the times that nobody reads.
	Datasync() error
}

// SameFile reports whether both are one file, as os.SameFile does for the files of package os alone.
func SameFile(a, b fs.FileInfo) bool {
	x, okX := a.Sys().(*syscall.Stat_t)
	y, okY := b.Sys().(*syscall.Stat_t)
	return okX && okY && x.Dev == y.Dev && x.Ino == y.Ino
}

// ReadFile returns a file's contents.
func ReadFile(fsys FS, path string) ([]byte, error) {
	f, err := OpenRegular(fsys, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// OpenRegular opens a file for reading that somebody else put there. Anything but a regular file is an error at once: a
// pipe would never be read to its end, and some devices act when they are opened. It looks before it opens, because of
// those, and once more after, because of who may be quicker.
func OpenRegular(fsys FS, path string) (File, error) {
	if st, err := fsys.Lstat(path); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: ErrNotRegular}
	}
	f, err := fsys.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: ErrNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
