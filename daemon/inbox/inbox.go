// Package inbox takes files that people drop: it sees them, waits until they are complete, claims them by a rename and
// has the store admit them. A scan of the folder is the truth; events only say that a scan is worth while.
package inbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"stoker/store"
	"stoker/store/durable"
)

// Options are what an Inbox needs. Durations are as in the configuration's [inbox].
type Options struct {
	Dir, Archive string
	Poll         bool          // look every PollEvery, without events
	Settle       time.Duration // how long a file must not change
	Rescan       time.Duration
	PollEvery    time.Duration
	TailGrace    time.Duration // how long a file without final newline waits
	Ready        Ready
	MaxLine      int64
	SkipEnded    bool // a file whose batch has ended is a duplicate too
	Strict       bool

	Store *store.Store
	// Defaults returns what the lines of a queue's files leave out.
	Defaults func(queue string) map[string]any
	// NameTaken reports whether the outbox has result files of this name.
	NameTaken func(queue string, name store.FileName) (bool, error)
	// Admitted is told of each new batch.
	Admitted func(*store.Record)
	Logger   zerolog.Logger
}

// Ready says when a file counts as complete.
type Ready int

const (
	ReadySettle  Ready = iota // unchanged for Settle
	ReadyRename               // at once: the writer renames it in
	ReadySidecar              // when NAME.done appears
)

// maxAdmissions bounds the files that are copied at a time, so that a small one need not wait for a large one.
const maxAdmissions = 2

// Inbox owns the inbox and the archive, in the goroutine of Run.
type Inbox struct {
	o     Options
	ended chan *store.Record
	done  chan struct{}

	// Only used by the goroutine of Run.
	files     map[fileKey]*file
	ignored   []Waiting
	foreign   []Foreign
	claims    map[string]*claim // by batch id, until admitted
	admitting int
	results   chan admission
	archive   []*store.Record // ended batches whose input is to leave .processing
	watch     *watcher

	mu     sync.Mutex
	status Status
}

// Status is the inbox as people see it.
type Status struct {
	Watching bool      `json:"watching"` // by events; else by polling
	Scanned  time.Time `json:"scanned"`
	Problem  string    `json:"problem,omitempty"` // why nothing is taken
	Waiting  []Waiting `json:"waiting"`
	Ignored  []Waiting `json:"ignored,omitempty"`
	Foreign  []Foreign `json:"foreign,omitempty"` // other stokers' claims
}

// Waiting is a file that is not a batch yet.
type Waiting struct {
	Queue  string         `json:"queue,omitempty"`
	Name   store.FileName `json:"name"`
	Bytes  int64          `json:"bytes"`
	State  string         `json:"state"` // settling, waiting, claimed, ignored
	Reason string         `json:"reason"`
	Since  time.Time      `json:"since"`
	ID     string         `json:"id,omitempty"` // once claimed
}

// Foreign is another stoker's folder under .processing.
type Foreign struct {
	Instance string `json:"instance"`
	Claims   int    `json:"claims"`
}

// New returns an inbox; Run starts it.
func New(o Options) *Inbox {
	return &Inbox{
		o: o, ended: make(chan *store.Record, 64), done: make(chan struct{}), files: map[fileKey]*file{},
		claims: map[string]*claim{}, results: make(chan admission),
	}
}

// Ended tells that a batch has ended and its input is to be archived.
func (in *Inbox) Ended(r *store.Record) {
	select {
	case in.ended <- r:
	case <-in.done:
	}
}

// Status returns what the last scan saw.
func (in *Inbox) Status() Status {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.status
}

// debounce is how long a scan waits for more events.
const debounce = 100 * time.Millisecond

// Run takes files until the context ends. Faults of the shares are reported in Status and waited out.
func (in *Inbox) Run(ctx context.Context) {
	defer close(in.done)
	in.watch = newWatcher(in.o)
	defer in.watch.close()
	in.recover()
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			in.awaitAdmissions()
			return
		case <-in.watch.dirty:
			next.Reset(debounce)
		case r := <-in.results:
			in.admitted(r)
			next.Reset(0)
		case r := <-in.ended:
			in.archive = append(in.archive, r)
			next.Reset(0)
		case <-next.C:
			next.Reset(in.round(ctx))
		}
	}
}

// round looks at everything once and returns when to look again.
func (in *Inbox) round(ctx context.Context) time.Duration {
	in.archiveEnded()
	err := in.scan()
	if err == nil {
		in.takeReady()
	} else {
		in.o.Logger.Warn().Err(err).Msg("cannot read the inbox")
	}
	in.admitClaims(ctx)
	in.report(err)
	return in.nextRound()
}

// nextRound is when the first file may be complete, at the latest the next regular scan.
func (in *Inbox) nextRound() time.Duration {
	wait := in.o.Rescan
	if in.o.Poll || !in.watch.alive() {
		wait = in.o.PollEvery
	}
	now := time.Now()
	for _, f := range in.files {
		if f.due.After(now) {
			wait = min(wait, f.due.Sub(now))
		}
	}
	for _, c := range in.claims {
		if !c.admitting {
			wait = min(wait, max(c.due.Sub(now), debounce))
		}
	}
	return wait
}

func (in *Inbox) report(problem error) {
	s := Status{Watching: in.watch.alive(), Scanned: time.Now(), Waiting: []Waiting{}, Ignored: in.ignored, Foreign: in.foreign}
	if problem != nil {
		s.Problem = problem.Error()
	}
	for k, f := range in.files {
		s.Waiting = append(s.Waiting, Waiting{Queue: k.queue, Name: k.name, Bytes: f.print.size, State: f.state, Reason: f.reason, Since: f.seen})
	}
	for _, c := range in.claims {
		s.Waiting = append(s.Waiting, Waiting{Queue: c.queue, Name: c.name, State: "claimed", Reason: c.reason, Since: c.since, ID: c.id})
	}
	sortWaiting(s.Waiting)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.status = s
}

func (in *Inbox) awaitAdmissions() {
	for in.admitting > 0 {
		in.admitted(<-in.results)
	}
}

func (in *Inbox) processing() string {
	return filepath.Join(in.o.Dir, ".processing", in.o.Store.Instance())
}

// recover finds what a crash left claimed. Batches that the store knows go on without the inbox; what it does not know
// is admitted under the id that it was claimed with.
func (in *Inbox) recover() {
	dirs, err := os.ReadDir(in.processing())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		in.o.Logger.Warn().Err(err).Msg("cannot read claims; they are looked at when the inbox is back")
	}
	for _, d := range dirs {
		if store.ValidID(d.Name()) {
			in.recoverClaim(d.Name())
		}
	}
	records, err := in.o.Store.List()
	if err != nil {
		in.o.Logger.Error().Err(err).Msg("cannot list batches")
	}
	for _, r := range records {
		if r.State.Ended() && !r.Archived {
			in.archive = append(in.archive, r)
		}
	}
}

func (in *Inbox) recoverClaim(id string) {
	if _, err := in.o.Store.Get(id); err == nil {
		return
	}
	dir := filepath.Join(in.processing(), id)
	entries, err := os.ReadDir(dir)
	if err != nil {
		in.o.Logger.Warn().Err(err).Str("batch", id).Msg("cannot read claim")
		return
	}
	for _, e := range entries {
		queue, err := os.ReadFile(filepath.Join(dir, queueFile))
		if e.Name() == queueFile || err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		in.o.Logger.Info().Str("batch", id).Str("name", e.Name()).Msg("found claimed without a record; admitting")
		in.claims[id] = &claim{id: id, queue: string(queue), name: store.FileName(e.Name()), since: time.Now(), reason: "claimed before a crash"}
		return
	}
	in.dropClaimDir(id) // claimed nothing: the crash came before the rename
}

func (in *Inbox) dropClaimDir(id string) {
	dir := filepath.Join(in.processing(), id)
	if err := ignoreMissing(os.Remove(filepath.Join(dir, queueFile))); err != nil {
		in.o.Logger.Warn().Err(err).Msg("remove claim folder")
	}
	if err := ignoreMissing(os.Remove(dir)); err != nil {
		in.o.Logger.Warn().Err(err).Msg("remove claim folder")
		return
	}
	if err := durable.SyncDir(in.processing()); err != nil {
		in.o.Logger.Warn().Err(err).Msg("remove claim folder")
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
