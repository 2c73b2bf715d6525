// Package dispatch decides which line goes to the engine next. It feeds one stream of requests from all running batches,
// so that the engine never waits for the end of a file, records each answer once, and knows when a batch is complete.
package dispatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"stoker/daemon/pulse"
	"stoker/engine"
	"stoker/store"
	"stoker/store/batchfile"
	"stoker/store/durable"
	"stoker/store/faults"
	"stoker/store/journal"
)

// Engine is what answers requests; an engine.Engine is one.
type Engine interface {
	Submit([]engine.Request)
	Events() <-chan engine.Event
}

// Options are what a Dispatcher needs.
type Options struct {
	Store  *store.Store
	Engine Engine
	// EngineKind is what batches record of it: "vllm" or "echo".
	EngineKind string
	// Unpublished is how many batches that Finish received have not ended. They count as open.
	Unpublished func() int
	// Finish receives each batch whose every request has its durable record. It must not block.
	Finish func(*store.Batch)
	Logger zerolog.Logger
	Pulse  *pulse.Pulse // of Run
}

const (
	// commitEvery bounds what a power cut makes run again, together with what is in flight.
	commitEvery = time.Second
	// commitBytes is how much journal is written at most between two commits.
	commitBytes = 64 << 20
	// maxOpen bounds the batches that are open at a time, running or being published: each holds three files open, of
	// the 1,024 that a process may have on common systems, and is synced at each commit.
	maxOpen = 256
	// maxFlightBytes bounds the memory of requests in flight, whose lines may be 16 MiB long.
	maxFlightBytes = 256 << 20
)

// Dispatcher owns the running batches and what is in flight, in the goroutine of Run.
type Dispatcher struct {
	o        Options
	admitted chan *store.Record
	reopened chan *store.Batch
	calls    chan func()
	drain    chan time.Duration
	done     chan struct{}

	opening     context.Context // of batches
	stopOpening context.CancelFunc

	// Only used by the goroutine of Run.
	capacity    engine.Capacity
	engine      store.Engine // what answered last
	runs        []*run       // open batches, oldest first
	waiting     []string     // ids of batches beyond openLimit
	unreadable  []Unreadable
	flights     map[engine.Key]*flight
	flightBytes int
	flightLimit int // of flightBytes; one request may exceed it
	openLimit   int // of runs
	lineLimit   int // bytes of a result line
	nextKey     engine.Key
	turns       uint64
	isolation   isolation
	committing  bool
	committed   chan commitResult
	commitAgain bool
	due         bool               // the commit of all batches, not only of complete ones
	uncommitted int                // journal bytes
	full        *durable.FullError // nothing is submitted until the state has room
	waitsFull   bool               // for room; it was said
	draining    bool
	deadline    <-chan time.Time // of draining
	stopped     bool
	busy        bool // more work than one round does was found
	totals      Totals
	line        []byte // buffer for result lines
	encoder     batchfile.Encoder
}

// Totals count since the daemon's start.
type Totals struct {
	Completed        uint64 `json:"completed"`
	Failed           uint64 `json:"failed"`
	Redone           uint64 `json:"redone"` // requests that a crash made run again
	PromptTokens     uint64 `json:"prompt_tokens"`
	CompletionTokens uint64 `json:"completion_tokens"`
	Quarantined      uint64 `json:"quarantined"` // requests that brought the engine down alone
}

// run is an open batch.
type run struct {
	batch    *store.Batch
	id       string
	defaults *engine.Defaults
	retry    []*flight // to be submitted before new requests
	inFlight int
	engine   store.Engine // what answered it last, in this life
	turn     uint64       // when it was last served
	dirty    bool         // has records that no commit covers
	ended    bool         // Next has no more requests
	leftOut  bool         // its lines cannot be read
	meter    meter

	maxTokens int64    // of answers to lines that do not bound them, 0: unbounded
	rest      []uint32 // its last requests, longest answers first; nil as long as they are read in input order
}

// flight is a request that the engine holds, or is to get again.
type flight struct {
	run    *run
	seq    uint32
	req    batchfile.Request // with bytes of its own
	size   int
	deaths int  // of the engine while it held this request
	alone  int  // of these, with nothing else in flight
	again  bool // the engine died of it, or beside it, since it was last submitted
}

// New returns a dispatcher; Run starts it.
func New(o Options) *Dispatcher {
	opening, stop := context.WithCancel(context.Background())
	return &Dispatcher{
		o: o, opening: opening, stopOpening: stop, admitted: make(chan *store.Record, 64), reopened: make(chan *store.Batch), calls: make(chan func()),
		drain: make(chan time.Duration, 2), done: make(chan struct{}), committed: make(chan commitResult, 1),
		flights: map[engine.Key]*flight{}, flightLimit: maxFlightBytes, openLimit: openLimit(), lineLimit: journal.MaxPayload,
	}
}

// openLimit is maxOpen, or what the process's limit of open files leaves for batches: each may hold five while it is
// published, each of the files that are copied as many, and the rest of stoker some dozens.
func openLimit() int {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return maxOpen
	}
	const others, each = 160, 5
	return int(min(maxOpen, max(1, (int64(min(files.Cur, 1<<20))-others)/each)))
}

// Admit adds a batch that the store has accepted.
func (d *Dispatcher) Admit(r *store.Record) {
	select {
	case d.admitted <- r:
	case <-d.done:
	}
}

// Reopen takes a batch back whose records were found damaged when it was to be published.
func (d *Dispatcher) Reopen(b *store.Batch) {
	select {
	case d.reopened <- b:
	case <-d.done: // the next start runs it again
		if err := b.Close(); err != nil {
			d.o.Logger.Error().Err(err).Str("batch", b.Meta.ID).Msg("close batch")
		}
	}
}

// LeaveOut takes down that a batch cannot be read when it is to be published.
func (d *Dispatcher) LeaveOut(id string, err error) {
	select {
	case d.calls <- func() { d.leaveOut(id, err) }:
	case <-d.done:
	}
}

// Drain makes Run end: nothing new is submitted, no batch is opened any more, which may take minutes, and what is in flight
// may finish within the time. A second call with 0 ends the wait.
func (d *Dispatcher) Drain(limit time.Duration) {
	d.stopOpening()
	select {
	case d.drain <- limit:
	case <-d.done:
	}
}

// Run dispatches until Drain, or until the state cannot be written; then what the disk holds is unknown, and the process
// must start anew. It closes the open batches.
func (d *Dispatcher) Run() error {
	defer close(d.done)
	err := d.loop()
	if d.committing {
		r := <-d.committed
		err = errors.Join(err, r.err)
	}
	if err == nil {
		err = d.lastCommit()
	}
	for _, r := range d.runs {
		err = errors.Join(err, r.batch.Close())
	}
	return err
}

func (d *Dispatcher) loop() error {
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	for !d.stopped {
		d.o.Pulse.Beat()
		faults.Hang("dispatch")
		if err := d.fill(); err != nil {
			return err
		}
		if d.draining && len(d.flights) == 0 {
			return nil
		}
		if err := d.flush(); err != nil {
			return err
		}
		if err := d.handleNext(tick.C); err != nil {
			return err
		}
	}
	return nil
}

// handleNext waits for one thing that happens, and deals with it. A commit that has ended and new batches come before
// answers, of which there is no end, so that what happens depends on chance as little as possible.
func (d *Dispatcher) handleNext(tick <-chan time.Time) error {
	select {
	case r := <-d.committed:
		return d.afterCommit(r)
	default:
	}
	select {
	case r := <-d.admitted:
		return d.admit(r)
	default:
	}
	select {
	case r := <-d.committed:
		return d.afterCommit(r)
	case ev, open := <-d.o.Engine.Events():
		if open {
			return d.receive(ev)
		}
		d.stopped = true
	case r := <-d.admitted:
		return d.admit(r)
	case b := <-d.reopened:
		return d.add(b)
	case <-d.o.Pulse.Asked():
	case f := <-d.calls:
		f()
	case <-tick:
		return d.tick()
	case limit := <-d.drain:
		d.draining, d.deadline = true, time.After(limit)
	case <-d.deadline:
		d.stopped = true
	case <-d.again():
	}
	return nil
}

// again fires at once if there is more to do than one round does.
func (d *Dispatcher) again() <-chan struct{} {
	if !d.busy {
		return nil
	}
	now := make(chan struct{})
	close(now)
	return now
}

func (d *Dispatcher) tick() error {
	if err := d.o.Store.CheckPlace(); err != nil {
		return err
	}
	for _, r := range d.runs {
		r.meter.tick(r.batch.Progress().Records())
	}
	d.lookForRoom()
	if err := d.flush(); err != nil { // before anything is submitted, because that may show that there is no room yet
		return err
	}
	d.due = true
	if err := d.commit(); err != nil {
		return err
	}
	if err := d.openWaiting(); err != nil { // the publisher may have ended some
		return err
	}
	if d.waitsFull && d.full == nil {
		d.waitsFull = false
		d.o.Logger.Info().Msg("state folder has room again; going on")
	}
	return nil
}

// lookForRoom ends a pause so that what is buffered is tried again, unless it is plain that there is no room yet. It
// begins one before the room for checkpoints is used up.
func (d *Dispatcher) lookForRoom() {
	d.full = nil
	if err := d.o.Store.Cramped(); durable.IsFull(err) {
		d.pause(err)
	}
}

func (d *Dispatcher) admit(r *store.Record) error {
	if d.isFull() || len(d.waiting) > 0 || d.opening.Err() != nil {
		d.waiting = append(d.waiting, r.ID)
		return nil
	}
	return d.open(r.ID)
}

// open opens a batch. One that cannot be read costs itself: it stays as it is, and the next start tries again.
func (d *Dispatcher) open(id string) error {
	b, err := d.recover(id)
	if d.opening.Err() != nil && errors.Is(err, context.Canceled) {
		d.waiting = append([]string{id}, d.waiting...) // for the next start
		return nil
	}
	if passes(err) {
		d.waiting = append([]string{id}, d.waiting...) // that passes
		d.patient(err)
		return nil
	}
	if fault := d.o.Store.Fault(); fault != nil {
		return fault
	}
	if err != nil {
		d.leaveOut(id, err)
		return nil
	}
	log := d.o.Logger.Info().Str("batch", id).Str("name", b.Meta.Name.String()).Uint32("requests", b.Meta.Requests)
	if rec := b.Recovered; b.Record.State != store.Validating {
		log = log.Uint32("done", b.Progress().Records()).Int("adopted", rec.Adopted).Uint32("redone", rec.Redone).Int64("cut_bytes", rec.CutBytes)
		d.totals.Redone += uint64(rec.Redone)
	}
	log.Msg("batch is open")
	return d.add(b)
}

// recover opens a batch, for which its whole journal may have to be read.
func (d *Dispatcher) recover(id string) (*store.Batch, error) {
	defer d.o.Pulse.Long()()
	return d.o.Store.OpenBatch(d.opening, id)
}

// passes reports whether an error tells of a want that others end, not of a damaged batch.
func passes(err error) bool { return durable.IsFull(err) || store.IsScarce(err) }

func (d *Dispatcher) leaveOut(id string, err error) {
	d.o.Logger.Error().Err(err).Str("batch", id).Msg("batch cannot be read; leaving it out")
	d.unreadable = append(d.unreadable, Unreadable{ID: id, Reason: err.Error()})
}

func (d *Dispatcher) add(b *store.Batch) error {
	r := &run{batch: b, id: b.Meta.ID}
	if len(b.Meta.Defaults) > 0 {
		r.defaults, r.maxTokens = newDefaults(b.Meta), batchfile.AnswerLimit(b.Meta.Defaults)
	}
	r.meter.start(b.Progress().Records())
	r.dirty = true // so that even a batch without requests passes through a commit
	d.runs = append(d.runs, r)
	if b.Complete() {
		return d.commit()
	}
	return nil
}

// openWaiting opens batches that waited for others to end.
func (d *Dispatcher) openWaiting() error {
	for before := -1; len(d.waiting) > 0 && len(d.waiting) != before && !d.isFull() && d.opening.Err() == nil; {
		before = len(d.waiting)
		id := d.waiting[0]
		d.waiting = d.waiting[1:]
		if err := d.open(id); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dispatcher) isFull() bool { return len(d.runs)+d.o.Unpublished() >= d.openLimit }

func (d *Dispatcher) receive(ev engine.Event) error {
	switch ev := ev.(type) {
	case engine.Capacity:
		d.capacity = ev
		if ev.InFlight > 0 {
			d.engine = store.Engine{Kind: d.o.EngineKind, Version: ev.Version, Model: ev.Model}
		}
	case engine.Answers:
		for _, a := range ev {
			if err := d.answer(a); err != nil {
				return err
			}
		}
	case engine.Lost:
		return d.lose(ev)
	default:
		return fmt.Errorf("unknown engine event %T", ev)
	}
	return nil
}

// flush hands what was recorded to the operating system, so that the death of this process does not lose it.
func (d *Dispatcher) flush() error {
	for _, r := range d.runs {
		d.o.Pulse.Beat()
		if err := d.patient(r.batch.Flush()); err != nil {
			return err
		}
	}
	return nil
}

// patient turns a full disk into a pause: the journal keeps what it could not write, and nothing more is submitted until
// it could. What is in flight is taken in, and the worker stays as it is.
func (d *Dispatcher) patient(err error) error {
	if !durable.IsFull(err) {
		return err
	}
	d.pause(err)
	return nil
}

// leastRoom is what the state is said to need at least: a journal grows by blocks, and a checkpoint follows.
const leastRoom = 1 << 20

// pause stops submission for lack of room.
func (d *Dispatcher) pause(cause error) {
	if !errors.As(cause, &d.full) {
		need := int64(leastRoom)
		for _, r := range d.runs {
			need += int64(r.batch.Buffered())
		}
		errors.As(durable.Full(d.o.Store.Dir(), need, cause), &d.full)
	}
	if !d.waitsFull {
		d.o.Logger.Error().Err(d.full).Str("cause", cause.Error()).Int64("needed", d.full.Need).Int64("free", d.full.Free).
			Int("in_flight", len(d.flights)).Msg("state folder is full; nothing is submitted until it has room")
	}
	d.waitsFull = true
}
