package outbox

import (
	"context"
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

	"stoker/store"
	"stoker/store/batchfile"
	"stoker/store/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a publisher with a real store and a real folder, on a fake clock.
type rig struct {
	t         *testing.T
	dir       string
	o         Options
	store     *store.Store
	publisher *Publisher
	stop      func()

	mu       sync.Mutex
	ended    []*store.Record
	reopened []*store.Batch
	leftOut  []string // why
}

// bubble runs a test on a fake clock. What it publishes must pass verify in the end.
func bubble(t *testing.T, test func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, dir: t.TempDir(), stop: func() {}}
		var err error
		if r.store, err = store.Open(filepath.Join(r.dir, "state")); err != nil {
			t.Fatal(err)
		}
		r.o = Options{
			Dir: filepath.Join(r.dir, "outbox"), Settings: Settings{InputOrder: true, Mode: 0o640, Group: -1, Notes: true},
			Changed: func(*store.Record) bool { return false }, Reopen: r.reopen, Ended: r.end, Unreadable: r.leaveOut, Logger: zerolog.Nop(),
		}
		test(r)
		r.stop()
		report, err := r.store.Verify(context.Background(), "", store.Folders{Outbox: r.o.Dir})
		if err != nil || report.Broken() {
			t.Errorf("verify: %v %+v", err, report)
		}
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (r *rig) end(rec *store.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = append(r.ended, rec)
}

func (r *rig) reopen(b *store.Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reopened = append(r.reopened, b)
}

func (r *rig) leaveOut(id string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leftOut = append(r.leftOut, id+": "+err.Error())
}

// run starts a publisher that has these batches in its queue.
func (r *rig) run(queue ...*store.Batch) {
	ctx, cancel := context.WithCancel(context.Background())
	r.publisher = New(r.o)
	for _, b := range queue {
		r.publisher.Finish(b)
	}
	done := make(chan error)
	go func() { done <- r.publisher.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		r.stop = func() {}
	}
	synctest.Wait()
}

// complete makes a batch of lines whose every request has a record: the second one of each three failed.
func (r *rig) complete(queue, name string, lines ...string) *store.Batch {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	rec, err := r.store.Admit(context.Background(), store.Admission{
		ID: store.NewID(), Path: path, Queue: queue, MaxLine: 1 << 20, NameTaken: New(r.o).NameTaken,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	b := r.open(rec.ID)
	r.record(b)
	return b
}

func (r *rig) open(id string) *store.Batch {
	r.t.Helper()
	b, err := r.store.OpenBatch(context.Background(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// record gives every request that lacks one a record, in reverse order, and commits.
func (r *rig) record(b *store.Batch) {
	r.t.Helper()
	var frames []journal.Frame
	for seq, ok := b.Next(); ok; seq, ok = b.Next() {
		req, err := b.Request(seq)
		kind, payload := journal.KindOutput, fmt.Appendf(nil, `{"custom_id":%q,"response":"%d"}`, req.CustomID, seq)
		if err != nil || seq%3 == 1 {
			kind = journal.KindError
			payload = batchfile.AppendError(nil, &req.Ref, "id", "req", batchfile.Failure{Code: "request_timeout", Message: "late"})
		}
		frames = append(frames, journal.Frame{Kind: kind, Seq: seq, Payload: payload})
	}
	slices.Reverse(frames)
	for _, f := range frames {
		if _, err := b.Append(f); err != nil {
			r.t.Fatal(err)
		}
	}
	c, err := b.Checkpoint(store.Engine{Kind: "echo", Version: "1", Model: "m"})
	if err == nil {
		err = r.store.Commit([]store.Checkpoint{c})
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) finish(b *store.Batch) {
	r.publisher.Finish(b)
	synctest.Wait()
}

func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) path(name string) string { return filepath.Join(r.o.Dir, name) }

func (r *rig) write(name, text string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) read(name string) string {
	r.t.Helper()
	text, err := os.ReadFile(r.path(name))
	if err != nil {
		r.t.Error(err)
	}
	return string(text)
}

// wantFiles checks which files the outbox holds, hidden ones too.
func (r *rig) wantFiles(want ...string) {
	r.t.Helper()
	var got []string
	filepath.Walk(r.o.Dir, func(path string, st os.FileInfo, err error) error {
		if err == nil && !st.IsDir() {
			name, _ := filepath.Rel(r.o.Dir, path)
			got = append(got, name)
		}
		return nil
	})
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.t.Errorf("the outbox holds %q, want %q; status %+v", got, want, r.publisher.Status())
	}
}

func (r *rig) wantEnded(n int) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ended) != n {
		r.t.Fatalf("%d batches have ended, want %d; status %+v", len(r.ended), n, r.publisher.Status())
	}
}
