//go:build disk

package crashdisk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"stoker/store"
	"stoker/test/rig"
)

// point is a cut with a seed for what chance decides about it.
type point struct {
	cut  int
	seed uint64
}

// again reports whether the power is cut a second time, during recovery.
func (p point) again() bool { return p.seed%3 == 0 }

// toTheEnd reports whether a daemon runs to the end on what the cut left.
func (p point) toTheEnd() bool { return p.seed%25 == 0 }

// draw draws places for n cuts, in their order.
func (r *recording) draw(chance *rand.Rand, n int) []point {
	points := make([]point, n)
	for i := range points {
		points[i] = point{chance.IntN(r.length + 1), chance.Uint64()}
	}
	slices.SortFunc(points, func(a, b point) int { return cmp.Compare(a.cut, b.cut) })
	return points
}

// outcome is what an exploration counted.
type outcome struct {
	points, again, ended int
	redone               int // the most lines that one cut made run again
	tally                rig.Tally
	failed               []failure
}

type failure struct {
	point point
	err   error
}

func (o *outcome) add(other outcome) {
	o.points += other.points
	o.again += other.again
	o.ended += other.ended
	o.redone = max(o.redone, other.redone)
	o.tally.Add(other.tally)
	o.failed = append(o.failed, other.failed...)
}

// explore cuts the power at each point, on two machines at a time.
func (r *recording) explore(t *testing.T, points []point, until int) (total outcome) {
	const machines = 2
	var (
		wg sync.WaitGroup
		mu sync.Mutex
		// One stoker's disks are here twice. Two daemons of that stoker would end each other's worker.
		daemons sync.Mutex
	)
	for i := range machines {
		wg.Go(func() {
			o, err := r.exploreSome(t, &daemons, points, i, machines, until)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			total.add(o)
		})
	}
	wg.Wait()
	return total
}

// exploreSome cuts the power at every step-th point, until so many cuts have failed.
func (r *recording) exploreSome(t *testing.T, daemons *sync.Mutex, points []point, first, step, until int) (o outcome, err error) {
	fork, err := r.rack.Fork()
	if err != nil {
		return o, err
	}
	x := &explorer{t: t, r: r, daemons: daemons, m: on(t, fork, kinds[r.Kind], r.Layout), o: &o}
	for i := first; i < len(points) && len(o.failed) < until; i += step {
		o.points++
		if err := x.point(points[i]); err != nil {
			o.failed = append(o.failed, failure{points[i], err})
		}
	}
	return o, nil
}

// explorer cuts the power of one machine again and again.
type explorer struct {
	t       *testing.T
	r       *recording
	m       *machine
	o       *outcome
	daemons *sync.Mutex // one runs at a time
}

func (x *explorer) point(p point) error {
	if err := x.m.rack.Cut(p.cut, p.seed); err != nil {
		return err
	}
	if err := x.mounted(func() error { return x.recover(p.cut) }); err != nil {
		return err
	}
	if p.again() {
		if err := x.cutAgain(p); err != nil {
			return fmt.Errorf("after a second cut: %w", err)
		}
	}
	if !p.toTheEnd() {
		return nil
	}
	x.o.ended++
	if !p.again() {
		if err := x.m.rack.Cut(p.cut, p.seed); err != nil {
			return err
		}
	}
	return x.mounted(func() error { return x.finish(p.cut) })
}

// cutAgain cuts the power somewhere in the recovery that just ended.
func (x *explorer) cutAgain(p point) error {
	x.o.again++
	n, err := x.m.rack.Length()
	if err != nil {
		return err
	}
	if err := x.m.rack.CutAgain(int(p.seed/3%uint64(n+1)), p.seed); err != nil {
		return err
	}
	return x.mounted(func() error { return x.recover(p.cut) })
}

// mounted does something with the disks mounted. Mounting is recovery too: the file system's.
func (x *explorer) mounted(do func() error) error {
	if err := x.m.mount(); err != nil {
		return broken("I7", "%v", err)
	}
	err := do()
	return errors.Join(err, x.m.unmount())
}

// recover does what the start of a daemon does, and holds the result against what was promised before the cut. The
// invariants must hold before that as well as after.
func (x *explorer) recover(cut int) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // bbolt maps its file into memory
	defer func() {
		if p := recover(); p != nil {
			err = broken("I7", "recovery panics: %v", p)
		}
	}()
	state := filepath.Join(x.m.dir, ".state")
	before, err := store.OpenReadOnly(state)
	var found error
	if !errors.Is(err, store.ErrNoState) {
		found = x.use(before, err, x.verify)
	}
	s, err := store.Open(state)
	return errors.Join(found, x.use(s, err, func(s *store.Store) error {
		seen, err := x.look(s)
		if err != nil {
			return err
		}
		x.o.redone = max(x.o.redone, seen.redone)
		return errors.Join(append(x.hold(seen, cut), x.verify(s))...)
	}))
}

// use does something with a store that was opened, and closes it.
func (x *explorer) use(s *store.Store, err error, do func(*store.Store) error) error {
	if err != nil {
		return broken("I7", "%v", err)
	}
	defer s.Close() // also when do panics
	return do(s)
}

// verify proves the invariants. What it notes is to be expected before the next daemon has gone to the end.
func (x *explorer) verify(s *store.Store) error {
	folders := store.Folders{Inbox: filepath.Join(x.m.dir, "inbox"), Outbox: filepath.Join(x.m.dir, "outbox")}
	report, err := s.Verify(context.Background(), "", folders)
	if err != nil {
		return broken("I7", "%v", err)
	}
	var errs []error
	for _, f := range report.Findings {
		if !f.Note {
			errs = append(errs, broken(string(f.Invariant), "%s %s: %s", f.Batch, f.File, f.Message))
		}
	}
	return errors.Join(errs...)
}

// look opens every batch that has not ended, which recovers it, and sees what there is.
func (x *explorer) look(s *store.Store) (seen sight, err error) {
	seen = sight{batches: map[string]batch{}, inputs: x.findInputs()}
	records, err := s.List()
	if err != nil {
		return seen, broken("I7", "%v", err)
	}
	for _, r := range records {
		b := batch{record: r, records: r.Requests}
		if !r.State.Ended() {
			open, err := s.OpenBatch(context.Background(), r.ID)
			if err != nil {
				return seen, broken("I7", "%v", err)
			}
			b.records = open.Progress().Records()
			seen.redone += int(open.Recovered.Redone)
			if err := open.Close(); err != nil {
				return seen, broken("I7", "%v", err)
			}
		}
		seen.batches[r.ID] = b
	}
	return seen, nil
}

// findInputs finds all copies of dropped files, by the name of the file.
func (x *explorer) findInputs() map[string][]string {
	found := map[string][]string{}
	for _, dir := range []string{"inbox", "archive"} {
		root := filepath.Join(x.m.dir, dir)
		filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && strings.HasSuffix(path, ".jsonl") {
				name := strings.TrimSuffix(e.Name(), ".jsonl")
				name, _, _ = strings.Cut(name, "~")
				found[name+".jsonl"] = append(found[name+".jsonl"], strings.TrimPrefix(path, x.m.dir+"/"))
			}
			return nil
		})
	}
	return found
}

// quick lets a daemon go to the end without pauses.
func quick() []string { return []string{"STOKER_INBOX__READY=rename", "STOKER_ENGINE__ARGS__DELAY=0s"} }

// finish has a daemon go to the end, and judges all that there is then.
func (x *explorer) finish(cut int) error {
	if err := x.removeHalfDropped(); err != nil {
		return err
	}
	x.daemons.Lock()
	defer x.daemons.Unlock()
	h := x.m.home(x.t, rig.Released, quick()...)
	h.Start()
	defer h.Kill()
	if err := errors.Join(h.AwaitIdle(), h.Stop()); err != nil {
		return broken("I7", "%v\n%s\ninputs are at %v", err, h.Log(), x.findInputs())
	}
	v, err := h.Verify()
	if err != nil {
		return err
	}
	inputs, err := x.archived(cut)
	if err != nil {
		return err
	}
	tally, err := h.Tally(inputs...)
	if err != nil {
		return err
	}
	x.o.redone = max(x.o.redone, int(v.Redone))
	x.o.tally.Add(tally)
	errs := []error{h.Judge(inputs...)}
	for _, p := range x.r.Promises {
		if p.At <= cut && p.What == ended {
			errs = append(errs, x.holdPublished(p))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return broken("I1", "%v", err)
	}
	return nil
}

// archived returns the files that were dropped before a cut, as often as they were. All must lie in the archive by now.
func (x *explorer) archived(cut int) (inputs []rig.Input, err error) {
	found := x.findInputs()
	for _, in := range x.r.inputs() {
		paths := found[filepath.Base(in.Name)]
		least, most := x.r.dropped(in.Name, cut)
		if in.Copies = len(paths); in.Copies < least || in.Copies > most {
			err = errors.Join(err, broken("I5", "%s was dropped at least %d and at most %d times, and is at %v in the end", in.Name, least, most, paths))
		}
		if in.Copies > 0 {
			inputs = append(inputs, in)
		}
	}
	return inputs, err
}

// removeHalfDropped removes what the writer of an input, not stoker, had not come to the end with.
func (x *explorer) removeHalfDropped() error {
	for _, pattern := range []string{"inbox/.*.tmp", "inbox/*/.*.tmp"} {
		left, err := filepath.Glob(filepath.Join(x.m.dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range left {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}
