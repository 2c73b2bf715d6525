package inbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"stoker/store"
	"stoker/store/batchfile"
	"stoker/store/durable"
	"stoker/store/faults"
	"stoker/store/layout"
)

// fileKey is where a file lies in the inbox.
type fileKey struct {
	queue string
	name  store.FileName
}

// fingerprint changes when a file's contents may have changed. Times are only compared with each other, never with this
// machine's clock: another machine's may be wrong, and copies keep old ones.
type fingerprint struct {
	size  int64
	mtime time.Time
	inode uint64
}

func fingerprintOf(st fs.FileInfo) fingerprint {
	p := fingerprint{size: st.Size(), mtime: st.ModTime()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		p.inode = sys.Ino
	}
	return p
}

func (p fingerprint) equal(q fingerprint) bool {
	return p.size == q.size && p.mtime.Equal(q.mtime) && p.inode == q.inode
}

// file is a batch file that is not claimed yet.
type file struct {
	print  fingerprint
	seen   time.Time // when the fingerprint was first seen, on this process's monotonic clock
	due    time.Time // when it may be complete; zero if that is not a question of time
	ready  bool
	tail   bool               // taken although its last line has no newline
	lacks  *durable.FullError // room in the state; nil if there is enough
	state  string
	reason string
	failed string // why the last try to claim it failed
}

// maxIgnored bounds how many ignored files status names.
const maxIgnored = 100

// scan looks at the inbox and its queues.
func (in *Inbox) scan() error {
	if _, err := in.fs.Lstat(in.inboxDir); err != nil { // a share that hangs must not do so unseen
		return err
	}
	in.follow(in.inboxDir)
	root, err := in.fs.ReadDir(in.inboxDir)
	if err != nil {
		return err
	}
	in.ignored = nil
	round := map[fileKey]bool{}
	var queues []string
	for _, e := range root {
		switch {
		case e.IsDir() && layout.IsQueue(e.Name()):
			queues = append(queues, e.Name())
		case e.IsDir() && !utf8.ValidString(e.Name()):
			in.ignore("", e.Name(), "a queue's name must be UTF-8")
		}
	}
	in.sort("", root, round)
	for _, q := range queues {
		in.follow(filepath.Join(in.inboxDir, q))
		entries, err := in.fs.ReadDir(filepath.Join(in.inboxDir, q))
		if err != nil {
			in.ignore(q, "", "cannot be read: "+in.refused(err, filepath.Join(in.inboxDir, q), toLook))
			in.keep(q, round)
			continue
		}
		in.sort(q, entries, round)
	}
	for k := range in.files {
		if !round[k] {
			delete(in.files, k) // taken away before it was taken
		}
	}
	in.foreign = in.foreignClaims()
	return nil
}

// follow has a folder watched, of which the watcher asks the system itself.
func (in *Inbox) follow(dir string) {
	in.o.Pulse.Begin()
	defer in.o.Pulse.End()
	in.watch.Follow(dir)
}

// keep leaves what is known of a queue as it is, because it cannot be read now.
func (in *Inbox) keep(queue string, round map[fileKey]bool) {
	for k := range in.files {
		round[k] = round[k] || k.queue == queue
	}
}

// sort tells what a folder holds: batch files, and what is none.
func (in *Inbox) sort(queue string, entries []fs.DirEntry, round map[fileKey]bool) {
	for _, e := range entries {
		name := e.Name()
		switch {
		case IsIgnored(name), e.IsDir() && queue == "":
		case e.IsDir():
			in.ignore(queue, name, "folders this deep are not looked into")
		case e.Type() == fs.ModeSymlink && queue == "" && !isBatch(name):
			in.ignore(queue, name, "a symbolic link, which stoker does not follow; a queue must be a real folder")
		case !isBatch(name):
			in.ignore(queue, name, "not a .jsonl, .jsonl.gz or .jsonl.zst file")
		case !e.Type().IsRegular():
			in.ignore(queue, name, "not a regular file, but "+kindOf(e.Type()))
		default:
			key := fileKey{queue, store.FileName(name)}
			round[key] = in.observe(key)
		}
	}
}

func (in *Inbox) ignore(queue, name, reason string) {
	if len(in.ignored) < maxIgnored {
		in.ignored = append(in.ignored, Waiting{Queue: queue, Name: store.FileName(name), State: "ignored", Reason: reason})
	}
}

// kindOf says what is no regular file.
func kindOf(m fs.FileMode) string {
	switch m.Type() {
	case fs.ModeDir:
		return "a folder"
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a pipe"
	case fs.ModeSocket:
		return "a socket"
	default:
		return "a device"
	}
}

func (in *Inbox) path(k fileKey) string { return filepath.Join(in.inboxDir, k.queue, string(k.name)) }

// observe compares a file with what was seen of it before. It reports false if the file is gone.
func (in *Inbox) observe(k fileKey) bool {
	st, err := in.fs.Lstat(in.path(k))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
		return false
	}
	f := in.files[k]
	if f == nil {
		f = &file{seen: time.Now()}
		in.files[k] = f
		if err == nil {
			f.print = fingerprintOf(st)
		}
	}
	f.ready, f.lacks, f.due = false, nil, time.Time{}
	if err != nil {
		f.wait("cannot be read: " + reasonOf(err))
		return true
	}
	if p := fingerprintOf(st); !p.equal(f.print) {
		f.print, f.seen, f.tail = p, time.Now(), false
	}
	in.judge(k, f)
	return true
}

const stateWaiting = "waiting"

func (f *file) wait(reason string) { f.ready, f.state, f.reason = false, stateWaiting, reason }

// judge decides whether a file is complete.
func (in *Inbox) judge(k fileKey, f *file) {
	quiet := time.Since(f.seen)
	switch {
	case f.print.size == 0:
		f.wait("empty")
	case faults.Planted("claim-before-settle"):
		f.ready, f.tail = true, true
	case in.o.Ready == ReadySidecar && !in.hasSidecar(k):
		f.wait("its .done file is not there yet")
	case in.o.Ready == ReadySettle && quiet < in.o.Settle:
		f.state, f.reason = "settling", "may still be written to"
		f.due = f.seen.Add(in.o.Settle)
	default:
		in.judgeTail(k, f, quiet)
	}
}

// judgeTail looks at the last byte: JSONL that does not end in a newline is not finished, however quiet it is. In a
// compressed file the decoder finds out.
func (in *Inbox) judgeTail(k fileKey, f *file, quiet time.Duration) {
	ends, err := in.endsInNewline(in.path(k), f.print.size)
	if err != nil {
		f.wait("cannot be read: " + in.refused(err, in.path(k), toRead))
		return
	}
	_, compression, _ := store.SplitInputName(string(k.name))
	f.tail = !ends && compression == batchfile.Plain
	if f.tail && in.o.Ready == ReadySettle && quiet < in.o.TailGrace {
		f.wait(fmt.Sprintf("last line has no newline, %s", quiet.Round(time.Second)))
		f.due = f.seen.Add(in.o.TailGrace)
		return
	}
	f.ready, f.state, f.reason = true, stateWaiting, "ready to be taken"
}

func (in *Inbox) endsInNewline(path string, size int64) (bool, error) {
	f, err := durable.OpenRegular(in.fs, path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var last [1]byte
	if _, err := f.ReadAt(last[:], size-1); err != nil {
		return false, err
	}
	return last[0] == '\n', nil
}

// sidecars are the names that announce a file as complete: x.done and x.jsonl.done for x.jsonl.
func (in *Inbox) sidecars(k fileKey) []string {
	name := string(k.name)
	stem, _ := splitName(name)
	dir := filepath.Join(in.inboxDir, k.queue)
	return []string{filepath.Join(dir, stem+".done"), filepath.Join(dir, name+".done")}
}

func (in *Inbox) hasSidecar(k fileKey) bool {
	return slices.ContainsFunc(in.sidecars(k), func(path string) bool {
		_, err := in.fs.Lstat(path)
		return err == nil
	})
}

func (in *Inbox) foreignClaims() []Foreign {
	var all []Foreign
	root := layout.ClaimsDir(in.inboxDir, "")
	dirs, _ := in.fs.ReadDir(root)
	for _, d := range dirs {
		if d.IsDir() && d.Name() != in.o.Store.Instance() && len(all) < maxIgnored {
			all = append(all, Foreign{Instance: strings.ToValidUTF8(d.Name(), "\uFFFD"), Claims: in.countClaims(filepath.Join(root, d.Name()))})
		}
	}
	return all
}

// countClaims counts the folders that hold a claimed file: a crash before the rename leaves an empty one.
func (in *Inbox) countClaims(dir string) int {
	n := 0
	claims, _ := in.fs.ReadDir(dir)
	for _, c := range claims {
		if entries, _ := in.fs.ReadDir(filepath.Join(dir, c.Name())); slices.ContainsFunc(entries, isClaimed) {
			n++
		}
	}
	return n
}

// reasonOf is an error's cause without the path, which stands beside it.
func reasonOf(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

func sortWaiting(w []Waiting) {
	slices.SortFunc(w, func(a, b Waiting) int {
		return cmp.Or(cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
}
