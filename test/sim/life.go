package sim

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"stoker/store/durable"
)

// Life is the disk as one life of a process sees it. Every operation is a step that the scheduler grants; once the
// process is dead none has an effect any more.
type Life struct {
	disk  *Disk
	sched *Scheduler
	free  bool // it looks at the disk from outside: operations need not be granted, and faults do not concern it
}

var (
	_ durable.FS   = (*Life)(nil)
	_ durable.File = (*handle)(nil)
)

// errDead is what a dead process's operations return, so that its goroutines come to an end.
var errDead = errors.New("this process is dead")

// step waits until the scheduler grants an operation, and does it. What is wrong with the filesystem comes first.
func (l *Life) step(op, path string, writes bool, do func() error) error {
	m, below := l.disk.mountOf(path)
	if m == nil {
		return &fs.PathError{Op: op, Path: path, Err: durable.ErrOutside}
	}
	err := l.sched.Step(l, op+" "+m.name+"/"+strings.Join(below, "/"), func() error {
		if errno := m.faults.refuse(writes); errno != 0 && !l.free {
			return errno
		}
		return do()
	}, func() time.Time { return m.faults.hungTill })
	if err == nil || errors.Is(err, errDead) {
		return err
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// refuse returns the error of an operation on a filesystem with such faults, 0 for none.
func (f *faults) refuse(writes bool) syscall.Errno {
	switch {
	case f.gone:
		return syscall.ENOTCONN
	case writes && f.readOnly:
		return syscall.EROFS
	case writes && f.broken:
		return syscall.EIO
	}
	return 0
}

// OpenFile implements durable.FS.
func (l *Life) OpenFile(path string, flag int, perm fs.FileMode) (durable.File, error) {
	var h *handle
	err := l.step("open", path, flag&(os.O_CREATE|os.O_TRUNC) != 0, func() error {
		dir, name := l.disk.parent(path)
		if dir == nil {
			return syscall.ENOENT
		}
		n := dir.entries[name]
		switch {
		case n == nil && flag&os.O_CREATE == 0:
			return syscall.ENOENT
		case n != nil && flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
			return syscall.EEXIST
		case n == nil:
			n = l.disk.newInode(dir.mount, perm)
			dir.mount.apply(naming{dir, name, n})
		case flag&os.O_TRUNC != 0:
			n.change(change{size: 0})
		}
		h = &handle{life: l, inode: n, path: path}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// change changes a file's contents, in memory for now.
func (n *inode) change(c change) {
	n.data = c.apply(n.data)
	n.pending = append(n.pending, c)
	n.mtime = time.Now()
}

// Stat implements durable.FS. There are no links.
func (l *Life) Stat(path string) (fs.FileInfo, error) { return l.stat("stat", path) }

// Lstat implements durable.FS.
func (l *Life) Lstat(path string) (fs.FileInfo, error) { return l.stat("lstat", path) }

func (l *Life) stat(op, path string) (info fs.FileInfo, err error) {
	err = l.step(op, path, false, func() error {
		n := l.disk.find(path)
		if n == nil {
			return syscall.ENOENT
		}
		info = n.info(filepath.Base(path))
		return nil
	})
	return info, err
}

// ReadDir implements durable.FS.
func (l *Life) ReadDir(dir string) (entries []fs.DirEntry, err error) {
	err = l.step("readdir", dir, false, func() error {
		n := l.disk.find(dir)
		if n == nil {
			return syscall.ENOENT
		}
		for name, e := range n.entries {
			entries = append(entries, fs.FileInfoToDirEntry(e.info(name)))
		}
		slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		return nil
	})
	return entries, err
}

// Mkdir implements durable.FS.
func (l *Life) Mkdir(path string, _ fs.FileMode) error {
	return l.step("mkdir", path, true, func() error {
		dir, name := l.disk.parent(path)
		switch {
		case dir == nil:
			return syscall.ENOENT
		case dir.entries[name] != nil:
			return syscall.EEXIST
		}
		dir.mount.apply(naming{dir, name, l.disk.newDir(dir.mount)})
		return nil
	})
}

// Remove implements durable.FS.
func (l *Life) Remove(path string) error {
	return l.step("remove", path, true, func() error {
		dir, name := l.disk.parent(path)
		if dir == nil || dir.entries[name] == nil {
			return syscall.ENOENT
		}
		n := dir.entries[name]
		if n.isDir() && len(n.entries) > 0 {
			return syscall.ENOTEMPTY
		}
		dir.mount.apply(naming{dir, name, nil})
		n.links--
		return nil
	})
}

// RemoveAll implements durable.FS, one name after another.
func (l *Life) RemoveAll(path string) error {
	entries, err := l.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		below := filepath.Join(path, e.Name())
		if e.IsDir() {
			err = l.RemoveAll(below)
		} else {
			err = l.Remove(below)
		}
		if err != nil {
			return err
		}
	}
	return l.Remove(path)
}

// Rename implements durable.FS.
func (l *Life) Rename(from, to string) error { return l.rename(from, to, true) }

// RenameNew implements durable.FS.
func (l *Life) RenameNew(from, to string) error { return l.rename(from, to, false) }

func (l *Life) rename(from, to string, replace bool) error {
	return l.step("rename", from, true, func() error {
		fromDir, fromName := l.disk.parent(from)
		toDir, toName := l.disk.parent(to)
		m, _ := l.disk.mountOf(to)
		switch n, _ := l.disk.mountOf(from); {
		case m != n && m.faults.refuse(true) != 0:
			return m.faults.refuse(true)
		case m != n:
			return syscall.EXDEV
		case fromDir == nil || toDir == nil || fromDir.entries[fromName] == nil:
			return syscall.ENOENT
		}
		if toDir.entries[toName] != nil && !replace {
			return syscall.EEXIST
		}
		m.apply(naming{fromDir, fromName, nil}, naming{toDir, toName, fromDir.entries[fromName]})
		return nil
	})
}

// SyncDir implements durable.FS.
func (l *Life) SyncDir(dir string) error {
	return l.step("syncdir", dir, true, func() error {
		n := l.disk.find(dir)
		if n == nil {
			return syscall.ENOENT
		}
		n.mount.syncDir(n)
		return nil
	})
}

// Scratch implements durable.FS.
func (l *Life) Scratch(dir string) (durable.File, error) {
	var h *handle
	err := l.step("scratch", dir, true, func() error {
		m, _ := l.disk.mountOf(dir)
		h = &handle{life: l, inode: l.disk.newInode(m, 0o600), path: filepath.Join(dir, "scratch"), scratch: true}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// handle is an open file.
type handle struct {
	life    *Life
	inode   *inode
	path    string
	at      int64 // of the next Read or Write
	scratch bool
}

// Name implements durable.File.
func (h *handle) Name() string { return h.path }

// Stat implements durable.File.
func (h *handle) Stat() (info fs.FileInfo, err error) {
	h.life.sched.Look(func() { info = h.inode.info(filepath.Base(h.path)) })
	return info, nil
}

// Read implements durable.File. Nobody else writes a file that stoker reads from its start, but for inputs, which may grow.
func (h *handle) Read(p []byte) (n int, err error) {
	n, err = h.ReadAt(p, h.at)
	h.at += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// ReadAt implements durable.File.
func (h *handle) ReadAt(p []byte, offset int64) (n int, err error) {
	h.life.sched.Look(func() {
		if offset < int64(len(h.inode.data)) {
			n = copy(p, h.inode.data[offset:])
		}
	})
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Write implements durable.File.
func (h *handle) Write(p []byte) (int, error) {
	n, err := h.WriteAt(p, h.at)
	h.at += int64(n)
	return n, err
}

// WriteString implements durable.File.
func (h *handle) WriteString(s string) (int, error) { return h.Write([]byte(s)) }

// WriteAt implements durable.File. What no longer fits is not written, what fits is.
func (h *handle) WriteAt(p []byte, offset int64) (n int, err error) {
	if h.scratch {
		h.life.sched.Look(func() { h.inode.data = change{offset: offset, data: p, size: -1}.apply(h.inode.data) })
		return len(p), nil
	}
	err = h.life.step("write", h.path, true, func() error {
		if n = h.inode.fits(offset, len(p)); n > 0 {
			h.inode.change(change{offset: offset, data: slices.Clone(p[:n]), size: -1})
		}
		if n < len(p) {
			return syscall.ENOSPC
		}
		return nil
	})
	return n, err
}

// fits is how many of n bytes the filesystem has room for.
func (n *inode) fits(offset int64, length int) int {
	limit, grows := n.mount.faults.limit, offset+int64(length)-int64(len(n.data))
	if limit == 0 || grows <= 0 {
		return length
	}
	return int(max(0, min(int64(length), int64(length)-(n.mount.dir.size()+grows-limit))))
}

// Truncate implements durable.File.
func (h *handle) Truncate(size int64) error {
	if h.scratch {
		h.life.sched.Look(func() { h.inode.data = resize(h.inode.data, size) })
		return nil
	}
	return h.life.step("truncate", h.path, true, func() error {
		h.inode.change(change{size: size})
		return nil
	})
}

// Chmod implements durable.File.
func (h *handle) Chmod(mode fs.FileMode) error {
	h.life.sched.Look(func() { h.inode.mode = mode })
	return nil
}

// Chown implements durable.File.
func (h *handle) Chown(int, int) error { return nil }

// Chtime implements durable.File.
func (h *handle) Chtime(mtime time.Time) error {
	h.life.sched.Look(func() { h.inode.mtime = mtime })
	return nil
}

// Sync implements durable.File. A sync that fails loses what it was to save, though it can still be read: the kernel
// marks the pages clean.
func (h *handle) Sync() error {
	err := h.life.step("fsync", h.path, true, func() error {
		h.inode.sync()
		return nil
	})
	if err != nil && !errors.Is(err, errDead) {
		h.life.sched.Look(func() { h.inode.pending = nil })
	}
	return err
}

// Datasync implements durable.File.
func (h *handle) Datasync() error { return h.Sync() }

// Close implements durable.File.
func (h *handle) Close() error { return nil }

// info is what stat tells.
type info struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
	sys   syscall.Stat_t
}

func (n *inode) info(name string) fs.FileInfo {
	i := &info{name: name, size: int64(len(n.data)), mode: n.mode, mtime: n.mtime}
	i.sys.Ino, i.sys.Nlink = n.number, uint64(max(n.links, 0))
	return i
}

func (i *info) Name() string       { return i.name }
func (i *info) Size() int64        { return i.size }
func (i *info) Mode() fs.FileMode  { return i.mode }
func (i *info) ModTime() time.Time { return i.mtime }
func (i *info) IsDir() bool        { return i.mode.IsDir() }
func (i *info) Sys() any           { return &i.sys }
