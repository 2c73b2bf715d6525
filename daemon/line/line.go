// Package line is a request's way without the process around it: inbox → store → dispatch → engine → store → outbox. It
// wires the rooms, each of which is told only the functions of others that it needs, and owns their lifetimes.
package line

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"stoker/daemon/dispatch"
	"stoker/daemon/inbox"
	"stoker/daemon/outbox"
	"stoker/daemon/pulse"
	"stoker/store"
)

// Options are what a Line needs. It fills in what the rooms are told of each other.
type Options struct {
	Store      *store.Store
	Inbox      inbox.Options
	Outbox     outbox.Options
	Engine     dispatch.Engine
	EngineKind string // what batches record of it: "vllm" or "echo"
	Logger     zerolog.Logger
	Pulse      *pulse.Pulse // of the dispatcher; those of inbox and outbox are theirs
}

// Line is the rooms that a request passes through.
type Line struct {
	Inbox    *inbox.Inbox
	Outbox   *outbox.Publisher
	Dispatch *dispatch.Dispatcher

	o          Options
	failed     chan error // errors that end the line
	inbox      worker
	outbox     worker
	fault      worker
	dispatched chan struct{} // closed when the dispatcher has ended
}

// worker is a goroutine that runs until its context ends.
type worker struct {
	stop context.CancelFunc
	done chan struct{}
}

// start runs a function in a goroutine.
func start(run func(context.Context)) worker {
	ctx, stop := context.WithCancel(context.Background())
	w := worker{stop, make(chan struct{})}
	go func() {
		defer close(w.done)
		run(ctx)
	}()
	return w
}

// New prepares the rooms; Start starts them.
func New(o Options) *Line {
	l := &Line{o: o, failed: make(chan error, 4), dispatched: make(chan struct{})}
	out, in := o.Outbox, o.Inbox
	out.Changed = func(r *store.Record) bool { return l.Inbox.Changed(r) }
	out.Reopen = func(b *store.Batch) { l.Dispatch.Reopen(b) }
	out.Unreadable = func(id string, err error) { l.Dispatch.LeaveOut(id, err) }
	out.Ended = func(r *store.Record) { l.Inbox.Ended(r) }
	l.Outbox = outbox.New(out)
	in.Store = o.Store
	in.NameTaken = l.Outbox.NameTaken
	in.Admitted = func(r *store.Record) { l.Dispatch.Admit(r) }
	l.Inbox = inbox.New(in)
	l.Dispatch = dispatch.New(dispatch.Options{
		Store: o.Store, Engine: o.Engine, EngineKind: o.EngineKind, Finish: l.Outbox.Finish,
		Unpublished: func() int { return l.Outbox.Status().Queue }, Logger: o.Logger.With().Str("part", "dispatch").Logger(), Pulse: o.Pulse,
	})
	return l
}

// Start hands over the batches that have not ended and begins to take files.
func (l *Line) Start() error {
	records, err := l.o.Store.List()
	if err != nil {
		return err
	}
	l.inbox = start(l.Inbox.Run)
	l.outbox = start(func(ctx context.Context) { l.fail(l.Outbox.Run(ctx)) })
	l.fault = start(l.awaitFault)
	go func() {
		defer close(l.dispatched)
		l.fail(l.Dispatch.Run())
	}()
	go l.resume(records)
	return nil
}

// awaitFault ends the line when the state cannot be relied on, whoever met the fault.
func (l *Line) awaitFault(ctx context.Context) {
	select {
	case <-l.o.Store.Faulted():
		l.fail(l.o.Store.Fault())
	case <-ctx.Done():
	}
}

func (l *Line) resume(records []*store.Record) {
	for _, r := range records {
		if !r.State.Ended() {
			l.Dispatch.Admit(r)
		}
	}
}

func (l *Line) fail(err error) {
	if err != nil {
		l.failed <- err // there is space for one of each room, and the store's
	}
}

// Failed receives an error if the state cannot be written; the process must start anew.
func (l *Line) Failed() <-chan error { return l.failed }

// shareTimeout is how long Stop waits for a goroutine that works on a share.
const shareTimeout = 10 * time.Second

// Stop takes no more files and lets requests in flight finish for up to limit, or until abort is closed. Then it stops
// the engine, by the function given, and the rest. The error is what Failed had not told yet.
func (l *Line) Stop(limit time.Duration, abort <-chan struct{}, stopEngine func()) error {
	l.inbox.stop()
	l.Dispatch.Drain(limit)
	select {
	case <-l.dispatched:
	case <-abort:
		l.Dispatch.Drain(0)
		<-l.dispatched
	}
	stopEngine()
	l.outbox.stop()
	l.fault.stop()
	<-l.fault.done
	// A hung share holds up whoever works on it; what they did not finish is done again after the next start.
	waitFor(l.inbox.done, abort)
	waitFor(l.outbox.done, abort)
	var err error
	for {
		select {
		case late := <-l.failed:
			err = errors.Join(err, late)
		default:
			return err
		}
	}
}

func waitFor(done, abort <-chan struct{}) {
	select {
	case <-done:
	case <-abort:
	case <-time.After(shareTimeout):
	}
}
