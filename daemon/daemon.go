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
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"stoker/daemon/api"
	"stoker/daemon/config"
	"stoker/daemon/inbox"
	"stoker/daemon/line"
	"stoker/daemon/outbox"
	"stoker/daemon/share"
	"stoker/daemon/systemd"
	"stoker/engine"
	"stoker/store"
	"stoker/store/faults"
)

// Options are what a Daemon needs.
type Options struct {
	Config      *config.Config // as of the start
	ConfigFile  string         // that was read, "" if there is none
	Root        string         // --root, "" if it was not given
	Version     string
	Executable  string   // stoker's own binary, which is the echo worker too
	Environ     []string // handed on to the worker
	Interactive bool     // a person started it from a shell
	Logger      zerolog.Logger
	SetLogLevel func(level string) // of Logger; nil: it stays as it is
	Systemd     *systemd.Notifier  // nil: nobody is told
}

// Daemon is a stoker that runs.
type Daemon struct {
	o       Options
	store   *store.Store
	shares  *share.FS    // below the folders that others write to as well
	missing []string     // of these: those that could not be made yet. Only used by Run
	parts   line.Options // of the line, but for its engine
	line    *line.Line
	engine  engine.Engine
	server  *api.Server
	started time.Time
	pulses  pulses

	config   atomic.Pointer[config.Config] // in effect
	reload   atomic.Pointer[api.Reload]    // what the last one came to
	running  chan struct{}                 // closed once all parts are there
	up       chan struct{}                 // closed once systemd was told so, or never will be
	tellUp   func()                        // closes up
	draining atomic.Pointer[time.Time]     // until when requests in flight may finish
	hanging  atomic.Pointer[string]        // which owners hang, in words
}

// settle times of [inbox] settle = "auto".
const (
	localSettle = 2 * time.Second
	shareSettle = 15 * time.Second
)

// ErrBadPath means that a configured folder cannot be what it is configured for.
var ErrBadPath = errors.New("unfit folder")

// FolderError means that a folder cannot be made, or that its permissions keep stoker out.
type FolderError struct {
	Dir  string
	Mode os.FileMode // that it is to have
	Err  error
}

func (e *FolderError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *FolderError) Unwrap() error { return e.Err }

const (
	stateMode  os.FileMode = 0o700
	sharedMode             = os.ModeSetgid | 0o775
)

// New opens the state and prepares the parts; Run starts them. The error is store.ErrInUse if another process has the
// state, and ErrBadPath if a folder is unfit. When ctx ends, so does New, with its error.
func New(ctx context.Context, o Options) (*Daemon, error) {
	d := &Daemon{o: o, shares: newShares(o.Config), started: time.Now(), pulses: newPulses(), running: make(chan struct{}), up: make(chan struct{})}
	d.tellUp = sync.OnceFunc(func() { close(d.up) })
	d.config.Store(o.Config)
	go o.Systemd.Extend(d.up, startLimit)
	if err := d.openUntil(ctx); err != nil {
		d.tellUp()
		return nil, err
	}
	return d, nil
}

// openUntil opens until ctx ends. Nothing can end the reading of a large database or the wait for a share, but the process
// may end in the middle of either as it may by a power cut: whatever of it comes back late is undone.
func (d *Daemon) openUntil(ctx context.Context) error {
	opened := make(chan error)
	go func() {
		err := d.open()
		select {
		case opened <- err:
		case <-ctx.Done():
			if err == nil {
				d.store.Close()
			}
		}
	}()
	select {
	case err := <-opened:
		return err
	case <-ctx.Done():
		d.o.Systemd.Stopping()
		d.o.Logger.Info().Msg("stopped before it was up")
		return ctx.Err()
	}
}

// open makes the folders and opens the state.
func (d *Daemon) open() error {
	var err error
	if d.missing, err = makeFolders(d.o.Config, &d.o.Logger); err != nil {
		return err
	}
	faults.Hang("start")
	if d.store, err = store.Open(d.o.Config.Paths.State); errors.Is(err, os.ErrPermission) {
		return &FolderError{d.o.Config.Paths.State, stateMode, err}
	} else if err != nil {
		return err
	}
	if err := d.assemble(); err != nil {
		return errors.Join(err, d.store.Close())
	}
	return nil
}

func (d *Daemon) component(name string) *zerolog.Logger {
	l := d.o.Logger.With().Str("part", name).Logger()
	return &l
}

// assemble reads how the line is configured.
func (d *Daemon) assemble() error {
	c := d.o.Config
	remote, err := isRemote(c, d.missing)
	if err != nil {
		return err
	}
	out, err := outboxSettings(c)
	if err != nil {
		return err
	}
	d.parts = line.Options{
		Store: d.store, Inbox: d.inboxOptions(c, remote), EngineKind: string(c.Engine.Kind), Logger: d.o.Logger, Pulse: d.pulses.dispatch,
		Outbox: outbox.Options{
			Settings: out, FS: d.shares.For(d.pulses.outbox), Dir: c.Paths.Outbox, Logger: *d.component("outbox"), Pulse: d.pulses.outbox,
		},
	}
	return nil
}

func outboxSettings(c *config.Config) (outbox.Settings, error) {
	group, err := groupID(c.Outbox.Group)
	return outbox.Settings{
		InputOrder: c.Outbox.Order == config.OrderInput, Mode: os.FileMode(c.Outbox.Mode), Group: group, Notes: c.Outbox.Notes,
	}, err
}

func (d *Daemon) inboxOptions(c *config.Config, remote bool) inbox.Options {
	o := inbox.Options{
		Settings: inboxSettings(c, remote), Dir: c.Paths.Inbox, Archive: c.Paths.Archive, Logger: *d.component("inbox"),
		FS: d.shares.For(d.pulses.inbox), Pulse: d.pulses.inbox, ArchiveFS: d.shares.For(d.pulses.archive), ArchivePulse: d.pulses.archive,
	}
	if c.Inbox.Watch == config.WatchNotify || c.Inbox.Watch == config.WatchAuto && !remote {
		o.Watch = func() inbox.Watcher { return inbox.NewWatcher(c.Paths.Inbox, o.Logger) }
	}
	return o
}

func inboxSettings(c *config.Config, remote bool) inbox.Settings {
	s := inbox.Settings{
		Settle: c.Inbox.Settle.Value, Rescan: time.Duration(c.Inbox.Rescan), PollEvery: time.Duration(c.Inbox.Poll),
		TailGrace: time.Duration(c.Inbox.TailGrace), MaxLine: int64(c.Inbox.MaxLine), SkipEnded: c.Inbox.Duplicates == config.DuplicatesSkip,
		Strict: c.Inbox.Strict, Defaults: c.EffectiveDefaults,
	}
	if c.Inbox.Settle.Auto {
		s.Settle = localSettle
		if remote {
			s.Settle = shareSettle
		}
	}
	switch c.Inbox.Ready {
	case config.ReadyRename:
		s.Ready = inbox.ReadyRename
	case config.ReadySidecar:
		s.Ready = inbox.ReadySidecar
	}
	return s
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
// run.drain, or until abort is closed, by which the worker is killed, too. An error means that the state cannot be written; the process must start anew.
func (d *Daemon) Run(ctx context.Context, abort <-chan struct{}) error {
	if err := d.start(ctx); err != nil {
		d.tellUp()
		return errors.Join(err, d.store.Close())
	}
	watched, unwatch := context.WithCancel(ctx)
	defer d.tellSystemd(watched)()
	noted := d.keepNotes(watched)

	err := d.wait(ctx)
	unwatch()
	limit := time.Duration(d.config.Load().Run.Drain)
	if err != nil {
		limit = 0
	}
	defer d.stopping(limit)()
	d.o.Logger.Info().Int("in_flight", d.engine.Status().InFlight).Float64("limit_seconds", limit.Seconds()).
		Msg("stopping; requests in flight may finish, another signal ends the wait")
	err = errors.Join(err, d.line.Stop(limit, abort, func() { d.stopEngine(abort) }), d.server.Close())
	noted()
	api.Unrecord(d.o.Config.Paths.State)
	err = errors.Join(err, d.store.Close())
	if fault := d.store.Fault(); fault != nil {
		err = fault // the rest is what it led to
	}
	d.o.Logger.Info().Msg("stopped")
	return err
}

// stopEngine gives the worker time to leave, until abort is closed.
func (d *Daemon) stopEngine(abort <-chan struct{}) {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		d.engine.Stop()
	}()
	select {
	case <-stopped:
	case <-abort:
		d.engine.Kill()
		<-stopped
	}
}

// Running is closed once Status and Batches may be called.
func (d *Daemon) Running() <-chan struct{} { return d.running }

func (d *Daemon) isRunning() bool {
	select {
	case <-d.running:
		return true
	default:
		return false
	}
}

// start opens the socket and starts the engine and the line.
func (d *Daemon) start(ctx context.Context) error {
	var err error
	if d.engine, err = d.startEngine(ctx); err != nil {
		return err
	}
	d.parts.Engine = d.engine
	d.line = line.New(d.parts)
	if d.server, err = api.Listen(d.o.Config.SocketPath(), d); err != nil {
		d.engine.Stop()
		return err
	}
	if err := d.line.Start(); err != nil {
		d.engine.Stop()
		return errors.Join(err, d.server.Close())
	}
	if err := api.Record(d.o.Config.Paths.State, d.o.Config.SocketPath()); err != nil { // as on a full disk
		d.o.Logger.Warn().Err(err).Msg("commands find this daemon only where their configuration says")
	}
	close(d.running)
	d.o.Logger.Info().Str("instance", d.store.Instance()).Str("inbox", d.o.Config.Paths.Inbox).Str("version", d.o.Version).Msg("stoker runs")
	return nil
}

func (d *Daemon) wait(ctx context.Context) error {
	look := time.NewTicker(troublesEvery)
	defer look.Stop()
	var troubles []share.Trouble
	for {
		d.pulses.daemon.Beat()
		faults.Hang("daemon")
		select {
		case <-d.pulses.daemon.Asked():
		case <-ctx.Done():
			return nil
		case <-look.C:
			troubles = d.logTroubles(troubles)
			d.lookAtFolders()
		case err := <-d.line.Failed():
			d.o.Logger.Error().Err(err).Msg("the state cannot be written; stopping")
			return err
		}
	}
}
