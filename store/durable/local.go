package durable

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Local is the machine's filesystem, for folders that nobody else writes to.
type Local struct{}

var _ FS = Local{}

// file is an open file of the machine.
type file struct{ *os.File }

// Datasync implements File.
func (f file) Datasync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
		return nil
	}
}

// Chtime implements File.
func (f file) Chtime(mtime time.Time) error {
	return os.Chtimes("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), time.Time{}, mtime)
}

// OpenFile implements FS.
func (Local) OpenFile(path string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW, perm)
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

// Stat implements FS.
func (Local) Stat(path string) (fs.FileInfo, error) { return os.Stat(path) }

// Lstat implements FS.
func (Local) Lstat(path string) (fs.FileInfo, error) { return os.Lstat(path) }

// ReadDir implements FS.
func (Local) ReadDir(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }

// Mkdir implements FS.
func (Local) Mkdir(dir string, perm fs.FileMode) error { return os.Mkdir(dir, perm) }

// Remove implements FS.
func (Local) Remove(path string) error { return os.Remove(path) }

// RemoveAll implements FS.
func (Local) RemoveAll(dir string) error { return os.RemoveAll(dir) }

// Rename implements FS.
func (Local) Rename(from, to string) error { return os.Rename(from, to) }

// RenameNew implements FS.
func (Local) RenameNew(from, to string) error {
	return renameError(from, to, renameNew(place{unix.AT_FDCWD, from}, place{unix.AT_FDCWD, to}))
}

// SyncDir implements FS. EINVAL and ENOTSUP, which old SMB mounts return, are not errors.
func (Local) SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return syncDir(f)
}

func syncDir(f *os.File) error {
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}

// Scratch implements FS.
func (Local) Scratch(dir string) (File, error) {
	f, err := os.CreateTemp(dir, "stoker-*.tmp")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return file{f}, nil
}
