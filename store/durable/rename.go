package durable

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// place is a name in an open folder, as the system calls that end in "at" take it.
type place struct {
	dir  int
	base string
}

// renameNew gives a file its new name unless that name is taken, which is EEXIST. A file that has both names loses the old
// one: Btrfs, for one, may come back from a power cut with half a rename.
func renameNew(from, to place) error {
	err := unix.Renameat2(from.dir, from.base, to.dir, to.base, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return linkRename(from, to) // NFS and SMB know no RENAME_NOREPLACE
	}
	if errors.Is(err, unix.EEXIST) && isLinked(from, to) {
		return unix.Unlinkat(from.dir, from.base, 0)
	}
	return err
}

// linkRename relies on link(2) refusing a name that is taken; where there are no hard links either, it looks first.
func linkRename(from, to place) error {
	err := unix.Linkat(from.dir, from.base, to.dir, to.base, 0)
	switch {
	case err == nil, errors.Is(err, fs.ErrExist) && isLinked(from, to):
		return unix.Unlinkat(from.dir, from.base, 0)
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EXDEV):
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(to.dir, to.base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		return unix.EEXIST
	}
	return unix.Renameat(from.dir, from.base, to.dir, to.base)
}

// isLinked reports whether both names are one file's: a crash came between the two steps, or NFS sent the first one
// twice and told the answer to the second.
func isLinked(from, to place) bool {
	var a, b unix.Stat_t
	errA := unix.Fstatat(from.dir, from.base, &a, unix.AT_SYMLINK_NOFOLLOW)
	errB := unix.Fstatat(to.dir, to.base, &b, unix.AT_SYMLINK_NOFOLLOW)
	return errA == nil && errB == nil && a.Dev == b.Dev && a.Ino == b.Ino && a.Nlink > 1
}

// renameError names both paths.
func renameError(from, to string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: cause(err)}
}
