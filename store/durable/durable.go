// Package durable moves and writes files so that they survive a power cut: contents are synced before a name appears,
// and a name's directory after. No published library syncs the directory, without which a crash shortly after a
// successful rename can lose the file.
package durable

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// SyncDir makes the names in dir durable. EINVAL and ENOTSUP, which old SMB mounts return, are not errors.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// MkdirAll creates dir and its missing parents, and makes their names durable.
func MkdirAll(dir string, perm fs.FileMode) error {
	if st, err := os.Stat(dir); err == nil {
		if !st.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if err := MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := os.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// WriteFile creates or replaces path with data, complete or not at all, and durable once it returns.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil { // NFS reports a full disk here
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// Rename gives a file its new name unless that name is taken, which is fs.ErrExist. It syncs no directory.
func Rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return linkRename(from, to) // NFS and SMB know no RENAME_NOREPLACE
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// linkRename relies on link(2) refusing a name that is taken; where there are no hard links either, it looks first.
func linkRename(from, to string) error {
	err := os.Link(from, to)
	switch {
	case err == nil:
		return os.Remove(from)
	case errors.Is(err, fs.ErrExist):
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
	}
	return os.Rename(from, to)
}

// Move is Rename followed by syncing both directories. Across filesystems the file is copied, synced and compared
// before the original is unlinked.
func Move(from, to string) error {
	err := Rename(from, to)
	if errors.Is(err, unix.EXDEV) {
		err = moveAcross(from, to)
	}
	if err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(from))
}

func moveAcross(from, to string) error {
	tmp := filepath.Join(filepath.Dir(to), ".stoker-move-"+filepath.Base(filepath.Dir(from))+".tmp")
	if err := copySynced(from, tmp); err != nil {
		os.Remove(tmp)
		return err
	}
	a, _, err := Hash(from)
	if err != nil {
		return err
	}
	b, _, err := Hash(tmp)
	if err != nil {
		return err
	}
	if a != b {
		os.Remove(tmp)
		return fmt.Errorf("move %s to %s: the copy differs; the original stays", from, to)
	}
	if err := Rename(tmp, to); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	return os.Remove(from)
}

func copySynced(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, st.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err == nil {
		err = dst.Sync()
	}
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	return err
}

// SHA256 is a digest in the form that people compare: lower-case hexadecimal.
type SHA256 string

// Hash returns the digest and the size in bytes of a file.
func Hash(path string) (SHA256, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return "", 0, fmt.Errorf("hash %s: %w", path, err)
	}
	return SHA256(fmt.Sprintf("%x", h.Sum(nil))), n, nil
}
