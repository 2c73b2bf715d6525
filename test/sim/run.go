package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"stoker/store"
	"stoker/test/rig"
)

// maxRestarts and maxTime bound a world: by then stoker must have come to rest.
const (
	maxRestarts = 500
	maxTime     = 24 * time.Hour
	maxSteps    = 200_000
)

// Run lives one life after another until all that was dropped has ended, and judges what became of it. The error names the
// invariant that broke.
func (w *World) Run() error {
	for crashes := w.rand.IntN(5); ; {
		w.budget = -1
		if w.Kills < crashes {
			w.budget = 1 + int(float64(w.rand.IntN(600))*w.rand.Float64())
		}
		rested, err := w.live()
		if err != nil || rested {
			return err
		}
		if w.isLost() {
			return fmt.Errorf("I7: not at rest after %d steps, %d restarts and %s", w.Steps, w.Restarts, time.Since(w.began))
		}
	}
}

// isLost reports whether stoker should long have come to rest.
func (w *World) isLost() bool {
	return w.Restarts > maxRestarts || w.Steps > maxSteps || time.Since(w.began) > maxTime
}

// live is one life of the process, and what is found after it.
func (w *World) live() (rested bool, err error) {
	fsys := &Life{disk: w.disk, sched: w.sched}
	w.sched.bear(fsys)
	var l *life
	var failure error
	begun := background(func() { l, failure = w.begin(fsys) })
	alive := w.drive(func(bool) bool { return closed(begun) })
	if alive && failure == nil {
		alive = w.drive(func(idle bool) bool { return l.hasFailed(&failure) || idle && w.isAtRest() })
	}
	switch {
	case !alive:
		return false, w.kill(begun, &l)
	case failure != nil:
		w.restart(l)
		return false, w.check()
	}
	w.stop(l)
	return true, errors.Join(w.check(), w.judge())
}

// drive lets one thing after another happen until stop is true, which is told whether nothing can be done now. It reports
// false if the process is to die first.
func (w *World) drive(stop func(idle bool) bool) (alive bool) {
	for {
		st := w.sched.next()
		switch {
		case stop(st == nil):
			w.sched.giveBack(st)
			return true
		case w.happen():
			w.sched.giveBack(st)
			continue
		case st == nil:
			w.pass()
			continue
		case w.budget == 0 || w.isLost():
			w.sched.giveBack(st)
			return false
		}
		answer := w.sched.grant(st)
		w.Steps++
		if w.budget--; w.budget == 0 && w.chance(50) {
			w.sched.giveBack(st) // it is done, but nobody gets to know
			return false
		}
		answer()
	}
}

// happen does what is due of the plan, and reports whether there was anything.
func (w *World) happen() bool {
	if i := slices.IndexFunc(w.strikes, func(s strike) bool { return s.step <= w.Steps }); i >= 0 {
		do := w.strikes[i].do
		w.strikes = slices.Delete(w.strikes, i, i+1)
		w.sched.Look(do)
		return true
	}
	if len(w.plan) == 0 || time.Since(w.began) < w.plan[0].at {
		return false
	}
	e := w.plan[0]
	w.plan = w.plan[1:]
	w.sched.Look(e.do)
	return true
}

// pass lets time go by until something may happen.
func (w *World) pass() {
	wait := time.Hour
	if len(w.plan) > 0 {
		wait = max(0, w.plan[0].at-time.Since(w.began))
	}
	select {
	case <-w.sched.arrived:
	case <-time.After(wait):
	}
}

// isAtRest reports whether nothing is left to be done: nobody will drop anything more, and the inbox is empty.
func (w *World) isAtRest() bool {
	if len(w.plan) > 0 {
		return false
	}
	rests := true
	w.sched.Look(func() {
		w.disk.Walk(func(path string, _ []byte) { rests = rests && !strings.HasPrefix(path, inboxDir) })
		rests = rests && !w.disk.hasClaims(inboxDir)
	})
	return rests
}

func (l *life) hasFailed(failure *error) bool {
	select {
	case *failure = <-l.line.Failed():
		return true
	default:
		return false
	}
}

// kill ends a life at this moment: what it does from here on has no effect. Half of the time the power is cut.
func (w *World) kill(begun <-chan struct{}, l **life) error {
	index, err := os.ReadFile(w.index())
	w.sched.kill()
	<-begun
	if *l != nil {
		w.expose(*l)
		w.exposed += (*l).worker.lost
		(*l).end() // it fails, of course
	}
	if err = errors.Join(ignoreMissing(err), ignoreMissing(os.Remove(w.index()))); err != nil {
		return err
	}
	if index != nil {
		if err := os.WriteFile(w.index(), index, 0o600); err != nil {
			return err
		}
	}
	w.Kills++
	if w.chance(50) {
		w.Cuts++
		w.disk.PowerCut()
	}
	return w.check()
}

func (w *World) index() string { return filepath.Join(w.state(), "stoker.db") }

// restart ends a life that could not write its state, and waits a bit, as a service manager does.
func (w *World) restart(l *life) {
	w.Restarts++
	if l != nil {
		w.expose(l)
		w.stop(l)
	}
	back := time.Now().Add(5 * time.Second)
	w.budget = -1
	w.later(time.Until(back), func() {})
	w.drive(func(bool) bool { return !time.Now().Before(back) })
}

// stop ends a life in good order.
func (w *World) stop(l *life) {
	w.budget = -1
	ended := background(func() { l.end() })
	w.drive(func(bool) bool { return closed(ended) })
	w.sched.kill() // what hangs on a share ends with the process
	w.Deaths += l.worker.deaths
	w.exposed += l.worker.lost
}

// expose counts what this life's end may make run again: what is in flight, and what was answered since the last commit.
func (w *World) expose(l *life) {
	since := time.Now().Add(-unsynced)
	if !w.unsure.IsZero() && w.unsure.Before(since) {
		since = w.unsure
	}
	w.exposed += l.worker.atRisk(since)
}

func background(do func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	return done
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// check proves what must hold at every instant, also right after a crash: verify reads what the disk holds now. What only
// the next start puts in order is not an error yet.
func (w *World) check() error {
	return w.verify(func(f store.Finding) bool { return f.Invariant != store.InputOnce && f.Invariant != store.NoLeftovers })
}

// verify is `stoker verify`, less the findings that do not count.
func (w *World) verify(counts func(store.Finding) bool) error {
	fsys := &Life{disk: w.disk, sched: w.sched, free: true}
	s, err := store.OpenReadOnlyOn(fsys, w.state())
	if errors.Is(err, store.ErrNoState) {
		return nil
	}
	if err != nil {
		return err
	}
	defer s.Close()
	report, err := s.Verify(context.Background(), "", store.Folders{FS: fsys, Inbox: inboxDir, Outbox: outboxDir})
	if err != nil {
		return err
	}
	w.Redone = report.Redone
	for _, f := range report.Findings {
		if !f.Note && counts(f) {
			err = errors.Join(err, fmt.Errorf("%s: %s: line %d: %s", f.Invariant, f.File, f.Line, f.Message))
		}
	}
	return err
}

// judge reads what stoker published, by code that is not its own, and holds it against what was dropped.
func (w *World) judge() error {
	err := w.verify(func(store.Finding) bool { return true })
	if w.Redone > w.exposed {
		err = errors.Join(err, fmt.Errorf("I9: %d requests ran again, of %d that were in flight or not synced when something died", w.Redone, w.exposed))
	}
	home, e := w.export()
	if e != nil {
		return errors.Join(err, e)
	}
	return errors.Join(err, byJudge(home.Judge(w.inputs...)))
}

// export writes the folders to the real disk, for the judge.
func (w *World) export() (*rig.Home, error) {
	home := &rig.Home{Dir: filepath.Join(w.dir, "home"), Unordered: w.unordered}
	var err error
	w.disk.Walk(func(path string, content []byte) {
		if err == nil {
			err = export(home, path, content)
		}
	})
	return home, err
}

func export(home *rig.Home, path string, content []byte) error {
	for _, dir := range []string{inboxDir, outboxDir, archiveDir, farArchive} {
		if rel, ok := strings.CutPrefix(path, dir+"/"); ok {
			path = home.Path(filepath.Base(dir), rel)
			return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644))
		}
	}
	path = home.Path("state", path)
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644))
}

// byJudge names the invariants that what the judge found is about: every line has its one result, in files that say what
// they hold, and every input is where it belongs.
func byJudge(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("I1, I4 or I5, by the judge: %w", err)
}
