// Package inbox takes files that people drop: it sees them, waits until they are complete, claims them by a rename and
// has the store admit them. A scan of the folder is the truth; events only say that a scan is worth while.
package inbox

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"stoker/daemon/pulse"
	"stoker/store"
	"stoker/store/durable"
	"stoker/store/faults"
	"stoker/store/layout"
)

// Settings are what may change while an Inbox runs. Durations are as in the configuration's [inbox].
type Settings struct {
	Settle    time.Duration // how long a file must not change
	Rescan    time.Duration
	PollEvery time.Duration
	TailGrace time.Duration // how long a file without final newline waits
	Ready     Ready
	MaxLine   int64
	SkipEnded bool // a file whose batch has ended is a duplicate too
	Strict    bool
	// Defaults returns what the lines of a queue's files leave out.
	Defaults func(queue string) map[string]any
}

// Options are what an Inbox needs.
type Options struct {
	Settings
	FS           durable.FS // where inbox and archive are; nil: the machine's own
	Dir, Archive string
	Watch        func() Watcher // makes one; nil: look every PollEvery, without events

	Store *store.Store
	// NameTaken reports whether the outbox has result files of this name.
	NameTaken func(queue string, name store.FileName) (bool, error)
	// Admitted is told of each new batch.
	Admitted func(*store.Record)
	Logger   zerolog.Logger

	Pulse        *pulse.Pulse // of Run
	ArchivePulse *pulse.Pulse // of the archiver
	ArchiveFS    durable.FS   // what FS is, for the archiver; nil: FS
}

// Ready says when a file counts as complete.
type Ready int

const (
	ReadySettle  Ready = iota // unchanged for Settle
	ReadyRename               // at once: the writer renames it in
	ReadySidecar              // when NAME.done appears
)

const (
	// atOnce is how many files are claimed, copied and archived at a time, so that many small ones share what takes long:
	// syncs of folders, and commits.
	atOnce = 16
	// maxLarge bounds those among them that are copied and larger than largeFile, so that a small one need not wait for them.
	maxLarge  = 2
	largeFile = 1 << 20
)

// Inbox owns the inbox, in the goroutine of Run. Another one, of its archiver, owns the archive.
type Inbox struct {
	folders
	o         Options // its Settings: only used by the goroutine of Run
	archiver  *archiver
	wake      chan struct{}
	firstLook chan struct{} // closed after the first round

	// Only used by the goroutine of Run.
	files     map[fileKey]*file
	ignored   []Waiting
	strays    []Waiting // under .processing
	strayed   []Waiting // as of the look before
	foreign   []Foreign
	claims    []*claim           // until they are admitted, the oldest first
	admitting map[fileKey]*claim // claims that are being copied, by what they were called
	results   chan admission
	known     map[string]bool    // claims that are batches by now, as of the last look
	looked    time.Time          // when the last look was
	stale     bool               // something may have changed since
	more      bool               // files are complete that were not claimed yet
	problem   string             // why the inbox cannot be read
	lacks     *durable.FullError // the least that files wait for; nil if none does
	held      int                // how many do
	waitsFull bool               // for room; it was said
	watch     Watcher

	mu     sync.Mutex
	status Status
	next   *Settings // from the next round on
}

// Status is the inbox as people see it.
type Status struct {
	Watching bool      `json:"watching"` // by events; else by polling
	Scanned  time.Time `json:"scanned"`
	Problem  string    `json:"problem,omitzero"` // why nothing is taken
	Archive  Archive   `json:"archive"`
	Held     int       `json:"held,omitzero"` // files that wait for room in the state
	Waiting  []Waiting `json:"waiting"`
	Ignored  []Waiting `json:"ignored,omitzero"`
	Foreign  []Foreign `json:"foreign,omitzero"` // other stokers' claims

	Lacks *durable.FullError `json:"-"` // what Held files wait for
}

// Claimed counts the files that are claimed and no batches yet.
func (s *Status) Claimed() (n int) {
	for _, w := range s.Waiting {
		if w.ID != "" {
			n++
		}
	}
	return n
}

// Waiting is a file that is not a batch yet.
type Waiting struct {
	Queue  string         `json:"queue,omitzero"`
	Name   store.FileName `json:"name"`
	Bytes  int64          `json:"bytes"`
	State  string         `json:"state"` // settling, waiting, ignored
	Reason string         `json:"reason"`
	Since  time.Time      `json:"since,omitzero"`
	ID     string         `json:"id,omitzero"` // once claimed: then it waits to become a batch
}

// Foreign is another stoker's folder under .processing.
type Foreign struct {
	Instance string `json:"instance"`
	Claims   int    `json:"claims"`
}

// New returns an inbox; Run starts it.
func New(o Options) *Inbox {
	if o.FS == nil {
		o.FS = durable.Local{}
	}
	if o.ArchiveFS == nil {
		o.ArchiveFS = o.FS
	}
	o.FS, o.ArchiveFS = durable.Shared(o.FS), durable.Shared(o.ArchiveFS)
	if o.Watch == nil {
		o.Watch = func() Watcher { return blind{} }
	}
	in := &Inbox{
		o: o, files: map[fileKey]*file{}, admitting: map[fileKey]*claim{}, results: make(chan admission),
		wake: make(chan struct{}, 1), firstLook: make(chan struct{}),
	}
	in.folders = folders{
		fs: o.FS, inboxDir: o.Dir, archiveDir: o.Archive, processing: layout.ClaimsDir(o.Dir, o.Store.Instance()), reserved: new(reservations), log: o.Logger,
	}
	in.archiver = newArchiver(&o, in.folders)
	return in
}

// Ended tells that a batch has ended and its input is to be archived. It does not block.
func (in *Inbox) Ended(r *store.Record) { in.archiver.archive(r) }

// Configure changes the settings. Files that were taken keep those that they were taken with. It does not block.
func (in *Inbox) Configure(s Settings) {
	in.mu.Lock()
	in.next = &s
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// configure puts new settings into effect.
func (in *Inbox) configure() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.next != nil {
		in.o.Settings, in.next = *in.next, nil
		in.archiver.configure(in.o.PollEvery)
	}
}

// Looked is closed once the inbox has been looked at, or could not be read.
func (in *Inbox) Looked() <-chan struct{} { return in.firstLook }

// Status returns what the last scan saw.
func (in *Inbox) Status() Status {
	in.mu.Lock()
	defer in.mu.Unlock()
	s := in.status
	s.Archive = in.archiver.status()
	return s
}

// debounce is how long a look waits for more events, and news of claims for more of them.
const debounce = 100 * time.Millisecond

// Run takes files until the context ends. Faults of the shares are reported in Status and waited out.
func (in *Inbox) Run(ctx context.Context) {
	in.watch = in.o.Watch()
	defer in.watch.Close()
	archived := make(chan struct{})
	go func() {
		defer close(archived)
		in.archiver.run(ctx)
	}()
	first := sync.OnceFunc(func() { close(in.firstLook) })
	next := alarm{timer: time.NewTimer(0), at: time.Now()}
	defer next.timer.Stop()
	for {
		in.o.Pulse.Beat()
		faults.Hang("inbox")
		if in.takeAdmitted(ctx) {
			next.within(debounce)
			continue
		}
		select {
		case <-ctx.Done():
			in.awaitAdmissions()
			<-archived
			return
		case <-in.o.Pulse.Asked():
		case <-in.wake:
			in.stale = true
			next.within(0)
		case <-in.watch.Dirty():
			in.stale = true
			next.within(debounce)
		case r := <-in.results:
			in.makeRoom(ctx, r)
			next.within(debounce)
		case d := <-in.archiver.left:
			in.departed(d)
			next.within(debounce)
		case <-next.timer.C:
			next.set(in.round(ctx))
			first()
		}
	}
}

// takeAdmitted deals with an admission that has ended, if there is one, before all else.
func (in *Inbox) takeAdmitted(ctx context.Context) bool {
	select {
	case r := <-in.results:
		in.makeRoom(ctx, r)
		return true
	default:
		return false
	}
}

// makeRoom deals with an admission that has ended, and begins the next one.
func (in *Inbox) makeRoom(ctx context.Context, r admission) {
	in.admitted(r)
	in.admitClaims(ctx)
}

// alarm is a timer that can be set earlier, but not put off: events that do not end must not keep a scan from coming.
type alarm struct {
	timer *time.Timer
	at    time.Time
}

func (a *alarm) set(d time.Duration) {
	a.at = time.Now().Add(d)
	a.timer.Reset(d)
}

func (a *alarm) within(d time.Duration) {
	if time.Until(a.at) > d {
		a.set(d)
	}
}

// round looks at the inbox if it is time to, goes on with what is claimed, and returns when to come again. A look costs as
// much as there are files and claims, so that what becomes of one of them is no reason for one, and what one has found
// complete is claimed before the next.
func (in *Inbox) round(ctx context.Context) time.Duration {
	in.configure()
	if !in.more && (in.stale || time.Since(in.looked) >= in.nextLook()) {
		in.look()
	}
	if in.problem == "" {
		in.takeReady()
	}
	in.admitClaims(ctx)
	in.noteRoom()
	in.report()
	return in.nextRound()
}

// look finds what is claimed, and sees what lies in the inbox.
func (in *Inbox) look() {
	in.looked, in.stale = time.Now(), false
	err := in.findClaims()
	if err == nil {
		err = in.scan()
	}
	in.note(err)
}

// note takes down why the inbox cannot be read, and says it once.
func (in *Inbox) note(err error) {
	before := in.problem
	in.problem = ""
	if err != nil {
		in.problem = err.Error()
	}
	switch {
	case err != nil && before != in.problem:
		in.log.Warn().Err(err).Msg("cannot read the inbox")
	case err == nil && before != "":
		in.log.Info().Msg("the inbox can be read again")
	}
}

// noteRoom says once that files wait for room in the state, and once that none does any more.
func (in *Inbox) noteRoom() {
	in.lacks, in.held = nil, 0
	for _, f := range in.files {
		in.hold(f.lacks)
	}
	for _, c := range in.claims {
		in.hold(c.lacks)
	}
	switch full := in.lacks; {
	case full != nil && !in.waitsFull:
		in.log.Error().Err(full).Int64("needed", full.Need).Int64("free", full.Free).Msg("the state has no room; files wait")
	case full == nil && in.waitsFull:
		in.log.Info().Msg("the state has room again; taking files")
	}
	in.waitsFull = in.lacks != nil
}

// hold counts a file that lacks room.
func (in *Inbox) hold(lacks *durable.FullError) {
	if lacks == nil {
		return
	}
	in.held++
	if in.lacks == nil || lacks.Need < in.lacks.Need {
		in.lacks = lacks
	}
}

// shortest bounds how often the inbox is looked at.
const shortest = 10 * time.Millisecond

// nextLook is how long after the last look the first file may be complete, at the latest the next regular scan.
func (in *Inbox) nextLook() time.Duration {
	wait := in.o.Rescan
	if !in.watch.Alive() || in.problem != "" || in.lacks != nil {
		wait = in.o.PollEvery
	}
	for _, f := range in.files {
		if !f.due.IsZero() {
			wait = min(wait, f.due.Sub(in.looked))
		}
	}
	return wait
}

// nextRound is when the next look is due, the first claim, or what is complete already.
func (in *Inbox) nextRound() time.Duration {
	if in.more {
		return shortest
	}
	now := time.Now()
	wait := in.nextLook() - now.Sub(in.looked)
	for _, c := range in.claims {
		if !c.admitting && !c.leaving && in.mayAdmit(c) {
			wait = min(wait, c.due.Sub(now))
		}
	}
	return max(wait, shortest)
}

func (in *Inbox) report() {
	s := Status{
		Watching: in.watch.Alive(), Scanned: time.Now(), Waiting: []Waiting{}, Ignored: slices.Concat(in.ignored, in.strays), Foreign: in.foreign,
		Problem: in.problem, Lacks: in.lacks, Held: in.held,
	}
	for k, f := range in.files {
		s.Waiting = append(s.Waiting, Waiting{Queue: k.queue, Name: k.name, Bytes: f.print.size, State: f.state, Reason: f.reason, Since: f.seen})
	}
	for _, c := range in.claims {
		s.Waiting = append(s.Waiting, Waiting{Queue: c.queue, Name: c.name, State: stateWaiting, Reason: c.reason, Since: c.since, ID: c.id})
	}
	sortWaiting(s.Waiting)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.status = s
}

func (in *Inbox) awaitAdmissions() {
	for len(in.admitting) > 0 {
		in.admitted(<-in.results)
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
