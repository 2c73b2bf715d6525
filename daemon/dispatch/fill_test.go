package dispatch

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"stoker/engine"
	"stoker/store"
)

func TestSmallBatchStartsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.ready(64)
		r.admit("large", prompts("large", 20000)...)
		r.answer(r.held()...)
		small := r.admit("small", prompts("small", 20)...)
		for range 5 {
			r.answer(r.held()[:4]...)
		}
		if n := len(r.holding("small-")); n != 20 {
			t.Errorf("%d of the small batch's 20 requests are in flight", n)
		}
		r.answer(r.holding("small-")...)
		if !r.isFinished(small) {
			t.Error("the small batch has not ended")
		}
		if n := len(r.held()); n != 64 {
			t.Errorf("%d requests in flight, want 64: the engine must not run dry", n)
		}
	})
}

func TestBatchesShareEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for _, name := range []string{"a", "b", "c"} {
			r.admit(name, prompts(name, 100)...)
		}
		r.ready(30)
		for _, name := range []string{"a-", "b-", "c-"} {
			if n := len(r.holding(name)); n != 10 {
				t.Errorf("%s holds %d places, want 10", name, n)
			}
		}
	})
}

// The engine is refilled across the ends of files.
func TestManySmallBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.ready(8)
		var ids []string
		for range 40 {
			ids = append(ids, r.admit("f"+string(rune('A'+len(ids))), prompts("x", 3)...))
		}
		for len(r.held()) > 0 {
			r.answer(r.held()[0])
			if left := 120 - len(r.engine.submitted); left > 0 && len(r.held()) < 8 {
				t.Fatalf("%d requests in flight while %d wait", len(r.held()), left)
			}
		}
		r.tick()
		for _, id := range ids {
			if completed, _ := r.records(id); completed != 3 {
				t.Errorf("%d completed, want 3", completed)
			}
		}
	})
}

func TestMoreBatchesThanMayBeOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const limit = 8
		r.feed.calls <- func() { r.feed.openLimit = limit }
		var last string
		for range limit + 2 {
			last = r.admit("x", `{"prompt":"`+store.NewID()+`"}`)
		}
		if s := r.feed.Snapshot(); len(s.Running) != limit || len(s.Waiting) != 2 || s.Waiting[1] != last {
			t.Errorf("%d run, %v wait", len(s.Running), s.Waiting)
		}
		r.ready(1000)
		r.answer(r.held()...)
		r.tick()
		r.answer(r.held()...)
		r.tick()
		if !r.isFinished(last) || len(r.feed.Snapshot().Running) != 0 {
			t.Errorf("batches are left: %+v", r.feed.Snapshot())
		}
	})
}

// One request that never ends does not let results run further ahead than the window.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const n = store.WindowSize + 10
		lines := make([]string, n)
		for i := range lines {
			lines[i] = `{"prompt":"x"}`
		}
		id := r.admit("x", lines...)
		r.ready(20000)
		slow := r.held()[0]
		rest := func() []engine.Key {
			return slices.DeleteFunc(r.held(), func(k engine.Key) bool { return k == slow })
		}
		for keys := rest(); len(keys) > 0; keys = rest() {
			r.answer(keys...)
		}
		if submitted := len(r.engine.submitted); submitted != store.WindowSize {
			t.Errorf("%d requests were submitted, want %d", submitted, store.WindowSize)
		}
		r.answer(slow)
		r.answer(r.held()...)
		if completed, _ := r.records(id); completed != n {
			t.Errorf("%d completed, want %d", completed, n)
		}
	})
}

// Lines in flight are bounded by their bytes, but one that is larger than the bound runs.
func TestBytesInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.feed.calls <- func() { r.feed.flightLimit = 1000 }
		long := `{"prompt":"` + strings.Repeat("x", 600) + `"}`
		id := r.admit("x", long, long, long, `{"prompt":"`+strings.Repeat("y", 5000)+`"}`)
		r.ready(10)
		if n := len(r.held()); n != 2 {
			t.Errorf("%d requests in flight, want 2", n)
		}
		for len(r.held()) > 0 {
			r.answer(r.held()...)
		}
		if completed, _ := r.records(id); completed != 4 {
			t.Errorf("%d completed, want 4", completed)
		}
	})
}
