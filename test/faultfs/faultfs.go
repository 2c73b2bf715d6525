// Package faultfs is a filesystem that fails, or hangs, when a test wants it to.
package faultfs

import (
	"io/fs"
	"os"
	"sync"
	"time"

	"stoker/store/durable"
)

// Op is what a filesystem is asked to do.
type Op string

const (
	Open    Op = "open"
	Create  Op = "create"
	Stat    Op = "stat"
	ReadDir Op = "readdir"
	Mkdir   Op = "mkdir"
	Remove  Op = "remove"
	Rename  Op = "rename"
	SyncDir Op = "syncdir"
	Read    Op = "read"
	Write   Op = "write"
	Resize  Op = "resize"
	Mode    Op = "mode"
	Sync    Op = "sync"
	Close   Op = "close"
)

// Ops are all of them.
var Ops = []Op{Open, Create, Stat, ReadDir, Mkdir, Remove, Rename, SyncDir, Read, Write, Resize, Mode, Sync, Close}

// Rule decides whether an operation fails, and how. It may block.
type Rule func(op Op, path string) error

// FS does what the filesystem below it does, unless its rule says otherwise.
type FS struct {
	durable.FS

	mu   sync.Mutex
	rule Rule
}

// New returns a filesystem without a rule.
func New(below durable.FS) *FS { return &FS{FS: below} }

// Set sets the rule; nil ends all faults.
func (f *FS) Set(rule Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = rule
}

func (f *FS) ask(op Op, path string) error {
	f.mu.Lock()
	rule := f.rule
	f.mu.Unlock()
	if rule == nil {
		return nil
	}
	if err := rule(op, path); err != nil {
		return &fs.PathError{Op: string(op), Path: path, Err: err}
	}
	return nil
}

// OpenFile implements durable.FS.
func (f *FS) OpenFile(path string, flag int, perm fs.FileMode) (durable.File, error) {
	op := Open
	if flag&os.O_CREATE != 0 {
		op = Create
	}
	if err := f.ask(op, path); err != nil {
		return nil, err
	}
	below, err := f.FS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return file{below, f}, nil
}

// Scratch implements durable.FS.
func (f *FS) Scratch(dir string) (durable.File, error) {
	if err := f.ask(Create, dir); err != nil {
		return nil, err
	}
	below, err := f.FS.Scratch(dir)
	if err != nil {
		return nil, err
	}
	return file{below, f}, nil
}

// Stat implements durable.FS.
func (f *FS) Stat(path string) (fs.FileInfo, error) {
	if err := f.ask(Stat, path); err != nil {
		return nil, err
	}
	return f.FS.Stat(path)
}

// Lstat implements durable.FS.
func (f *FS) Lstat(path string) (fs.FileInfo, error) {
	if err := f.ask(Stat, path); err != nil {
		return nil, err
	}
	return f.FS.Lstat(path)
}

// ReadDir implements durable.FS.
func (f *FS) ReadDir(dir string) ([]fs.DirEntry, error) {
	if err := f.ask(ReadDir, dir); err != nil {
		return nil, err
	}
	return f.FS.ReadDir(dir)
}

// Mkdir implements durable.FS.
func (f *FS) Mkdir(dir string, perm fs.FileMode) error {
	if err := f.ask(Mkdir, dir); err != nil {
		return err
	}
	return f.FS.Mkdir(dir, perm)
}

// Remove implements durable.FS.
func (f *FS) Remove(path string) error {
	if err := f.ask(Remove, path); err != nil {
		return err
	}
	return f.FS.Remove(path)
}

// RemoveAll implements durable.FS.
func (f *FS) RemoveAll(dir string) error {
	if err := f.ask(Remove, dir); err != nil {
		return err
	}
	return f.FS.RemoveAll(dir)
}

// Rename implements durable.FS.
func (f *FS) Rename(from, to string) error {
	if err := f.ask(Rename, to); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

// RenameNew implements durable.FS.
func (f *FS) RenameNew(from, to string) error {
	if err := f.ask(Rename, to); err != nil {
		return err
	}
	return f.FS.RenameNew(from, to)
}

// SyncDir implements durable.FS.
func (f *FS) SyncDir(dir string) error {
	if err := f.ask(SyncDir, dir); err != nil {
		return err
	}
	return f.FS.SyncDir(dir)
}

type file struct {
	durable.File
	fs *FS
}

// do asks before an operation on the file.
func (f file) do(op Op, do func() error) error {
	if err := f.fs.ask(op, f.Name()); err != nil {
		return err
	}
	return do()
}

// moves asks before bytes are read or written.
func (f file) moves(op Op, move func() (int, error)) (n int, err error) {
	if err := f.fs.ask(op, f.Name()); err != nil {
		return 0, err
	}
	return move()
}

func (f file) Read(b []byte) (int, error) {
	return f.moves(Read, func() (int, error) { return f.File.Read(b) })
}

func (f file) ReadAt(b []byte, at int64) (int, error) {
	return f.moves(Read, func() (int, error) { return f.File.ReadAt(b, at) })
}

func (f file) Write(b []byte) (int, error) {
	return f.moves(Write, func() (int, error) { return f.File.Write(b) })
}

func (f file) WriteAt(b []byte, at int64) (int, error) {
	return f.moves(Write, func() (int, error) { return f.File.WriteAt(b, at) })
}

func (f file) WriteString(s string) (int, error) { return f.Write([]byte(s)) }

func (f file) Truncate(size int64) error {
	return f.do(Resize, func() error { return f.File.Truncate(size) })
}

func (f file) Chmod(mode fs.FileMode) error {
	return f.do(Mode, func() error { return f.File.Chmod(mode) })
}

func (f file) Chown(uid, gid int) error {
	return f.do(Mode, func() error { return f.File.Chown(uid, gid) })
}

func (f file) Chtime(mtime time.Time) error {
	return f.do(Mode, func() error { return f.File.Chtime(mtime) })
}

func (f file) Sync() error     { return f.do(Sync, f.File.Sync) }
func (f file) Datasync() error { return f.do(Sync, f.File.Datasync) }

// Close closes the file also when it fails: a descriptor is gone after the first try.
func (f file) Close() error {
	if err := f.fs.ask(Close, f.Name()); err != nil {
		f.File.Close()
		return err
	}
	return f.File.Close()
}
