package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Beneath is the machine's filesystem, but only below these folders, which others write to as well: no link, however it
// came there, leads out of them. Each operation opens its folder anew, so that a share can be unmounted and another one
// mounted in its place.
type Beneath []string

var _ FS = Beneath{}

// ErrOutside means that a path leads out of the folders that stoker works in.
var ErrOutside = errors.New("outside of the folders that are configured")

// errLeadsOut is ErrOutside, by a link in the path.
var errLeadsOut = fmt.Errorf("a symbolic link leads %w", ErrOutside)

// ErrNotRegular means that there is something else where a regular file was expected.
var ErrNotRegular = errors.New("not a regular file")

// root returns the configured folder that a path is in, and the path from there.
func (b Beneath) root(path string) (root, rel string, err error) {
	for _, dir := range b {
		rel, err := filepath.Rel(dir, path)
		if err == nil && filepath.IsLocal(rel) {
			return dir, rel, nil
		}
	}
	return "", "", ErrOutside
}

// within calls do with an open root. Errors name the whole path.
func (b Beneath) within(op, path string, do func(r *os.Root, rel string) error) error {
	err := b.inRoot(path, do)
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: cause(escape(err))}
}

func (b Beneath) inRoot(path string, do func(r *os.Root, rel string) error) error {
	dir, rel, err := b.root(path)
	if err != nil {
		return err
	}
	r, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer r.Close()
	return do(r, rel)
}

// cause is an error without the operation and the relative path, which the caller knows better.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}

// openDir opens a folder for its names. What is no folder is ENOTDIR at once: a pipe would wait for its writer.
func openDir(r *os.Root, rel string) (*os.File, error) {
	f, err := r.OpenFile(rel, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, escape(err)
	}
	return f, nil
}

// escape finds words for package os's error for a link that leads out of a root, which has no name there.
func escape(err error) error {
	if c := cause(err); c.Error() == "path escapes from parent" {
		return errLeadsOut
	}
	return err
}

// at calls do with the open folder that holds a path's last element.
func (b Beneath) at(path string, do func(place) error) error {
	return b.inRoot(path, func(r *os.Root, rel string) error {
		dir, err := openDir(r, filepath.Dir(rel))
		if err != nil {
			return err
		}
		defer dir.Close()
		return do(place{int(dir.Fd()), filepath.Base(rel)})
	})
}

// between calls do with the folders that hold two paths' last elements.
func (b Beneath) between(from, to string, do func(from, to place) error) error {
	err := b.at(from, func(x place) error {
		return b.at(to, func(y place) error { return do(x, y) })
	})
	return renameError(from, to, err)
}

// OpenFile implements FS.
func (b Beneath) OpenFile(path string, flag int, perm fs.FileMode) (File, error) {
	var f *os.File
	err := b.at(path, func(p place) error {
		fd, err := openat(p, flag|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, perm)
		if err == nil {
			f = os.NewFile(uintptr(fd), path)
		}
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: cause(err)}
	}
	return file{f}, nil
}

func openat(p place, flag int, perm fs.FileMode) (fd int, err error) {
	for {
		fd, err = unix.Openat(p.dir, p.base, flag, uint32(perm.Perm()))
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// Stat implements FS.
func (b Beneath) Stat(path string) (st fs.FileInfo, err error) {
	err = b.within("stat", path, func(r *os.Root, rel string) (err error) {
		st, err = r.Stat(rel)
		return err
	})
	return st, err
}

// Lstat implements FS.
func (b Beneath) Lstat(path string) (st fs.FileInfo, err error) {
	err = b.within("lstat", path, func(r *os.Root, rel string) (err error) {
		st, err = r.Lstat(rel)
		return err
	})
	return st, err
}

// ReadDir implements FS.
func (b Beneath) ReadDir(dir string) (entries []fs.DirEntry, err error) {
	err = b.within("readdir", dir, func(r *os.Root, rel string) error {
		f, err := openDir(r, rel)
		if err != nil {
			return err
		}
		defer f.Close()
		entries, err = f.ReadDir(-1)
		return err
	})
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

// Mkdir implements FS. The umask has no say: up to perm, the new folder is open to those to whom the folder above it is,
// and its files get the group that files there get.
func (b Beneath) Mkdir(dir string, perm fs.FileMode) error {
	err := b.at(dir, func(p place) error {
		if err := unix.Mkdirat(p.dir, p.base, uint32(perm.Perm())); err != nil {
			return err
		}
		shareLikeParent(p, uint32(perm.Perm()))
		return nil
	})
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: cause(err)}
	}
	return nil
}

// shareLikeParent does what it can: some filesystems have no permissions to set.
func shareLikeParent(p place, perm uint32) {
	var above unix.Stat_t
	if err := unix.Fstat(p.dir, &above); err != nil {
		return
	}
	fd, err := openat(p, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	unix.Fchmod(fd, above.Mode&perm|above.Mode&unix.S_ISGID)
}

// Remove implements FS.
func (b Beneath) Remove(path string) error {
	return b.within("remove", path, func(r *os.Root, rel string) error { return r.Remove(rel) })
}

// RemoveAll implements FS.
func (b Beneath) RemoveAll(dir string) error {
	return b.within("remove", dir, func(r *os.Root, rel string) error { return r.RemoveAll(rel) })
}

// Rename implements FS.
func (b Beneath) Rename(from, to string) error {
	return b.between(from, to, func(x, y place) error { return unix.Renameat(x.dir, x.base, y.dir, y.base) })
}

// RenameNew implements FS.
func (b Beneath) RenameNew(from, to string) error { return b.between(from, to, renameNew) }

// SyncDir implements FS. EINVAL and ENOTSUP, which old SMB mounts return, are not errors.
func (b Beneath) SyncDir(dir string) error {
	return b.within("sync directory", dir, func(r *os.Root, rel string) error {
		f, err := openDir(r, rel)
		if err != nil {
			return err
		}
		defer f.Close()
		return syncDir(f)
	})
}

// Scratch implements FS.
func (b Beneath) Scratch(dir string) (File, error) {
	return nil, &fs.PathError{Op: "create", Path: dir, Err: errors.ErrUnsupported} // shares are no place for it
}
