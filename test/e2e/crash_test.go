package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"stoker/test/rig"
)

// walk is one stoker that dies at given points, one after another, over files that need every kind of end.
type walk struct {
	home    *rig.Home
	crashes []string
	plant   string // a bug that is in it; "" for none
	again   int    // copies of the file that is dropped more than once
}

// slow gives the second copy of a file time to arrive while the first one runs.
const slow = "delay = \"400ms\"\n"

func newWalk(t *testing.T, plant string, crashes ...string) *walk {
	return &walk{home: rig.NewHome(t, rig.Faulty, rig.Config+slow), crashes: crashes, plant: plant}
}

func (w *walk) inputs() []rig.Input {
	return []rig.Input{
		{Name: "good.jsonl", Lines: rig.Good("good", 20)},
		{Name: "queue/mixed.jsonl", Lines: slices.Concat(rig.Good("mixed", 3), rig.Bad("mixed"), rig.Good("more", 4))},
		{Name: "bad.jsonl", Lines: rig.Bad("bad")},
		{Name: "again.jsonl", Lines: rig.Good("again", 5), Copies: w.again},
	}
}

// run drops the files, lets stoker die at each point and judges what it made of them in the end. Missed is an error too:
// a point that is not reached proves nothing.
func (w *walk) run() (missed []string, err error) {
	w.begin()
	for _, point := range w.crashes {
		if err := w.live("STOKER_CRASH_AT=" + point); err != nil {
			return nil, err
		}
		if !w.home.Dead() {
			missed = append(missed, point)
			if err := w.home.Stop(); err != nil {
				return missed, err
			}
		}
	}
	return missed, w.end()
}

// begin drops the files.
func (w *walk) begin() {
	for _, in := range w.inputs() {
		w.home.Drop(in.Name, in.Content())
	}
	w.again = 1
}

// end lets stoker do what is left, and judges what it made of the files.
func (w *walk) end() error {
	if err := w.live(""); err != nil {
		return err
	}
	if w.home.Dead() {
		return fmt.Errorf("the daemon died by itself\n%s", w.home.Log())
	}
	if err := w.home.Stop(); err != nil {
		return err
	}
	_, err := w.home.Verify()
	return errors.Join(err, w.home.Judge(w.inputs()...))
}

// live runs stoker until it dies or has nothing left to do. The second copy of a file is dropped as soon as there is room
// for its name.
func (w *walk) live(crash string) error {
	w.home.Start(crash, "STOKER_PLANT="+w.plant)
	err := w.home.Await("the second drop", func() bool {
		if w.home.Dead() || w.again == 2 {
			return true
		}
		if _, err := os.Lstat(w.home.Path("inbox/again.jsonl")); err != nil {
			in := w.inputs()[3]
			w.home.Drop(in.Name, in.Content())
			w.again = 2
		}
		return false
	})
	if err != nil || w.home.Dead() {
		return err
	}
	if err := w.home.AwaitIdle(); !w.home.Dead() {
		return err
	}
	return nil
}

// TestCrashAtEveryPoint kills stoker at each step that promises durability, and proves that the next start makes good. A
// journal is torn twice: the first write is not of results.
func TestCrashAtEveryPoint(t *testing.T) {
	for _, point := range append(faultPoints(t, "Crash"), "journal.torn:5") {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			missed, err := newWalk(t, "", point).run()
			if err != nil {
				t.Error(err)
			}
			if len(missed) > 0 {
				t.Errorf("nothing reached %s: drop a file that does", missed)
			}
		})
	}
}

// TestCrashTwice kills the start after the crash too, at another point, which that start may not pass any more.
func TestCrashTwice(t *testing.T) {
	points := faultPoints(t, "Crash")
	for i, first := range points {
		second := points[(i*5+7)%len(points)]
		if testing.Short() && i%4 != 0 {
			continue
		}
		t.Run(first+"+"+second, func(t *testing.T) {
			t.Parallel()
			if _, err := newWalk(t, "", first, second).run(); err != nil {
				t.Error(err)
			}
		})
	}
}
