// Package outbox publishes results: complete, synced, by renames that replace nothing, NAME.batch.json last. Whatever
// fails on the outbox's share is done again from the journal, which the share's faults do not touch.
package outbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"stoker/daemon/pulse"
	"stoker/store"
	"stoker/store/durable"
	"stoker/store/faults"
	"stoker/store/journal"
)

// Settings are what may change while a Publisher runs.
type Settings struct {
	InputOrder bool
	Mode       fs.FileMode // of result files
	Group      int         // of result files; -1: as the filesystem says
	Notes      bool        // write NAME.status.txt
}

// Options are what a Publisher needs.
type Options struct {
	Settings
	FS  durable.FS // where Dir is; nil: the machine's own
	Dir string
	// Changed reports whether a batch's claimed input differs from its snapshot. It must not block for long.
	Changed func(*store.Record) bool
	// Reopen takes back a batch whose records were found damaged.
	Reopen func(*store.Batch)
	// Unreadable is told of each batch that is left out because its folder in the state cannot be read.
	Unreadable func(id string, err error)
	// Ended is told of each batch that has ended.
	Ended  func(*store.Record)
	Logger zerolog.Logger
	Pulse  *pulse.Pulse // of Run
}

// atOnce is how many batches are published at a time, so that many small ones share what takes long: syncs of the outbox, and
// commits.
const atOnce = 16

// Publisher publishes one round of batches after another. The goroutine of Run owns it, and waits for those that publish one
// batch each.
type Publisher struct {
	o     Options // its Settings: only changed between rounds
	alone int     // how many of the next batches are published one by one. Only used by Run

	mu        sync.Mutex
	queue     []*store.Batch
	round     []*store.Batch        // what is being published
	installed map[*store.Batch]bool // whose files have their names, but which have not ended
	notes     map[string]Note       // to be written, by batch
	gone      map[string]bool       // batches that ended since notes were last handed over
	problem   error                 // why nothing can be published now
	settings  Settings              // as they are to be
	wake      chan struct{}
}

// New returns a publisher; Run starts it.
func New(o Options) *Publisher {
	if o.FS == nil {
		o.FS = durable.Local{}
	}
	o.FS = durable.Shared(o.FS)
	return &Publisher{o: o, settings: o.Settings, installed: map[*store.Batch]bool{}, gone: map[string]bool{}, notes: map[string]Note{}, wake: make(chan struct{}, 1)}
}

// Configure changes the settings, from the next round on. It does not block.
func (p *Publisher) Configure(s Settings) {
	p.mu.Lock()
	p.settings = s
	if !s.Notes {
		clear(p.notes)
	}
	p.mu.Unlock()
	p.signal()
}

// configure puts new settings into effect.
func (p *Publisher) configure() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.o.Settings = p.settings
}

// Finish queues a batch whose every request has its durable record. It does not block.
func (p *Publisher) Finish(b *store.Batch) {
	p.mu.Lock()
	p.queue = append(p.queue, b)
	p.round = slices.DeleteFunc(p.round, func(other *store.Batch) bool { return other == b })
	p.mu.Unlock()
	p.signal()
}

func (p *Publisher) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Status says what waits to be published.
type Status struct {
	Queue  int    `json:"queue"`           // those that are being published among them
	Reason string `json:"reason,omitzero"` // why nothing can be published

	Lacks *durable.FullError `json:"-"` // what Reason says, if it is that
}

// Status returns what waits.
func (p *Publisher) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{Queue: len(p.queue) + len(p.round)}
	if p.problem != nil {
		s.Reason = p.problem.Error()
		errors.As(p.problem, &s.Lacks)
	}
	return s
}

// minPause and maxPause bound the wait after a fault of the share.
const (
	minPause = time.Second
	maxPause = time.Minute
	// roomPause is how often a full filesystem is looked at.
	roomPause = 2 * time.Second
)

// Run publishes until the context ends, which leaves the rest for the next start. Faults of the outbox are waited out; a
// batch that cannot be read costs itself, because a read that fails says nothing of what was written; an error means that
// the state itself cannot be written.
func (p *Publisher) Run(ctx context.Context) error {
	defer p.closeAll()
	pause, failures := minPause, 0
	for ctx.Err() == nil {
		p.o.Pulse.Beat()
		faults.Hang("outbox")
		p.configure()
		round := p.next(p.roundSize())
		if len(round) == 0 {
			select {
			case <-ctx.Done():
			case <-p.o.Pulse.Asked():
			case <-p.wake:
				p.writeNotes()
			}
			continue
		}
		failed, err := p.publishAll(round)
		p.putBack(failed, pause)
		p.countAlone(round, failed)
		if err != nil {
			return err
		}
		if len(failed) < len(round) {
			pause, failures = minPause, 0
		}
		if failures += len(failed); len(failed) > 0 && failures >= p.Status().Queue {
			p.rest(ctx, pause, failed[len(failed)-1].err) // all of them were tried
			pause, failures = min(2*pause, maxPause), 0
		}
	}
	return nil
}

// failure is a batch that cannot be published now.
type failure struct {
	batch *store.Batch
	err   error
}

// publishAll publishes a round and returns what is to be tried again. The error is the whole state's.
func (p *Publisher) publishAll(round []*store.Batch) (failed []failure, err error) {
	errs := make([]error, len(round))
	var all sync.WaitGroup
	for i, b := range round {
		all.Go(func() { errs[i] = p.publish(b) })
	}
	all.Wait()
	for i, b := range round {
		switch {
		case errs[i] == nil:
		case isWaitedFor(errs[i]):
			failed = append(failed, failure{b, errs[i]})
		default:
			err = errors.Join(err, p.leaveOut(b, errs[i]))
		}
	}
	return failed, err
}

// putBack ends a round. What failed goes behind the others: the fault may be its folder's alone.
func (p *Publisher) putBack(failed []failure, pause time.Duration) {
	var problem error
	for _, f := range failed {
		p.o.Logger.Warn().Err(f.err).Str("batch", f.batch.Meta.ID).Float64("retry_seconds", pause.Seconds()).Msg("cannot publish")
		problem = f.err
		p.Finish(f.batch)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.round, p.problem = nil, problem
}

// leaveOut gives a batch up until the next start, unless the error is the whole state's.
func (p *Publisher) leaveOut(b *store.Batch, cause error) error {
	err := errors.Join(cause, b.Close())
	if _, final := errors.AsType[*store.FinalError](err); final {
		return err
	}
	p.o.Unreadable(b.Meta.ID, err)
	return nil
}

// rest waits, but not while there is a batch that was not tried yet. What lacks room is tried again once there is.
func (p *Publisher) rest(ctx context.Context, d time.Duration, cause error) {
	full, _ := errors.AsType[*durable.FullError](cause)
	if full != nil {
		d = maxPause
	}
	end := time.Now().Add(d)
	next := func() time.Duration {
		if full != nil {
			d = roomPause
		}
		return min(d, time.Until(end))
	}
	timer := time.NewTimer(next())
	defer timer.Stop()
	waiting := p.Status().Queue
	for {
		p.o.Pulse.Beat()
		select {
		case <-ctx.Done():
			return
		case <-p.o.Pulse.Asked():
		case <-timer.C:
			if !time.Now().Before(end) || p.hasRoom(full) {
				return
			}
			timer.Reset(next())
		case <-p.wake:
			p.writeNotes()
			if p.Status().Queue > waiting {
				return
			}
		}
	}
}

// hasRoom reports whether there is room by now for what failed for lack of it.
func (p *Publisher) hasRoom(lacked *durable.FullError) bool {
	if _, err := p.o.FS.Lstat(p.o.Dir); err != nil { // a share that hangs must not do so unseen
		return false
	}
	p.o.Pulse.Begin()
	space, err := durable.SpaceOf(lacked.Dir)
	p.o.Pulse.End()
	return err == nil && space.Free >= lacked.Need
}

// roundSize is how many batches the next round publishes.
func (p *Publisher) roundSize() int {
	if p.alone > 0 {
		return 1
	}
	return atOnce
}

// countAlone sees to it that batches which found no room together are each tried alone: some of them may fit.
func (p *Publisher) countAlone(round []*store.Batch, failed []failure) {
	lacksRoom := slices.ContainsFunc(failed, func(f failure) bool { return durable.IsFull(f.err) })
	switch {
	case len(round) == 1:
		p.alone = max(0, p.alone-1)
	case lacksRoom:
		p.alone = p.Status().Queue
	}
}

// next takes the next round from the queue; it is empty if nothing waits.
func (p *Publisher) next(most int) []*store.Batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.queue), most)
	round := slices.Clone(p.queue[:n])
	p.round, p.queue = slices.Clone(round), p.queue[n:]
	return round
}

func (p *Publisher) closeAll() {
	for round := p.next(atOnce); len(round) > 0; round = p.next(atOnce) {
		for _, b := range round {
			if err := b.Close(); err != nil {
				p.o.Logger.Error().Err(err).Str("batch", b.Meta.ID).Msg("close batch")
			}
		}
	}
}

// shareError is a fault that is waited out, of the outbox as a rule: the journal still has everything.
type shareError struct{ err error }

func (e *shareError) Error() string { return e.err.Error() }
func (e *shareError) Unwrap() error { return e.err }

func onShare(err error) error {
	if err == nil {
		return nil
	}
	return &shareError{err}
}

// isWaitedFor tells faults of the share, and what is lacking wherever it is, from what waiting does not end.
func isWaitedFor(err error) bool {
	_, final := errors.AsType[*store.FinalError](err)
	_, shared := errors.AsType[*shareError](err)
	return !final && (shared || durable.IsFull(err) || store.IsScarce(err))
}

// publish takes a complete batch to its end. Each step may be repeated: a crash or a fault in between goes on with the
// step that is missing.
func (p *Publisher) publish(b *store.Batch) error {
	if !b.Published() {
		if err := b.Finalize(); err != nil {
			return err
		}
		faults.Crash("publish.finalizing")
		err := p.publishFiles(b)
		if errors.Is(err, journal.ErrDamaged) {
			return p.reopen(b, err)
		}
		if err != nil {
			return fmt.Errorf("publish batch %s: %w", b.Meta.ID, err)
		}
	} else if err := p.endNote(b); err != nil {
		return fmt.Errorf("publish batch %s: %w", b.Meta.ID, err)
	}
	if err := b.End(); err != nil {
		return err
	}
	p.leave(b)
	progress := b.Progress()
	p.o.Logger.Info().Str("batch", b.Meta.ID).Str("state", string(b.Record.State)).Str("name", b.Record.PublishedAs.String()).
		Uint32("completed", progress.Completed).Uint32("failed", progress.Failed).Uint32("redone", progress.Redone).Msg("batch has ended")
	if err := b.Close(); err != nil {
		return err
	}
	p.o.Ended(b.Record)
	return nil
}

// reopen gives a batch back whose damaged records must run again.
func (p *Publisher) reopen(b *store.Batch, damage error) error {
	p.o.Logger.Error().Err(damage).Str("batch", b.Meta.ID).Msg("journal is damaged")
	if err := b.Reopen(); err != nil {
		return err
	}
	p.o.Reopen(b)
	return nil
}

// publishFiles puts the batch's files into the outbox and makes their names durable.
func (p *Publisher) publishFiles(b *store.Batch) error {
	e := edition{p: p, b: b, dir: filepath.Join(p.o.Dir, b.Meta.Queue)}
	return e.lacking(e.publish())
}

func (e *edition) publish() error {
	if err := durable.MkdirAll(e.p.o.FS, e.dir, 0o775); err != nil {
		return onShare(err)
	}
	switch {
	case e.b.Publication() == nil:
		if err := e.write(e.b.Meta.Name); err != nil {
			return err
		}
	case faults.Planted("publish-again"):
		if err := e.write(e.b.Meta.Name + "~again"); err != nil {
			return err
		}
	}
	if err := e.installAll(); err != nil {
		return err
	}
	faults.Crash("publish.installed")
	// Before the end, and before the last sync, so that neither a crash nor a power cut leaves it.
	if err := e.p.removeNote(e.b); err != nil {
		return err
	}
	if err := e.sweep(); err != nil {
		return err
	}
	return onShare(durable.SyncDir(e.p.o.FS, e.dir))
}

// installAll gives the files their names, once: from then on somebody may take them away, however often the rest of the
// publication has to be tried.
func (e *edition) installAll() error {
	if e.p.isInstalled(e.b) {
		return nil
	}
	for {
		err := e.install()
		if err == nil {
			e.p.setInstalled(e.b)
			return nil
		}
		if err := e.mend(err); err != nil {
			return err
		}
	}
}

func (p *Publisher) isInstalled(b *store.Batch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.installed[b]
}

func (p *Publisher) setInstalled(b *store.Batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.installed[b] = true
}

// leave forgets a batch that has ended.
func (p *Publisher) leave(b *store.Batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.installed, b)
	p.dropNotes(b.Meta.ID)
	p.round = slices.DeleteFunc(p.round, func(other *store.Batch) bool { return other == b })
}

// NameTaken reports whether the outbox has a result file of this name.
func (p *Publisher) NameTaken(queue string, name store.FileName) (bool, error) {
	for _, suffix := range []string{store.SuffixBatch, store.SuffixOutput, store.SuffixErrors, store.SuffixStatus} {
		_, err := p.o.FS.Lstat(filepath.Join(p.o.Dir, queue, string(name)+suffix))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}
