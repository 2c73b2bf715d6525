// Package durable moves and writes files so that they survive a power cut: contents are synced before a name appears,
// and a name's directory after. No published library syncs the directory, without which a crash shortly after a
// successful rename can lose the file.
package durable

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"stoker/store/faults"
)

// SyncDir makes the names in dir durable.
func SyncDir(fsys FS, dir string) error {
	if faults.Planted("dir-not-synced") {
		return nil
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// MkdirAll creates dir and its missing parents, and makes their names durable. A folder that is there may have been made by
// a process that died before it made its name durable, so that is done again: else a power cut could take the folder with
// all that was put into it since.
func MkdirAll(fsys FS, dir string, perm fs.FileMode) error {
	st, err := fsys.Stat(dir)
	there := err == nil
	switch {
	case there && !st.IsDir():
		return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	case !there && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if parent == dir {
		return nil
	}
	if err := MkdirAll(fsys, parent, perm); there && errors.Is(err, ErrOutside) {
		return nil // the configured folder itself
	} else if err != nil {
		return err
	}
	if !there {
		if err := fsys.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := SyncDir(fsys, parent); !there || !errors.Is(err, fs.ErrPermission) { // others' folders may not even be read
		return err
	}
	return nil
}

// WriteFile creates or replaces path with data, complete or not at all, and durable once it returns. The umask takes
// nothing from perm. Two goroutines must not write the same path at a time.
func WriteFile(fsys FS, path string, data []byte, perm fs.FileMode) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	f, err := Create(fsys, tmp, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil { // NFS reports a full disk here
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(tmp, path)
	}
	if err != nil {
		fsys.Remove(tmp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return SyncDir(fsys, filepath.Dir(path))
}

// Create makes a new file for writing, in place of what an attempt that died may have left under its name. It opens
// nothing that exists: in a shared folder that could be somebody's link to another file, or a pipe.
func Create(fsys FS, path string, perm fs.FileMode) (File, error) {
	if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return fsys.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
}

// Move gives a file a name that is free, else the error is fs.ErrExist, and syncs both directories. Across filesystems
// the file is copied, synced and compared before the original is unlinked.
func Move(fsys FS, from, to string) error {
	err := fsys.RenameNew(from, to)
	if errors.Is(err, unix.EXDEV) {
		err = moveAcross(fsys, from, to)
	}
	if err != nil {
		return err
	}
	if err := SyncDir(fsys, filepath.Dir(to)); err != nil {
		return err
	}
	return SyncDir(fsys, filepath.Dir(from))
}

// MovePrefix begins the name of a copy under way. What follows tells copies apart: chance here, a batch's id in the archive.
const MovePrefix = ".stoker-move-"

// moveAcross leaves the original where it is until the copy is durable under its name.
func moveAcross(fsys FS, from, to string) error {
	// Others may move files of the same name here at the same time.
	tmp := filepath.Join(filepath.Dir(to), MovePrefix+rand.Text()+".tmp")
	err := Copy(fsys, from, tmp)
	if err == nil {
		err = fsys.RenameNew(tmp, to)
	}
	if err != nil {
		fsys.Remove(tmp)
		return fmt.Errorf("move %s to another filesystem: %w", from, err)
	}
	if err := SyncDir(fsys, filepath.Dir(to)); err != nil {
		return err
	}
	return fsys.Remove(from)
}

// Copy copies contents, permissions and time of modification to a file that it makes, makes them durable, and compares
// what can be read back. The name is not durable yet.
func Copy(fsys FS, from, to string) error {
	if err := copySynced(fsys, from, to); err != nil {
		return err
	}
	same, err := SameContents(fsys, from, to)
	if err == nil && !same {
		err = fmt.Errorf("the copy %s differs", to)
	}
	return err
}

// SameContents reports whether two files hold the same.
func SameContents(fsys FS, a, b string) (bool, error) {
	x, _, err := Hash(fsys, a)
	if err != nil {
		return false, err
	}
	y, _, err := Hash(fsys, b)
	return x == y, err
}

func copySynced(fsys FS, from, to string) error {
	src, err := OpenRegular(fsys, from)
	if err != nil {
		return err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := Create(fsys, to, st.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err == nil {
		err = dst.Chmod(st.Mode().Perm()) // all of them, whatever the umask is
	}
	if err == nil {
		err = dst.Chtime(st.ModTime())
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
func Hash(fsys FS, path string) (SHA256, int64, error) {
	f, err := OpenRegular(fsys, path)
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
