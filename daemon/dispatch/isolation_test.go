package dispatch

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"

	"stoker/engine"
)

// runPoisoned runs until all requests have ended, with an engine that dies of one that contains POISON, and returns how
// often it died.
func (r *rig) runPoisoned(capacity int, obstacle func()) (deaths int) {
	r.ready(capacity)
	for len(r.held()) > 0 {
		obstacle()
		if len(r.holding("POISON")) > 0 {
			deaths++
			r.die(capacity)
			continue
		}
		r.answer(r.held()...)
	}
	return deaths
}

// A poison line costs itself, and a bounded number of engines; every other line is answered.
func TestIsolation(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 64, 100, 320} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			lines := prompts("p", n+50)
			lines[n*2/3] = `{"prompt":"POISON"}`
			id := r.admit("x", lines...)
			other := r.admit("y", prompts("other", n)...)
			deaths := r.runPoisoned(n, func() {})
			if most := int(math.Ceil(math.Log2(float64(n)))) + 3; deaths > most {
				t.Errorf("%d in flight: the engine died %d times, want at most %d", n, deaths, most)
			}
			if completed, failed := r.records(id); completed != uint32(n+49) || failed != 1 {
				t.Errorf("%d in flight: %d completed, %d failed", n, completed, failed)
			}
			if got := r.errorLines(id)[0]; !strings.Contains(got, `"engine_crashed"`) {
				t.Errorf("error is %s", got)
			}
			if completed, _ := r.records(other); completed != uint32(n) {
				t.Errorf("%d in flight: %d of the other batch completed", n, completed)
			}
			if s := r.feed.Snapshot(); s.Isolating || s.Totals.Quarantined != 1 {
				t.Errorf("afterwards %+v", s)
			}
		})
	}
}

func TestTwoPoisonLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		lines := prompts("p", 64)
		lines[3], lines[40] = `{"prompt":"POISON 1"}`, `{"prompt":"POISON 2"}`
		id := r.admit("x", lines...)
		if deaths := r.runPoisoned(64, func() {}); deaths > 2*(6+3) {
			t.Errorf("the engine died %d times, want at most 18", deaths)
		}
		if completed, failed := r.records(id); completed != 62 || failed != 2 {
			t.Errorf("%d completed, %d failed; want 62 and 2", completed, failed)
		}
	})
}

// A group of suspects that comes back unread stays a group.
func TestIsolationSurvivesASlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		lines := prompts("p", 64)
		lines[3] = `{"prompt":"POISON"}`
		id := r.admit("x", lines...)
		turn := 0
		deaths := r.runPoisoned(64, func() {
			if turn++; turn%2 == 0 {
				keys := r.held()
				r.drop(keys)
				r.send(engine.Capacity{})
				r.send(engine.Lost{Keys: keys})
				r.ready(64)
			}
		})
		if deaths > 6+3 {
			t.Errorf("the engine died %d times, want at most 9", deaths)
		}
		if completed, failed := r.records(id); completed != 63 || failed != 1 {
			t.Errorf("%d completed, %d failed; want 63 and 1", completed, failed)
		}
	})
}

// Deaths are remembered across restarts of the daemon.
func TestSuspectsSurviveRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		lines := prompts("p", 8)
		lines[3] = `{"prompt":"POISON"}`
		id := r.admit("x", lines...)
		r.ready(8)
		r.die(8)
		r.restart()
		r.ready(8)
		r.die(8)
		if !r.feed.Snapshot().Isolating {
			t.Error("nothing is isolated after two deaths")
		}
		r.runPoisoned(8, func() {})
		if completed, failed := r.records(id); completed != 7 || failed != 1 {
			t.Errorf("%d completed, %d failed; want 7 and 1", completed, failed)
		}
	})
}

// An engine that is killed from outside again and again costs nobody an answer, whatever was suspected meanwhile.
func TestInnocentSuspects(t *testing.T) {
	for deaths := range 5 {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			id := r.admit("x", prompts("p", 240)...)
			r.ready(16)
			for range deaths {
				r.die(16)
			}
			for len(r.held()) > 0 {
				r.answer(r.held()...)
			}
			if completed, failed := r.records(id); completed != 240 || failed != 0 {
				t.Errorf("after %d deaths: %d completed, %d failed; want all 240", deaths, completed, failed)
			}
		})
	}
}
