package sim

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"stoker/daemon/inbox"
	"stoker/daemon/line"
	"stoker/daemon/outbox"
	"stoker/store"
	"stoker/test/rig"
)

// World is one machine with one stoker, its users, and all that goes wrong, drawn from one seed.
type World struct {
	rand    *rand.Rand
	dir     string // real: bbolt's file needs one
	disk    *Disk
	inputs  []rig.Input
	plan    []event // by time
	strikes []strike
	deadly  bool // the worker may die by itself

	// How this stoker is configured.
	archive   string
	ready     inbox.Ready
	skipEnded bool
	unordered bool

	log zerolog.Logger

	sched  *Scheduler
	hints  chan struct{}
	began  time.Time
	skew   time.Duration // of the share's clock
	unsure time.Time     // since when the state cannot be written, or could not until shortly
	budget int           // steps until the process dies; negative: it lives on

	// What happened.
	Steps    int
	Kills    int
	Cuts     int // of the power
	Restarts int // because the state could not be written
	Deaths   int // of the worker
	Faults   int // of filesystems
	Redone   int64
	exposed  int64 // requests that a fault may have made run again
}

// event is something that happens at a time, whatever stoker is doing then.
type event struct {
	at time.Duration // since the world began
	do func()
}

// strike is something that happens between two steps.
type strike struct {
	step int
	do   func()
}

const (
	settle    = 2 * time.Second
	tailGrace = time.Minute
	maxLine   = 1 << 20
)

func (w *World) state() string { return filepath.Join(w.dir, "state") }

// Folders that others write to as well. What is mounted where differs from world to world.
const (
	inboxDir   = "/share/inbox"
	outboxDir  = "/out/outbox"
	archiveDir = "/share/archive"
	farArchive = "/far/archive"
)

// NewWorld draws a world. Real files go below dir.
func NewWorld(seed uint64, dir string, log zerolog.Logger) *World {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &World{rand: r, dir: dir, began: time.Now(), hints: make(chan struct{}, 1), log: log}
	w.disk = NewDisk(r, w.state(), "/share", "/out", "/far")
	for _, path := range []string{inboxDir, outboxDir, archiveDir, farArchive} {
		w.disk.putDirs(path)
	}
	w.sched = newScheduler(r)
	w.drawSettings()
	w.drawInputs()
	w.drawFaults()
	slices.SortStableFunc(w.plan, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	return w
}

func (w *World) chance(percent int) bool { return w.rand.IntN(100) < percent }

// within draws a time up to max, at an odd nanosecond, so that it meets no timer of stoker's.
func (w *World) within(max time.Duration) time.Duration {
	return time.Duration(w.rand.Int64N(int64(max))) | 1
}

func (w *World) at(t time.Duration, do func()) { w.plan = append(w.plan, event{t, do}) }

// atStep has something happen before the step of that number.
func (w *World) atStep(step int, do func()) { w.strikes = append(w.strikes, strike{step, do}) }

// drawSettings draws how stoker is configured.
func (w *World) drawSettings() {
	w.archive = archiveDir
	if w.chance(50) {
		w.archive = farArchive
	}
	if w.chance(25) {
		w.ready = inbox.ReadySidecar
	}
	w.skipEnded = w.chance(25)
	w.unordered = w.chance(25)
}

// drawInputs draws what people drop.
func (w *World) drawInputs() {
	w.deadly = w.chance(40)
	for i := range 1 + w.rand.IntN(4) {
		name := fmt.Sprintf("f%d.jsonl", i)
		if w.chance(30) {
			name = "queue/" + name
		}
		in := rig.Input{Name: name, Lines: rig.Good(fmt.Sprintf("f%d", i), 1+w.rand.IntN(30)), Copies: 1}
		switch {
		case w.chance(25):
			in.Lines = append(in.Lines, rig.Bad(fmt.Sprintf("b%d", i))...)
		case w.chance(10):
			in.Lines = rig.Bad(fmt.Sprintf("b%d", i))
		case w.chance(10) && !w.deadly:
			in.Lines = append(in.Lines, rig.Line{Raw: `{"custom_id":"p","prompt":"` + poison + `"}`, ID: "p", Code: "engine_crashed"})
		}
		if w.chance(25) {
			in.Copies += 1 + w.rand.IntN(3)
		}
		w.inputs = append(w.inputs, in)
		first := w.within(40 * time.Second)
		w.at(first, func() { w.drop(&in) })
		for range in.Copies - 1 {
			w.at(first+3*time.Second+w.within(90*time.Second), func() { w.drop(&in) })
		}
	}
}

// drop puts a file into the inbox, at once or in pieces. One that has the name of a file that still lies there, or is still
// announced, waits.
func (w *World) drop(in *rig.Input) {
	path := filepath.Join(inboxDir, in.Name)
	if w.disk.find(path) != nil || slices.ContainsFunc(sidecars(path), func(s string) bool { return w.disk.find(s) != nil }) {
		w.later(5*time.Second, func() { w.drop(in) })
		return
	}
	content, upTo := in.Content(), 0
	if w.chance(50) {
		upTo = len(content)
	} else {
		upTo = w.rand.IntN(len(content))
	}
	w.write(path, content, upTo)
}

// sidecars are the names that announce a file as complete.
func sidecars(path string) []string {
	return []string{strings.TrimSuffix(path, ".jsonl") + ".done", path + ".done"}
}

// write puts a file there up to some byte, and goes on later. Where nobody announces files, a pause at the end of a line is
// shorter than what makes a file count as complete, one within a line shorter than what stoker waits for its newline.
func (w *World) write(path, content string, upTo int) {
	w.put(path, content[:upTo])
	if upTo == len(content) {
		w.announce(path)
		return
	}
	pause := w.within(settle - 200*time.Millisecond)
	if upTo > 0 && content[upTo-1] != '\n' || w.ready == inbox.ReadySidecar {
		pause = w.within(tailGrace - time.Second)
	}
	next := upTo + 1 + w.rand.IntN(len(content)-upTo)
	w.later(pause, func() { w.write(path, content, next) })
}

// announce says of a file that it is complete, where stoker waits for that.
func (w *World) announce(path string) {
	if w.ready != inbox.ReadySidecar {
		return
	}
	sidecar := sidecars(path)[w.rand.IntN(2)]
	w.later(w.within(10*time.Second), func() { w.put(sidecar, "") })
}

// put writes a file.
func (w *World) put(path, content string) {
	w.disk.Put(path, content, time.Now().Add(w.skew))
	w.hint()
}

// later adds an event to the plan.
func (w *World) later(d time.Duration, do func()) {
	at := time.Since(w.began) + d
	i, _ := slices.BinarySearchFunc(w.plan, at, func(e event, at time.Duration) int { return cmp.Compare(e.at, at) })
	w.plan = slices.Insert(w.plan, i, event{at, do})
}

// hint is the filesystem's event: it may be lost, and come twice or for nothing.
func (w *World) hint() {
	if w.chance(60) {
		select {
		case w.hints <- struct{}{}:
		default:
		}
	}
}

// drawFaults draws windows in which something is wrong with a filesystem.
func (w *World) drawFaults() {
	for range w.rand.IntN(5) {
		w.drawFault(w.disk.mounts[w.rand.IntN(len(w.disk.mounts))])
	}
	for range w.rand.IntN(3) {
		w.at(w.within(2*time.Minute), func() { w.skew = w.within(2*time.Hour) - time.Hour })
		w.at(w.within(2*time.Minute), w.hint)
	}
}

// drawFault draws a window that begins at some time, or between any two steps, and lasts for some time, or a few steps.
func (w *World) drawFault(m *mount) {
	kinds := []string{"ENOSPC", "EIO", "EROFS"}
	if m.root != w.state() {
		kinds = append(kinds, "ENOTCONN", "hung")
	}
	kind, length := kinds[w.rand.IntN(len(kinds))], w.within(3*time.Minute)
	brief := w.chance(25) && kind != "hung"
	begin := func() {
		w.breakDown(m, kind, length)
		if brief {
			w.atStep(w.Steps+1+w.rand.IntN(8), func() { w.mend(m) })
		} else {
			w.later(length, func() { w.mend(m) })
		}
	}
	if w.chance(50) {
		w.at(w.within(2*time.Minute), begin)
	} else {
		w.atStep(w.rand.IntN(1200), begin)
	}
}

func (w *World) breakDown(m *mount, kind string, length time.Duration) {
	w.Faults++
	if m.root == w.state() && w.unsure.IsZero() {
		w.unsure = time.Now()
	}
	switch kind {
	case "ENOSPC":
		m.faults.limit = m.dir.size() + w.rand.Int64N(4096) + 1
	case "EIO":
		m.faults.broken = true
	case "EROFS":
		m.faults.readOnly = true
	case "ENOTCONN":
		m.faults.gone = true
	case "hung":
		m.faults.hungTill = time.Now().Add(length)
	}
}

func (w *World) mend(m *mount) {
	m.faults = faults{}
	if m.root == w.state() {
		w.later(unsynced, func() { w.unsure = time.Time{} })
	}
}

// eyes is the inbox's watcher.
type eyes struct{ w *World }

func (e eyes) Dirty() <-chan struct{} { return e.w.hints }
func (e eyes) Follow(string)          {}
func (e eyes) Alive() bool            { return true }
func (e eyes) Close()                 {}

// life is one process, from its start to its death.
type life struct {
	w      *World
	store  *store.Store
	line   *line.Line
	worker *worker
	notes  *clerk
}

// begin starts stoker on what the disk holds.
func (w *World) begin(fsys *Life) (*life, error) {
	s, err := store.OpenOn(fsys, w.state())
	if err != nil {
		return nil, err
	}
	die := 0
	if w.deadly {
		die = 10
	}
	l := &life{w: w, store: s, worker: startWorker(w.rand, die)}
	l.line = line.New(line.Options{
		Store: s, Engine: l.worker, EngineKind: "echo", Logger: w.log,
		Inbox: inbox.Options{
			Settings: inbox.Settings{
				Settle: settle, Rescan: 30 * time.Second, PollEvery: 2 * time.Second, TailGrace: tailGrace, MaxLine: maxLine,
				Ready: w.ready, SkipEnded: w.skipEnded, Defaults: func(string) map[string]any { return nil },
			},
			FS: fsys, Dir: inboxDir, Archive: w.archive, Watch: func() inbox.Watcher { return eyes{w} }, Logger: w.log,
		},
		Outbox: outbox.Options{
			Settings: outbox.Settings{InputOrder: !w.unordered, Mode: 0o664, Group: -1, Notes: true}, FS: fsys, Dir: outboxDir, Logger: w.log,
		},
	})
	if err := l.line.Start(); err != nil {
		l.worker.end()
		return nil, errors.Join(err, s.Close())
	}
	l.notes = startClerk(s, l.line.Outbox)
	return l, nil
}

// end stops a life. A dead one's operations fail, so that it comes to its end soon.
func (l *life) end() error {
	abort := make(chan struct{})
	close(abort)
	err := l.line.Stop(0, abort, l.worker.end)
	l.notes.end()
	return errors.Join(err, l.store.Close())
}
