// Package durable moves and writes files so that they survive a power cut: contents are synced before a name appears,
// and a name's directory after. No published library syncs the directory, without which a crash shortly after a
// successful rename can lose the file.
package durable

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

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

// WriteFile creates or replaces path with data, complete or not at all, and durable once it returns. Two goroutines must
// not write the same path at a time.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	f, err := Create(tmp, perm)
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

// Create makes a new file for writing, in place of what an attempt that died may have left under its name. It opens
// nothing that exists: in a shared folder that could be somebody's link to another file, or a pipe.
func Create(path string, perm fs.FileMode) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
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
	case err == nil, errors.Is(err, fs.ErrExist) && isLinked(from, to):
		return os.Remove(from)
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EXDEV):
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
	}
	return os.Rename(from, to)
}

// isLinked reports whether both names are one file's: a crash came between the two steps, or NFS sent the first one
// twice and told the answer to the second.
func isLinked(from, to string) bool {
	a, errA := os.Lstat(from)
	b, errB := os.Lstat(to)
	return errA == nil && errB == nil && os.SameFile(a, b) && a.Sys().(*syscall.Stat_t).Nlink > 1
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

// moveAcross leaves the original where it is until the copy is durable under its name.
func moveAcross(from, to string) error {
	tmp := filepath.Join(filepath.Dir(to), ".stoker-move-"+filepath.Base(filepath.Dir(from))+".tmp")
	err := copyVerified(from, tmp)
	if err == nil {
		err = Rename(tmp, to)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("move %s to another filesystem: %w", from, err)
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	return os.Remove(from)
}

func copyVerified(from, to string) error {
	if err := copySynced(from, to); err != nil {
		return err
	}
	a, _, err := Hash(from)
	if err != nil {
		return err
	}
	b, _, err := Hash(to)
	if err != nil {
		return err
	}
	if a != b {
		return fmt.Errorf("the copy %s differs; the original stays", to)
	}
	return nil
}

// copySynced copies contents, permissions and time of modification.
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
	dst, err := Create(to, st.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err == nil {
		err = os.Chtimes(to, time.Time{}, st.ModTime())
	}
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

// Sum is what a SHA-256 hash has come to.
func Sum(h hash.Hash) SHA256 { return SHA256(hex.EncodeToString(h.Sum(nil))) }

// SumBytes is the digest of b.
func SumBytes(b []byte) SHA256 {
	sum := sha256.Sum256(b)
	return SHA256(hex.EncodeToString(sum[:]))
}

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
	return Sum(h), n, nil
}
