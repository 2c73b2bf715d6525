package daemon

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"stoker/daemon/pulse"
	"stoker/daemon/share"
	"stoker/engine"
)

// pulses are those of the goroutines that own something, and of the store, whose lock they share.
type pulses struct{ inbox, archive, dispatch, engine, outbox, store, daemon *pulse.Pulse }

func newPulses() pulses {
	return pulses{pulse.New(), pulse.New(), pulse.New(), pulse.New(), pulse.New(), pulse.New(), pulse.New()}
}

func (p *pulses) owners() []pulse.Owner {
	return []pulse.Owner{
		{Name: "inbox", Pulse: p.inbox, After: p.dispatch}, // which takes its batches
		{Name: "archive", Pulse: p.archive, After: p.inbox},
		{Name: "dispatch", Pulse: p.dispatch},
		{Name: "engine supervisor", Pulse: p.engine},
		{Name: "outbox", Pulse: p.outbox, After: p.dispatch},
		{Name: "store", Pulse: p.store},
		{Name: "daemon", Pulse: p.daemon, After: p.dispatch},
	}
}

const (
	// startLimit and stopGrace bound how long systemd is asked for more time, beside run.drain.
	startLimit = 30 * time.Minute
	stopGrace  = 5 * time.Minute
	// lookGrace is how long a first look at the inbox may take before stoker counts as started all the same.
	lookGrace = share.Patience + time.Second
	// slowDisk is how long a read, write or sync of the state may take before whoever keeps silent is taken to wait for it.
	slowDisk = time.Second
	// statusEvery is how often systemd is told at most what stoker is doing.
	statusEvery = time.Second
)

// tellSystemd tells that stoker is up once the inbox has been looked at, and from then on what it is doing and that nothing
// hangs, the latter until ctx ends. The function that it returns ends all of it.
func (d *Daemon) tellSystemd(ctx context.Context) (end func()) {
	if d.o.Systemd == nil {
		d.tellUp()
		return func() {}
	}
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() { d.tellReady(ctx) })
	all.Go(func() { d.tellStatus(done) })
	if every := d.o.Systemd.WatchdogInterval(); every > 0 {
		all.Go(func() { d.pulses.engine.Answer(done, func() { d.engine.Status() }) })
		all.Go(func() { d.pulses.store.Answer(done, d.store.Ping) })
		all.Go(func() { d.keepAlive(ctx, every) })
	}
	return func() {
		close(done)
		all.Wait()
	}
}

func (d *Daemon) tellReady(ctx context.Context) {
	defer d.tellUp()
	select {
	case <-d.line.Inbox.Looked():
	case <-time.After(lookGrace): // its share does not answer; the rest works
	case <-ctx.Done():
		return
	}
	d.o.Systemd.Ready()
}

// stopping tells that stoker ends, and asks for the time that it takes.
func (d *Daemon) stopping(limit time.Duration) (stopped func()) {
	until := time.Now().Add(limit)
	d.draining.Store(&until)
	d.o.Systemd.Stopping()
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() { d.o.Systemd.Extend(done, limit+stopGrace) })
	return func() {
		close(done)
		all.Wait()
	}
}

// keepAlive feeds the watchdog while nobody hangs. Nobody may keep silent for half of what it allows: a hang is ended
// before twice that has passed.
func (d *Daemon) keepAlive(ctx context.Context, interval time.Duration) {
	every := interval / 4
	m := pulse.NewMonitor(interval/2, every, func() bool { return d.store.Waiting() > slowDisk }, d.pulses.owners()...)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		hung := m.Look()
		if len(hung) == 0 {
			d.o.Systemd.Alive()
		}
		d.reportHung(hung)
	}
}

// reportHung says who hangs, and once that nobody does any more.
func (d *Daemon) reportHung(hung []pulse.Hung) {
	before := d.hanging.Load()
	if len(hung) == 0 {
		if before != nil {
			d.hanging.Store(nil)
			d.o.Logger.Warn().Msg("goes on again")
		}
		return
	}
	var who []string
	for _, h := range hung {
		who = append(who, fmt.Sprintf("%s since %s", h.Name, h.Since.Format(time.TimeOnly)))
	}
	text := "hangs: " + strings.Join(who, ", ")
	if before == nil || *before != text {
		d.hanging.Store(&text)
		d.o.Logger.Error().Strs("owners", who).Msg("stoker hangs; the watchdog ends it, and a new start goes on")
		d.o.Systemd.Status(text)
	}
}

// tellStatus tells what stoker is doing whenever that changes.
func (d *Daemon) tellStatus(done <-chan struct{}) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for told := ""; ; {
		if line := d.statusLine(); line != told {
			d.o.Systemd.Status(line)
			told = line
		}
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

// statusLine is the engine's phase, what is to be done and what is wrong, in one line.
func (d *Daemon) statusLine() string {
	parts := []string{d.engineText(), d.queueText()}
	if until := d.draining.Load(); until != nil {
		parts = []string{"stopping", d.drainText(*until)}
	}
	for _, t := range d.shares.Troubles() {
		parts = append(parts, t.Err.Error())
	}
	if r := d.reload.Load(); r != nil {
		if len(r.Refused) > 0 {
			parts = append(parts, "configuration refused: "+r.Refused[0])
		}
		if len(r.Waiting) > 0 {
			parts = append(parts, "to be restarted for "+strings.Join(r.Waiting, ", "))
		}
	}
	if hanging := d.hanging.Load(); hanging != nil {
		parts = append([]string{*hanging}, parts...)
	}
	return strings.Join(parts, "; ")
}

func (d *Daemon) engineText() string {
	switch e := d.engine.Status(); e.State {
	case engine.Ready:
		return "engine is ready"
	case engine.Loading:
		if e.Phase == "" {
			return "starting the engine"
		}
		return e.Phase + " " + e.Detail
	case engine.BackOff:
		return "engine is started again: " + e.Reason
	case engine.Failed:
		return "engine is down for good: " + e.Reason
	default:
		return "starting the engine"
	}
}

func (d *Daemon) queueText() string {
	feed := d.line.Dispatch.Snapshot()
	batches, left := len(feed.Running)+len(feed.Waiting), int64(0)
	for _, r := range feed.Running {
		left += int64(r.Requests - r.Completed - r.Failed)
	}
	text := "idle"
	if batches > 0 {
		text = fmt.Sprintf("%s, %s requests to go", counted(batches, "batch", "batches"), humanize.Comma(left))
	}
	if n := len(feed.Waiting); n > 0 {
		text += fmt.Sprintf(" in the first %d", len(feed.Running))
	}
	if n := d.line.Outbox.Status().Queue; n > 0 {
		text += "; " + counted(n, "batch to be published", "batches to be published")
	}
	return text
}

func (d *Daemon) drainText(until time.Time) string {
	n := d.line.Dispatch.Snapshot().InFlight
	if n == 0 {
		return "saving"
	}
	return fmt.Sprintf("%s in flight may finish until %s", counted(n, "request", "requests"), until.Format(time.TimeOnly))
}
