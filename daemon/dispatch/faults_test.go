package dispatch

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"stoker/engine"
	"stoker/store"
	"stoker/test/faultfs"
)

// A full disk pauses submission; what was answered is kept and written once there is room.
func TestFullDisk(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			id := r.admit("x", prompts("p", 10)...)
			r.ready(4)
			keys := r.held()
			r.disk.Set(func(op faultfs.Op, _ string) error {
				if op == faultfs.Write {
					return errno
				}
				return nil
			})
			r.answer(keys[0]) // in whose place another one goes, before the disk is asked
			r.answer(keys[1:3]...)
			for range 5 {
				r.tick()
			}
			s := r.feed.Snapshot()
			if len(r.held()) != 2 || s.Lacks == nil || s.Lacks.Need <= leastRoom || s.Lacks.Dir != r.store.Dir() || s.Full != s.Lacks.Error() {
				t.Errorf("in flight are %d, want 2 and no more: %+v", len(r.held()), s)
			}
			if got := s.Running[0]; got.Completed != 3 || got.Reason != s.Full {
				t.Errorf("running is %+v", got)
			}
			r.answer(r.held()...) // what was in flight is taken in until the last
			r.disk.Set(nil)
			r.tick()
			if n, s := len(r.held()), r.feed.Snapshot(); n != 4 || s.Lacks != nil || s.Running[0].Reason != "" {
				t.Errorf("%d requests in flight, want 4 again: %+v", n, s)
			}
			for len(r.held()) > 0 {
				r.answer(r.held()...)
			}
			r.tick()
			if completed, _ := r.records(id); completed != 10 {
				t.Errorf("%d completed, want 10", completed)
			}
		})
	}
}

// Whatever else fails to be written or synced ends the dispatcher at once.
func TestFaultOfTheState(t *testing.T) {
	for _, fault := range []struct {
		op    faultfs.Op
		errno unix.Errno
	}{
		{faultfs.Write, unix.EIO}, {faultfs.Write, unix.EROFS}, {faultfs.Sync, unix.EIO}, {faultfs.Sync, unix.ENOSPC}, {faultfs.Truncate, unix.EIO},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.admit("x", prompts("p", 10)...)
			r.ready(4)
			r.tick()
			failed := 0
			r.disk.Set(func(op faultfs.Op, _ string) error {
				switch {
				case op == fault.op:
					failed++
					return fault.errno
				case fault.op == faultfs.Truncate && op == faultfs.Write: // after which the tail is cut
					return unix.ENOSPC
				}
				return nil
			})
			r.answer(r.held()...)
			r.tick()
			err := <-r.ended
			r.ended <- nil
			var final *store.FinalError
			if !errors.As(err, &final) || !errors.Is(final.Cause(), fault.errno) || failed != 1 {
				t.Errorf("%s failed %d times with %v: %v", fault.op, failed, fault.errno, err)
			}
			r.disk.Set(nil)
		})
	}
}

// A batch whose requests cannot be read is left out, and says so; it does not cost the others, nor the daemon.
func TestUnreadableRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		bad, good := r.admit("bad", prompts("bad", 100)...), r.admit("good", prompts("good", 5)...)
		r.disk.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.Read && strings.Contains(path, bad) && filepath.Base(path) == "input.jsonl" {
				return unix.EIO
			}
			return nil
		})
		r.ready(4)
		for len(r.held()) > 0 {
			r.answer(r.held()...)
		}
		r.tick()
		if completed, _ := r.records(good); completed != 5 {
			t.Errorf("%d completed, want 5", completed)
		}
		s := r.feed.Snapshot()
		if len(s.Running) != 1 || s.Running[0].ID != bad || s.Running[0].Reason != "damaged" {
			t.Errorf("running are %+v", s.Running)
		}
		if len(s.Unreadable) != 1 || !strings.Contains(s.Unreadable[0].Reason, unix.EIO.Error()) {
			t.Errorf("unreadable are %+v", s.Unreadable)
		}
		r.disk.Set(nil)
		r.restart()
		r.ready(4)
		for len(r.held()) > 0 {
			r.answer(r.held()...)
		}
		r.tick()
		if completed, _ := r.records(bad); completed != 100 {
			t.Errorf("%d completed once it can be read, want 100", completed)
		}
	})
}

// Requests that the engine loses while the disk is full run again once there is room.
func TestEngineDiesOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.admit("x", prompts("p", 10)...)
		r.ready(4)
		r.disk.Set(func(op faultfs.Op, _ string) error {
			if op == faultfs.Write {
				return unix.ENOSPC
			}
			return nil
		})
		r.die(4)
		r.tick()
		if n := len(r.held()); n > 0 {
			t.Errorf("%d requests were submitted on a full disk", n)
		}
		r.send(engine.Capacity{InFlight: 4, Model: "m", Version: "1"})
		r.disk.Set(nil)
		r.tick()
		for len(r.held()) > 0 {
			r.answer(r.held()...)
		}
		r.tick()
		if completed, _ := r.records(id); completed != 10 {
			t.Errorf("%d completed, want 10", completed)
		}
	})
}
