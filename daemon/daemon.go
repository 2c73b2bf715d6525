// Package daemon is the process: it wires inbox, store, dispatch, engine and outbox together and owns their lifetimes.
// A request's way through it is one line: inbox → store → dispatch → engine → store → outbox.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"stoker/daemon/api"
	"stoker/daemon/config"
	"stoker/daemon/dispatch"
	"stoker/daemon/inbox"
	"stoker/daemon/outbox"
	"stoker/engine"
	"stoker/store"
	"stoker/store/durable"
)

// Options are what a Daemon needs.
type Options struct {
	Config      *config.Config
	ConfigDir   string // folder of the configuration file, "" if there is none
	Root        string // --root, "" if it was not given
	Version     string
	Executable  string   // stoker's own binary, which is the echo worker too
	Environ     []string // handed on to the worker
	Interactive bool     // a person started it from a shell
	Logger      zerolog.Logger
}

// Daemon is a stoker that runs.
type Daemon struct {
	o       Options
	store   *store.Store
	engine  *engine.Supervisor
	inbox   *inbox.Inbox
	outbox  *outbox.Publisher
	feed    *dispatch.Dispatcher
	server  *api.Server
	started time.Time

	running  chan struct{} // closed once all parts are there
	draining atomic.Bool
	failed   chan error // the first error that ends the daemon
}

// settle times of [inbox] settle = "auto".
const (
	localSettle = 2 * time.Second
	shareSettle = 15 * time.Second
)

// ErrBadPath means that a configured folder cannot be what it is configured for.
var ErrBadPath = errors.New("unfit folder")

// New opens the state and prepares the parts; Run starts them. The error is store.ErrInUse if another process has the
// state, and ErrBadPath if a folder is unfit.
func New(o Options) (*Daemon, error) {
	if err := makeFolders(&o.Config.Paths); err != nil {
		return nil, err
	}
	s, err := store.Open(o.Config.Paths.State)
	if err != nil {
		return nil, err
	}
	d := &Daemon{o: o, store: s, started: time.Now(), running: make(chan struct{}), failed: make(chan error, 3)}
	if err := d.assemble(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return d, nil
}

func makeFolders(p *config.Paths) error {
	if err := durable.MkdirAll(durable.Local{}, p.State, 0o700); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	if share, err := inbox.IsShare(p.State); err != nil {
		return err
	} else if share {
		return fmt.Errorf("%w: state %s is on a network filesystem, whose locks and syncs are not to be trusted; it must be on a local disk", ErrBadPath, p.State)
	}
	for _, dir := range []string{p.Inbox, p.Outbox, p.Archive} {
		if err := durable.MkdirAll(durable.Local{}, dir, 0o775); err != nil {
			return fmt.Errorf("create folder: %w", err)
		}
	}
	return nil
}

func (d *Daemon) component(name string) *zerolog.Logger {
	l := d.o.Logger.With().Str("part", name).Logger()
	return &l
}

// assemble makes the parts. Each is told only the functions of others that it needs.
func (d *Daemon) assemble() error {
	c := d.o.Config
	group, err := groupID(c.Outbox.Group)
	if err != nil {
		return err
	}
	d.outbox = outbox.New(outbox.Options{
		FS: d.shares(), Dir: c.Paths.Outbox, InputOrder: c.Outbox.Order == config.OrderInput, Mode: os.FileMode(c.Outbox.Mode), Group: group, Notes: c.Outbox.Notes,
		Changed: func(r *store.Record) bool { return d.inbox.Changed(r) },
		Reopen:  func(b *store.Batch) { d.feed.Reopen(b) },
		Ended:   func(r *store.Record) { d.inbox.Ended(r) },
		Logger:  *d.component("outbox"),
	})
	options, err := d.inboxOptions()
	if err != nil {
		return err
	}
	d.inbox = inbox.New(options)
	return nil
}

// shares is the filesystem below the folders that others write to as well.
func (d *Daemon) shares() durable.FS {
	p := &d.o.Config.Paths
	return durable.Beneath{p.Inbox, p.Outbox, p.Archive}
}

func (d *Daemon) inboxOptions() (inbox.Options, error) {
	c := d.o.Config
	share, err := inbox.IsShare(c.Paths.Inbox)
	if err != nil {
		return inbox.Options{}, err
	}
	o := inbox.Options{
		FS: d.shares(), Dir: c.Paths.Inbox, Archive: c.Paths.Archive,
		Settle: c.Inbox.Settle.Value, Rescan: time.Duration(c.Inbox.Rescan), PollEvery: time.Duration(c.Inbox.Poll),
		TailGrace: time.Duration(c.Inbox.TailGrace), MaxLine: int64(c.Inbox.MaxLine), SkipEnded: c.Inbox.Duplicates == config.DuplicatesSkip,
		Strict: c.Inbox.Strict, Store: d.store, Defaults: c.EffectiveDefaults, NameTaken: d.outbox.NameTaken,
		Admitted: func(r *store.Record) { d.feed.Admit(r) }, Logger: *d.component("inbox"),
	}
	if c.Inbox.Watch == config.WatchNotify || c.Inbox.Watch == config.WatchAuto && !share {
		o.Watch = func() inbox.Watcher { return inbox.NewWatcher(c.Paths.Inbox, o.Logger) }
	}
	if c.Inbox.Settle.Auto {
		o.Settle = localSettle
		if share {
			o.Settle = shareSettle
		}
	}
	switch c.Inbox.Ready {
	case config.ReadyRename:
		o.Ready = inbox.ReadyRename
	case config.ReadySidecar:
		o.Ready = inbox.ReadySidecar
	}
	return o, nil
}

// groupID finds a group by name or number; -1 for none.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if id, err := strconv.Atoi(name); err == nil {
		return id, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("%w: outbox.group: %w", ErrBadPath, err)
	}
	return strconv.Atoi(g.Gid)
}

// Run works until the context ends, then drains: it takes no more files and lets requests in flight finish for up to
// run.drain, or until abort is closed. An error means that the state cannot be written; the process must start anew.
func (d *Daemon) Run(ctx context.Context, abort <-chan struct{}) error {
	if err := d.start(); err != nil {
		return errors.Join(err, d.store.Close())
	}
	inboxCtx, stopInbox := context.WithCancel(context.Background())
	outboxCtx, stopOutbox := context.WithCancel(context.Background())
	defer stopInbox()
	defer stopOutbox()
	inboxDone, outboxDone, feedDone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() { defer close(inboxDone); d.inbox.Run(inboxCtx) }()
	go func() { defer close(outboxDone); d.fail(d.outbox.Run(outboxCtx)) }()
	go func() { defer close(feedDone); d.fail(d.feed.Run()) }()
	notes := time.NewTicker(outbox.NotesEvery)
	defer notes.Stop()

	err := d.wait(ctx, notes.C)
	d.draining.Store(true)
	stopInbox()
	limit := time.Duration(d.o.Config.Run.Drain)
	if err != nil {
		limit = 0
	}
	d.o.Logger.Info().Int("in_flight", d.engine.Status().InFlight).Float64("limit_seconds", limit.Seconds()).
		Msg("stopping; requests in flight may finish, another signal ends the wait")
	d.feed.Drain(limit)
	select {
	case <-feedDone:
	case <-abort:
		d.feed.Drain(0)
		<-feedDone
	}
	d.engine.Stop()
	stopOutbox()
	// A hung share holds up whoever works on it; what they did not finish is done again after the next start.
	waitFor(inboxDone, abort)
	waitFor(outboxDone, abort)
	err = errors.Join(err, d.server.Close(), d.store.Close())
	select {
	case late := <-d.failed:
		err = errors.Join(err, late)
	default:
	}
	d.o.Logger.Info().Msg("stopped")
	return err
}

// shareTimeout is how long stopping waits for a goroutine that works on a share.
const shareTimeout = 10 * time.Second

func waitFor(done, abort <-chan struct{}) {
	select {
	case <-done:
	case <-abort:
	case <-time.After(shareTimeout):
	}
}

// Running is closed once Status and Batches may be called.
func (d *Daemon) Running() <-chan struct{} { return d.running }

// start opens the socket, sweeps what a former life left and hands over the batches that have not ended.
func (d *Daemon) start() error {
	if n, err := engine.Sweep(d.store.Instance(), d.store.Dir()); err != nil {
		return err
	} else if n > 0 {
		d.o.Logger.Warn().Int("processes", n).Msg("killed workers that a former life left behind")
	}
	records, err := d.store.List()
	if err != nil {
		return err
	}
	d.engine = d.newSupervisor()
	d.feed = dispatch.New(dispatch.Options{
		Store: d.store, Engine: d.engine, EngineKind: string(d.o.Config.Engine.Kind),
		Finish: d.outbox.Finish, Unpublished: func() int { return d.outbox.Status().Queue }, Logger: *d.component("dispatch"),
	})
	if d.server, err = api.Listen(d.o.Config.SocketPath(), d); err != nil {
		d.engine.Stop()
		return err
	}
	close(d.running)
	go func() {
		for _, r := range records {
			if !r.State.Ended() {
				d.feed.Admit(r)
			}
		}
	}()
	d.o.Logger.Info().Str("instance", d.store.Instance()).Str("inbox", d.o.Config.Paths.Inbox).Str("version", d.o.Version).Msg("stoker runs")
	return nil
}

func (d *Daemon) fail(err error) {
	if err != nil {
		select {
		case d.failed <- err:
		default:
		}
	}
}

func (d *Daemon) wait(ctx context.Context, notes <-chan time.Time) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-d.failed:
			d.o.Logger.Error().Err(err).Msg("the state cannot be written; stopping")
			return err
		case <-notes:
			d.writeNotes()
		}
	}
}
