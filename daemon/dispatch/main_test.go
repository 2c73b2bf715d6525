package dispatch

import (
	"context"
	"fmt"
	"maps"
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

	"stoker/engine"
	"stoker/store"
	"stoker/store/durable"
	"stoker/store/journal"
	"stoker/test/faultfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted is an engine that does what the test tells it to.
type scripted struct {
	events chan engine.Event

	mu        sync.Mutex
	held      map[engine.Key]engine.Request
	submitted map[engine.Key]bool // ever
}

func (e *scripted) Events() <-chan engine.Event { return e.events }

func (e *scripted) Submit(requests []engine.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range requests {
		if e.submitted[r.Key] {
			panic(fmt.Sprintf("key %d was submitted twice", r.Key))
		}
		e.held[r.Key] = r
		e.submitted[r.Key] = true
	}
}

// rig is a dispatcher with a real store and a scripted engine, on a fake clock.
type rig struct {
	t      *testing.T
	store  *store.Store
	disk   *faultfs.FS // of the state's batch folders
	engine *scripted
	feed   *Dispatcher
	dir    string
	ended  chan error // what Run returned

	defaults map[string]any // of what is admitted

	mu       sync.Mutex
	finished []string // ids
}

// newRig starts a dispatcher. It is called in a synctest bubble.
func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: t.TempDir(), disk: faultfs.New(durable.Local{})}
	r.open()
	t.Cleanup(func() {
		r.stop()
		r.verify()
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) open() {
	r.t.Helper()
	var err error
	if r.store, err = store.OpenOn(r.disk, filepath.Join(r.dir, "state")); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

func (r *rig) start() {
	r.engine = &scripted{events: make(chan engine.Event), held: map[engine.Key]engine.Request{}, submitted: map[engine.Key]bool{}}
	r.feed = New(Options{Store: r.store, Engine: r.engine, EngineKind: "echo", Finish: r.finish, Unpublished: func() int { return 0 }, Logger: zerolog.Nop()})
	r.ended = make(chan error, 1)
	go func() { r.ended <- r.feed.Run() }()
}

func (r *rig) finish(b *store.Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finished = append(r.finished, b.Meta.ID)
	if err := b.Close(); err != nil {
		r.t.Error(err)
	}
}

// stop ends the dispatcher without waiting for requests in flight. It may be called twice.
func (r *rig) stop() {
	r.t.Helper()
	r.feed.Drain(0)
	if err := <-r.ended; err != nil {
		r.t.Error(err)
	}
	r.ended <- nil
}

// restart is a new life of the daemon.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	records, err := r.store.List()
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	finished := slices.Clone(r.finished)
	r.mu.Unlock()
	r.start()
	for _, rec := range records {
		if !slices.Contains(finished, rec.ID) {
			r.feed.Admit(rec)
		}
	}
	synctest.Wait()
}

func (r *rig) verify() {
	r.t.Helper()
	report, err := r.store.Verify(context.Background(), "", store.Folders{})
	if err != nil || report.Broken() {
		r.t.Errorf("verify: %v %+v", err, report)
	}
}

// admit makes lines a batch of the store and hands it to the dispatcher.
func (r *rig) admit(name string, lines ...string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name+".jsonl")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	rec, err := r.store.Admit(context.Background(), store.Admission{
		ID: store.NewID(), Path: path, MaxLine: 1 << 20, Defaults: r.defaults,
		NameTaken: func(string, store.FileName) (bool, error) { return false, nil },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.feed.Admit(rec)
	synctest.Wait()
	return rec.ID
}

// prompts are n lines whose prompts are TAG-1, TAG-2, …
func prompts(tag string, n int) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"prompt":"%s-%d"}`, tag, i+1)
	}
	return lines
}

func (r *rig) send(ev engine.Event) {
	r.engine.events <- ev
	synctest.Wait()
}

func (r *rig) ready(n int) { r.send(engine.Capacity{InFlight: n, Model: "m", Version: "1"}) }

// held returns the keys in flight, the oldest first.
func (r *rig) held() []engine.Key {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	return slices.Sorted(maps.Keys(r.engine.held))
}

// holding returns the keys in flight whose request contains a text.
func (r *rig) holding(text string) []engine.Key {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	var keys []engine.Key
	for k, q := range r.engine.held {
		if strings.Contains(string(q.Body), text) {
			keys = append(keys, k)
		}
	}
	return keys
}

func (r *rig) drop(keys []engine.Key) {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	for _, k := range keys {
		delete(r.engine.held, k)
	}
}

func good(key engine.Key) engine.Answer {
	return engine.Answer{Key: key, Status: 200, Body: fmt.Appendf(nil,
		`{"choices":[{"message":{"content":"%d"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`, key)}
}

// answer ends requests well.
func (r *rig) answer(keys ...engine.Key) {
	if len(keys) == 0 {
		return
	}
	r.drop(keys)
	var all engine.Answers
	for _, k := range keys {
		all = append(all, good(k))
	}
	r.send(all)
}

// die loses what is in flight, as a supervisor reports it, and makes the engine ready again.
func (r *rig) die(capacity int) {
	keys := r.held()
	r.drop(keys)
	r.send(engine.Capacity{})
	if len(keys) > 0 {
		r.send(engine.Lost{Keys: keys, Blamed: true, Reason: "died"})
	}
	r.ready(capacity)
}

// tick lets the time of a commit pass.
func (r *rig) tick() {
	time.Sleep(commitEvery)
	synctest.Wait()
}

func (r *rig) isFinished(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.finished, id)
}

// records returns a finished batch's counts: completed and failed.
func (r *rig) records(id string) (completed, failed uint32) {
	r.t.Helper()
	if !r.isFinished(id) {
		r.t.Fatalf("batch is not finished: %+v", r.feed.Snapshot())
	}
	p, err := r.store.Progress(id)
	if err != nil {
		r.t.Fatal(err)
	}
	return p.Completed, p.Failed
}

// errorLines returns the error records of a finished batch, in input order.
func (r *rig) errorLines(id string) []string {
	r.t.Helper()
	b, err := r.store.OpenBatch(context.Background(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	defer b.Close()
	results, err := b.Results()
	if err != nil {
		r.t.Fatal(err)
	}
	defer results.Close()
	var lines []string
	err = results.Each(true, func(f journal.Frame) error {
		if f.Kind == journal.KindError {
			lines = append(lines, string(f.Payload))
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return lines
}
