package inbox

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"stoker/store"
	"stoker/store/durable"
	"stoker/store/journal"
	"stoker/test/faultfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is an inbox with a real store and real folders. In a synctest bubble, polling, its clock is a fake one.
type rig struct {
	t     *testing.T
	dir   string
	o     Options
	store *store.Store
	inbox *Inbox
	stop  func()

	mu       sync.Mutex
	admitted []*store.Record
}

// newRig opens folders and state; run starts the inbox.
func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: t.TempDir(), stop: func() {}}
	var err error
	if r.store, err = store.Open(filepath.Join(r.dir, "state")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.stop()
		report, err := r.store.Verify(context.Background(), "", store.Folders{Inbox: r.path()})
		if err != nil || report.Broken() {
			t.Errorf("verify: %v %+v", err, report)
		}
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	})
	r.mkdir(r.path())
	r.o = Options{
		Dir: r.path(), Archive: filepath.Join(r.dir, "archive"),
		Settings: Settings{
			Settle: 2 * time.Second, Rescan: 30 * time.Second, PollEvery: 2 * time.Second, TailGrace: time.Minute, MaxLine: 1 << 20,
			Defaults: func(string) map[string]any { return nil },
		},
		Store:     r.store,
		NameTaken: func(string, store.FileName) (bool, error) { return false, nil },
		Admitted:  r.admit, Logger: zerolog.Nop(),
	}
	return r
}

func (r *rig) admit(rec *store.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.admitted = append(r.admitted, rec)
}

func (r *rig) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	r.inbox = New(r.o)
	go func() {
		defer close(done)
		r.inbox.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		<-done
	}
}

// pass lets time go by, on a fake clock.
func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) path(name ...string) string {
	return filepath.Join(append([]string{r.dir, "inbox"}, name...)...)
}

func (r *rig) mkdir(path string) {
	r.t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		r.t.Fatal(err)
	}
}

const line = `{"prompt":"hi"}` + "\n"

func (r *rig) write(name, text string) {
	r.t.Helper()
	r.mkdir(filepath.Dir(r.path(name)))
	if err := os.WriteFile(r.path(name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) append(path, text string) {
	r.t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		r.t.Fatal(err)
	}
}

// names are the names of the batches that were admitted, as QUEUE/INPUT.
func (r *rig) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := []string{}
	for _, rec := range r.admitted {
		names = append(names, filepath.Join(rec.Queue, string(rec.Input.Name)))
	}
	slices.Sort(names)
	return names
}

func (r *rig) want(names ...string) {
	r.t.Helper()
	slices.Sort(names)
	if got := r.names(); !slices.Equal(got, names) {
		r.t.Errorf("taken are %q, want %q; status %+v", got, names, r.inbox.Status())
	}
}

// reason returns why a file waits or is ignored.
func (r *rig) reason(name string) string {
	r.t.Helper()
	s := r.inbox.Status()
	for _, w := range append(s.Waiting, s.Ignored...) {
		if filepath.Join(w.Queue, string(w.Name)) == name {
			return w.Reason
		}
	}
	return fmt.Sprintf("(not in %+v)", s)
}

func (r *rig) wantReason(name, want string) {
	r.t.Helper()
	if got := r.reason(name); !strings.Contains(got, want) {
		r.t.Errorf("%s waits because %q, want %q in it", name, got, want)
	}
}

// tree lists the files below a folder of the rig.
func (r *rig) tree(folder string) []string {
	r.t.Helper()
	names := []string{}
	root := filepath.Join(r.dir, folder)
	err := filepath.Walk(root, func(path string, st os.FileInfo, err error) error {
		if err == nil && !st.IsDir() {
			name, _ := filepath.Rel(root, path)
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return names
}

func (r *rig) wantTree(folder string, want ...string) {
	r.t.Helper()
	slices.Sort(want)
	if got := r.tree(folder); !slices.Equal(got, want) {
		r.t.Errorf("%s holds %q, want %q", folder, got, want)
	}
}

func (r *rig) processing(parts ...string) string {
	return filepath.Join(append([]string{".processing", r.store.Instance()}, parts...)...)
}

// faulty puts the rig's folders on a filesystem whose faults the test sets.
func (r *rig) faulty() *faultfs.FS {
	disk := faultfs.New(durable.Local{})
	r.o.FS = disk
	return disk
}

// across does that, too, and puts the archive on another one.
func (r *rig) across() *faultfs.FS {
	disk := r.faulty()
	r.o.FS = elsewhere{disk, r.o.Archive}
	return disk
}

// drop drops a file and waits until it is taken.
func (r *rig) drop(name string) {
	r.t.Helper()
	r.write(name, line)
	r.pass(5 * time.Second)
}

// failing makes what is told fail with err.
func failing(err error, which func(op faultfs.Op, path string) bool) faultfs.Rule {
	return func(op faultfs.Op, path string) error {
		if which(op, path) {
			return err
		}
		return nil
	}
}

// elsewhere is a filesystem whose archive is on another one.
type elsewhere struct {
	durable.FS
	archive string
}

func (e elsewhere) RenameNew(from, to string) error {
	if strings.HasPrefix(from, e.archive) != strings.HasPrefix(to, e.archive) {
		return unix.EXDEV
	}
	return e.FS.RenameNew(from, to)
}

// end makes a batch end in the store, and tells the inbox.
func (r *rig) end(rec *store.Record) {
	r.t.Helper()
	b, err := r.store.OpenBatch(context.Background(), rec.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	defer b.Close()
	kind, state, file := journal.KindOutput, store.Completed, store.PublishedFile{Suffix: store.SuffixOutput}
	if b.Meta.Refused != nil {
		kind, state, file.Suffix = journal.KindError, store.Failed, store.SuffixErrors
	}
	digest := sha256.New()
	for seq, ok := b.Next(); ok; seq, ok = b.Next() {
		req, err := b.Request(seq)
		id := req.CustomID
		if err != nil {
			id = "" // a bad line
		}
		record := fmt.Appendf(nil, `{"custom_id":%q}`, id)
		digest.Write(append(record, '\n'))
		if _, err := b.Append(journal.Frame{Kind: kind, Seq: seq, Payload: record}); err != nil {
			r.t.Fatal(err)
		}
	}
	file.SHA256 = durable.SHA256(fmt.Sprintf("%x", digest.Sum(nil)))
	if err := b.Finalize(); err != nil {
		r.t.Fatal(err)
	}
	if err := b.Publish(&store.Publication{Name: b.Meta.Name, State: state, InputOrder: true, Files: []store.PublishedFile{file}}); err != nil {
		r.t.Fatal(err)
	}
	if err := b.End(); err != nil {
		r.t.Fatal(err)
	}
	r.inbox.Ended(b.Record)
	synctest.Wait()
}
