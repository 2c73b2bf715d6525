package durable

import (
	"io/fs"
	"os"
	"time"
)

// Op is what a filesystem is asked to do.
type Op string

// To open a file that is made if need be is OpCreate.
const (
	OpOpen     Op = "open"
	OpCreate   Op = "create"
	OpStat     Op = "stat"
	OpReadDir  Op = "readdir"
	OpMkdir    Op = "mkdir"
	OpRemove   Op = "remove"
	OpRename   Op = "rename"
	OpSyncDir  Op = "syncdir"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpChmod    Op = "chmod"
	OpChown    Op = "chown"
	OpChtime   Op = "chtime"
	OpSync     Op = "sync"
	OpClose    Op = "close"
)

// Call is one operation.
type Call struct {
	Op     Op
	Path   string // of a rename, the new one; of Scratch, the folder
	From   string // of a rename, the old one
	Opened bool   // it is asked of an open file, whose name Path is
}

// Hook stands around each call: it does it, once, or returns why not. Its error is what the caller gets.
type Hook func(c Call, do func() error) error

// Around is a filesystem with a hook around all that is asked of it and of its open files.
func Around(fsys FS, hook Hook) FS { return &hooked{fsys, hook} }

// hooked is a filesystem with a hook.
type hooked struct {
	FS
	hook Hook
}

// result runs a call that returns something beside its error.
func result[T any](hook Hook, c Call, do func() (T, error)) (v T, err error) {
	err = hook(c, func() (err error) {
		v, err = do()
		return err
	})
	return v, err
}

// OpenFile implements FS.
func (h *hooked) OpenFile(path string, flag int, perm fs.FileMode) (File, error) {
	op := OpOpen
	if flag&os.O_CREATE != 0 {
		op = OpCreate
	}
	return h.open(Call{Op: op, Path: path}, func() (File, error) { return h.FS.OpenFile(path, flag, perm) })
}

// Scratch implements FS.
func (h *hooked) Scratch(dir string) (File, error) {
	return h.open(Call{Op: OpCreate, Path: dir}, func() (File, error) { return h.FS.Scratch(dir) })
}

func (h *hooked) open(c Call, open func() (File, error)) (File, error) {
	f, err := result(h.hook, c, open)
	if err != nil {
		return nil, err
	}
	return &hookedFile{f, h.hook}, nil
}

// Stat implements FS.
func (h *hooked) Stat(path string) (fs.FileInfo, error) {
	return result(h.hook, Call{Op: OpStat, Path: path}, func() (fs.FileInfo, error) { return h.FS.Stat(path) })
}

// Lstat implements FS.
func (h *hooked) Lstat(path string) (fs.FileInfo, error) {
	return result(h.hook, Call{Op: OpStat, Path: path}, func() (fs.FileInfo, error) { return h.FS.Lstat(path) })
}

// ReadDir implements FS.
func (h *hooked) ReadDir(dir string) ([]fs.DirEntry, error) {
	return result(h.hook, Call{Op: OpReadDir, Path: dir}, func() ([]fs.DirEntry, error) { return h.FS.ReadDir(dir) })
}

// Mkdir implements FS.
func (h *hooked) Mkdir(dir string, perm fs.FileMode) error {
	return h.hook(Call{Op: OpMkdir, Path: dir}, func() error { return h.FS.Mkdir(dir, perm) })
}

// Remove implements FS.
func (h *hooked) Remove(path string) error {
	return h.hook(Call{Op: OpRemove, Path: path}, func() error { return h.FS.Remove(path) })
}

// RemoveAll implements FS.
func (h *hooked) RemoveAll(dir string) error {
	return h.hook(Call{Op: OpRemove, Path: dir}, func() error { return h.FS.RemoveAll(dir) })
}

// Rename implements FS.
func (h *hooked) Rename(from, to string) error {
	return h.hook(Call{Op: OpRename, Path: to, From: from}, func() error { return h.FS.Rename(from, to) })
}

// RenameNew implements FS.
func (h *hooked) RenameNew(from, to string) error {
	return h.hook(Call{Op: OpRename, Path: to, From: from}, func() error { return h.FS.RenameNew(from, to) })
}

// SyncDir implements FS.
func (h *hooked) SyncDir(dir string) error {
	return h.hook(Call{Op: OpSyncDir, Path: dir}, func() error { return h.FS.SyncDir(dir) })
}

// hookedFile is an open file of a hooked filesystem.
type hookedFile struct {
	File
	hook Hook
}

func (f *hookedFile) call(op Op) Call { return Call{Op: op, Path: f.Name(), Opened: true} }

func (f *hookedFile) do(op Op, do func() error) error { return f.hook(f.call(op), do) }

// moves runs a call that reads or writes bytes.
func (f *hookedFile) moves(op Op, move func() (int, error)) (int, error) {
	return result(f.hook, f.call(op), move)
}

func (f *hookedFile) Read(b []byte) (int, error) {
	return f.moves(OpRead, func() (int, error) { return f.File.Read(b) })
}

func (f *hookedFile) ReadAt(b []byte, at int64) (int, error) {
	return f.moves(OpRead, func() (int, error) { return f.File.ReadAt(b, at) })
}

func (f *hookedFile) Write(b []byte) (int, error) {
	return f.moves(OpWrite, func() (int, error) { return f.File.Write(b) })
}

func (f *hookedFile) WriteAt(b []byte, at int64) (int, error) {
	return f.moves(OpWrite, func() (int, error) { return f.File.WriteAt(b, at) })
}

func (f *hookedFile) WriteString(s string) (int, error) { return f.Write([]byte(s)) }

func (f *hookedFile) Stat() (fs.FileInfo, error) { return result(f.hook, f.call(OpStat), f.File.Stat) }

func (f *hookedFile) Truncate(size int64) error {
	return f.do(OpTruncate, func() error { return f.File.Truncate(size) })
}

func (f *hookedFile) Chmod(mode fs.FileMode) error {
	return f.do(OpChmod, func() error { return f.File.Chmod(mode) })
}

func (f *hookedFile) Chown(uid, gid int) error {
	return f.do(OpChown, func() error { return f.File.Chown(uid, gid) })
}

func (f *hookedFile) Chtime(mtime time.Time) error {
	return f.do(OpChtime, func() error { return f.File.Chtime(mtime) })
}

func (f *hookedFile) Sync() error     { return f.do(OpSync, f.File.Sync) }
func (f *hookedFile) Datasync() error { return f.do(OpSync, f.File.Datasync) }
func (f *hookedFile) Close() error    { return f.do(OpClose, f.File.Close) }
