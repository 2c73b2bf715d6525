// Package sim runs a request's whole way — inbox, store, dispatch, outbox — in one process on a simulated disk and a fake
// clock, and lets everything go wrong that may: crashes at any step, power cuts that keep some of what was not synced,
// faults of disk and shares, a worker that dies. One seed decides it all, so that a failure can be run again.
package sim

import (
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Disk is the filesystems of one machine. It keeps apart what is written from what would survive a power cut: a file's
// contents up to its last sync, and a folder's names up to theirs. It is not safe for concurrent use: the scheduler
// lets one operation happen at a time.
type Disk struct {
	rand   *rand.Rand
	mounts []*mount
	inodes uint64
}

// mount is one filesystem.
type mount struct {
	name    string
	root    string // where it is mounted
	dir     *inode
	pending []*renaming // changes of names that no sync covers, oldest first
	faults  faults
}

// faults are what is wrong with a filesystem now.
type faults struct {
	limit    int64     // bytes that fit; 0: any
	readOnly bool      // EROFS
	broken   bool      // EIO, of whatever writes
	gone     bool      // ENOTCONN, of everything
	hungTill time.Time // nothing answers before
}

// inode is a file or a folder.
type inode struct {
	mount   *mount
	number  uint64
	mode    fs.FileMode
	mtime   time.Time
	links   int
	data    []byte            // of a file
	synced  []byte            // of a file: what the disk holds
	pending []change          // of a file: changes of data that no sync covers, oldest first
	entries map[string]*inode // of a folder
	durable map[string]*inode // of a folder: what the disk holds
}

// change is a write, or a new size.
type change struct {
	offset int64
	data   []byte
	size   int64 // -1: a write
}

func (c change) apply(b []byte) []byte {
	if c.size >= 0 {
		return resize(b, c.size)
	}
	if end := c.offset + int64(len(c.data)); end > int64(len(b)) {
		b = resize(b, end)
	}
	copy(b[c.offset:], c.data)
	return b
}

// resize cuts b, or fills it up with zeros.
func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

// renaming is a change of names that happens as a whole or not at all, as journaling filesystems promise.
type renaming struct{ names []naming }

// naming gives a name in a folder to a file, or takes it away.
type naming struct {
	dir  *inode
	name string
	to   *inode // nil: the name is free
}

func (r *renaming) touches(dir *inode) bool {
	return slices.ContainsFunc(r.names, func(n naming) bool { return n.dir == dir })
}

func (r *renaming) reachDisk() {
	for _, n := range r.names {
		set(n.dir.durable, n.name, n.to)
	}
}

func set(entries map[string]*inode, name string, to *inode) {
	if to == nil {
		delete(entries, name)
	} else {
		entries[name] = to
	}
}

// NewDisk returns a machine with a filesystem mounted at each of the roots, which are not nested.
func NewDisk(r *rand.Rand, roots ...string) *Disk {
	d := &Disk{rand: r}
	for _, root := range roots {
		m := &mount{name: filepath.Base(root), root: root}
		m.dir = d.newDir(m)
		d.mounts = append(d.mounts, m)
	}
	return d
}

func (d *Disk) newInode(m *mount, mode fs.FileMode) *inode {
	d.inodes++
	return &inode{mount: m, number: d.inodes, mode: mode, mtime: time.Now(), links: 1}
}

func (d *Disk) newDir(m *mount) *inode {
	n := d.newInode(m, fs.ModeDir|0o775)
	n.entries, n.durable = map[string]*inode{}, map[string]*inode{}
	return n
}

// mountOf returns the filesystem that a path is on, nil for none, and the path's elements from there.
func (d *Disk) mountOf(path string) (*mount, []string) {
	for _, m := range d.mounts {
		if rel, ok := strings.CutPrefix(path, m.root); ok && rel == "" {
			return m, nil
		} else if ok && rel[0] == '/' {
			return m, strings.Split(rel[1:], "/")
		}
	}
	return nil, nil
}

// apply makes a change of names that no sync covers yet.
func (m *mount) apply(names ...naming) {
	for _, n := range names {
		set(n.dir.entries, n.name, n.to)
	}
	m.pending = append(m.pending, &renaming{names})
}

// syncDir makes the names in a folder durable, and with them the other half of what was moved from or to it.
func (m *mount) syncDir(dir *inode) {
	m.pending = slices.DeleteFunc(m.pending, func(r *renaming) bool {
		if !r.touches(dir) {
			return false
		}
		r.reachDisk()
		return true
	})
}

// PowerCut leaves of all filesystems what is durable, and of the rest what chance lets through.
func (d *Disk) PowerCut() {
	for _, m := range d.mounts {
		m.cutNames(d.rand)
		m.cutFiles(d.rand, m.dir)
		m.pending = nil
	}
}

// cutNames lets some changes of names through: all up to one of them, as a journal of metadata does, or any.
func (m *mount) cutNames(r *rand.Rand) {
	ordered, upTo := r.IntN(2) == 0, r.IntN(len(m.pending)+1)
	for i, p := range m.pending {
		if ordered && i < upTo || !ordered && r.IntN(2) == 0 {
			p.reachDisk()
		}
	}
}

// cutFiles does so for what was written to files, write by write, and makes what the disk holds all there is.
func (m *mount) cutFiles(r *rand.Rand, dir *inode) {
	dir.entries = maps.Clone(dir.durable)
	for _, name := range slices.Sorted(maps.Keys(dir.entries)) {
		n := dir.entries[name]
		if n.isDir() {
			m.cutFiles(r, n)
			continue
		}
		for _, c := range n.pending {
			switch chance := r.IntN(10); {
			case chance < 5:
				n.synced = c.apply(n.synced)
			case chance < 7 && len(c.data) > 0: // torn
				c.data = c.data[:r.IntN(len(c.data))]
				n.synced = c.apply(n.synced)
			}
		}
		n.pending, n.data = nil, slices.Clone(n.synced)
	}
}

func (n *inode) isDir() bool { return n.mode.IsDir() }

// size is how much all files below hold.
func (n *inode) size() (bytes int64) {
	if !n.isDir() {
		return int64(len(n.data))
	}
	for _, e := range n.entries {
		bytes += e.size()
	}
	return bytes
}

// sync makes durable what was written to a file since the last sync. What an earlier one failed to write the kernel has
// forgotten by then, though it can still be read.
func (n *inode) sync() {
	n.synced = slices.Clone(n.synced)
	for _, c := range n.pending {
		n.synced = c.apply(n.synced)
	}
	n.pending = nil
}

// find returns what has a path's name, nil if nothing has.
func (d *Disk) find(path string) *inode {
	m, elements := d.mountOf(path)
	if m == nil {
		return nil
	}
	n := m.dir
	for _, e := range elements {
		if n = n.entries[e]; n == nil {
			return nil
		}
	}
	return n
}

// parent returns the folder that a path's last element is in, nil if it is not there, and that element.
func (d *Disk) parent(path string) (dir *inode, name string) {
	dir = d.find(filepath.Dir(path))
	if dir != nil && !dir.isDir() {
		dir = nil
	}
	return dir, filepath.Base(path)
}

// Put writes a file as somebody else does who waits until it is durable: a user, on another machine.
func (d *Disk) Put(path, content string, mtime time.Time) {
	d.putDirs(filepath.Dir(path))
	dir, name := d.parent(path)
	n := dir.entries[name]
	if n == nil {
		n = d.newInode(dir.mount, 0o664)
		dir.mount.apply(naming{dir, name, n})
	}
	n.data, n.mtime = []byte(content), mtime
	n.synced, n.pending = []byte(content), nil
	dir.mount.syncDir(dir)
}

func (d *Disk) putDirs(path string) {
	if d.find(path) != nil {
		return
	}
	d.putDirs(filepath.Dir(path))
	dir, name := d.parent(path)
	dir.mount.apply(naming{dir, name, d.newDir(dir.mount)})
	dir.mount.syncDir(dir)
}

// Walk calls visit for every file, in the order of names.
func (d *Disk) Walk(visit func(path string, content []byte)) {
	for _, m := range d.mounts {
		m.dir.walk(m.root, visit)
	}
}

func (n *inode) walk(path string, visit func(path string, content []byte)) {
	if !n.isDir() {
		visit(path, n.data)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		n.entries[name].walk(filepath.Join(path, name), visit)
	}
}

// hasClaims reports whether a claim's folder is left in an inbox.
func (d *Disk) hasClaims(inbox string) bool {
	processing := d.find(filepath.Join(inbox, ".processing"))
	if processing == nil {
		return false
	}
	for _, instance := range processing.entries {
		if len(instance.entries) > 0 {
			return true
		}
	}
	return false
}
