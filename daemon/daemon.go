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
	"stoker/daemon/inbox"
	"stoker/daemon/line"
	"stoker/daemon/outbox"
	"stoker/daemon/share"
	"stoker/engine"
	"stoker/store"
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
	shares  *share.FS    // below the folders that others write to as well
	missing []string     // of these: those that could not be made yet. Only used by Run
	parts   line.Options // of the line, but for its engine
	line    *line.Line
	engine  *engine.Supervisor
	server  *api.Server
	started time.Time

	running  chan struct{} // closed once all parts are there
	draining atomic.Bool
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
	missing, err := makeFolders(o.Config, &o.Logger)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(o.Config.Paths.State)
	if err != nil {
		return nil, err
	}
	d := &Daemon{o: o, store: s, shares: newShares(o.Config), missing: missing, started: time.Now(), running: make(chan struct{})}
	if err := d.assemble(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return d, nil
}

func (d *Daemon) component(name string) *zerolog.Logger {
	l := d.o.Logger.With().Str("part", name).Logger()
	return &l
}

// assemble reads how the line is configured.
func (d *Daemon) assemble() error {
	in, err := d.inboxOptions()
	if err != nil {
		return err
	}
	out, err := d.outboxOptions()
	if err != nil {
		return err
	}
	d.parts = line.Options{Store: d.store, Inbox: in, Outbox: out, EngineKind: string(d.o.Config.Engine.Kind), Logger: d.o.Logger}
	return nil
}

func (d *Daemon) outboxOptions() (outbox.Options, error) {
	c := d.o.Config
	group, err := groupID(c.Outbox.Group)
	return outbox.Options{
		FS: d.shares, Dir: c.Paths.Outbox, InputOrder: c.Outbox.Order == config.OrderInput, Mode: os.FileMode(c.Outbox.Mode),
		Group: group, Notes: c.Outbox.Notes, Logger: *d.component("outbox"),
	}, err
}

func (d *Daemon) inboxOptions() (inbox.Options, error) {
	c := d.o.Config
	remote, err := isRemote(c, d.missing)
	if err != nil {
		return inbox.Options{}, err
	}
	o := inbox.Options{
		FS: d.shares, Dir: c.Paths.Inbox, Archive: c.Paths.Archive,
		Settle: c.Inbox.Settle.Value, Rescan: time.Duration(c.Inbox.Rescan), PollEvery: time.Duration(c.Inbox.Poll),
		TailGrace: time.Duration(c.Inbox.TailGrace), MaxLine: int64(c.Inbox.MaxLine), SkipEnded: c.Inbox.Duplicates == config.DuplicatesSkip,
		Strict: c.Inbox.Strict, Defaults: c.EffectiveDefaults, Logger: *d.component("inbox"),
	}
	if c.Inbox.Watch == config.WatchNotify || c.Inbox.Watch == config.WatchAuto && !remote {
		o.Watch = func() inbox.Watcher { return inbox.NewWatcher(c.Paths.Inbox, o.Logger) }
	}
	if c.Inbox.Settle.Auto {
		o.Settle = localSettle
		if remote {
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
	notes := time.NewTicker(outbox.NotesEvery)
	defer notes.Stop()

	err := d.wait(ctx, notes.C)
	d.draining.Store(true)
	limit := time.Duration(d.o.Config.Run.Drain)
	if err != nil {
		limit = 0
	}
	d.o.Logger.Info().Int("in_flight", d.engine.Status().InFlight).Float64("limit_seconds", limit.Seconds()).
		Msg("stopping; requests in flight may finish, another signal ends the wait")
	err = errors.Join(err, d.line.Stop(limit, abort, d.engine.Stop), d.server.Close(), d.store.Close())
	if fault := d.store.Fault(); fault != nil {
		err = fault // the rest is what it led to
	}
	d.o.Logger.Info().Msg("stopped")
	return err
}

// Running is closed once Status and Batches may be called.
func (d *Daemon) Running() <-chan struct{} { return d.running }

// start opens the socket and starts the engine and the line.
func (d *Daemon) start() error {
	d.engine = d.newSupervisor()
	d.parts.Engine = d.engine
	d.line = line.New(d.parts)
	var err error
	if d.server, err = api.Listen(d.o.Config.SocketPath(), d); err != nil {
		d.engine.Stop()
		return err
	}
	if err := d.line.Start(); err != nil {
		d.engine.Stop()
		return errors.Join(err, d.server.Close())
	}
	close(d.running)
	d.o.Logger.Info().Str("instance", d.store.Instance()).Str("inbox", d.o.Config.Paths.Inbox).Str("version", d.o.Version).Msg("stoker runs")
	return nil
}

func (d *Daemon) wait(ctx context.Context, notes <-chan time.Time) error {
	look := time.NewTicker(troublesEvery)
	defer look.Stop()
	var troubles []share.Trouble
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			troubles = d.logTroubles(troubles)
			d.makeMissing()
		case err := <-d.line.Failed():
			d.o.Logger.Error().Err(err).Msg("the state cannot be written; stopping")
			return err
		case <-notes:
			d.writeNotes()
		}
	}
}
