package dispatch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"stoker/engine"
	"stoker/store"
	"stoker/test/faultfs"
)

func TestBatchRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.admit("x", prompts("p", 5)...)
		if n := len(r.held()); n != 0 {
			t.Errorf("%d requests were submitted without an engine", n)
		}
		r.ready(3)
		keys := r.held()
		if len(keys) != 3 {
			t.Fatalf("%d requests in flight, want 3", len(keys))
		}
		r.answer(keys[2], keys[0]) // in any order
		if n := len(r.held()); n != 3 {
			t.Errorf("%d requests in flight after two answers, want 3", n)
		}
		r.answer(r.held()...)
		if completed, failed := r.records(id); completed != 5 || failed != 0 {
			t.Errorf("%d completed, %d failed; want 5 and 0", completed, failed)
		}
		rec, err := r.store.Get(id)
		if err != nil {
			t.Fatal(err)
		}
		if want := []store.Engine{{Kind: "echo", Version: "1", Model: "m"}}; !slices.Equal(rec.Engines, want) {
			t.Errorf("engines are %v, want %v", rec.Engines, want)
		}
	})
}

// What answered a batch is known although the engine died before the next commit.
func TestEngineIsRecordedAfterItsDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.admit("x", prompts("p", 3)...)
		r.ready(2)
		r.answer(r.held()[0])
		r.send(engine.Capacity{})
		r.tick()
		if rec, err := r.store.Get(id); err != nil || rec.Model() != "m" {
			t.Errorf("model is %q, want m: %v", rec.Model(), err)
		}
	})
}

func TestOddAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.admit("x", append(prompts("p", 5), `{"custom_id":7,"prompt":`)...)
		r.ready(10)
		keys := r.held()
		r.drop(keys)
		r.send(engine.Answers{good(keys[0]), good(keys[0]), good(99999)}) // twice, and one that nobody asked for
		r.send(engine.Answers{
			{Key: keys[1], Status: 400, Body: []byte(`{"error":{"message":"too long","type":"BadRequestError","code":400}}`)},
			{Key: keys[2], Status: 200, Body: []byte(`{"choices":[]}`)},
			{Key: keys[3], Status: 200, Body: []byte("{\"a\x00\":")},
			{Key: keys[4], Status: 0, Body: []byte(`{}`)},
			good(keys[0]),
		})
		if completed, failed := r.records(id); completed != 1 || failed != 5 {
			t.Errorf("%d completed, %d failed; want 1 and 5", completed, failed)
		}
		for i, want := range []string{"too long", "cannot be read", "cannot be read", "status 0", "invalid_json"} {
			if got := r.errorLines(id)[i]; !strings.Contains(got, want) {
				t.Errorf("error %d is %s, want %s in it", i, got, want)
			}
		}
	})
}

// What is too long for the journal costs its request, not the daemon, which would meet it again in its next life.
func TestAnswersTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.feed.calls <- func() { r.feed.lineLimit = 400 }
		id := r.admit("x", `{"prompt":"a"}`, `{"prompt":"b"}`, `{"prompt":"c","metadata":"`+strings.Repeat("m", 500)+`"}`)
		r.ready(3)
		keys := r.held()
		r.drop(keys)
		long := strings.Repeat("x", 500)
		r.send(engine.Answers{
			{Key: keys[0], Status: 200, Body: fmt.Appendf(nil, `{"choices":[{"text":%q}]}`, long)},
			{Key: keys[1], Status: 400, Body: fmt.Appendf(nil, `{"error":{"message":%q}}`, long)},
			good(keys[2]),
		})
		r.tick()
		if _, failed := r.records(id); failed != 3 {
			t.Errorf("%d failed, want 3", failed)
		}
		for _, line := range r.errorLines(id) {
			if len(line) > 400 || !strings.Contains(line, "makes a line of") {
				t.Errorf("error line %s", line)
			}
		}
	})
}

func TestRefusedBatchNeedsNoEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		lines := slices.Repeat([]string{"no JSON"}, 3*maxRound)
		id := r.admit("x", lines...)
		r.tick()
		r.tick()
		if _, failed := r.records(id); failed != uint32(len(lines)) {
			t.Errorf("%d failed, want %d", failed, len(lines))
		}
		if rec, err := r.store.Get(id); err != nil || len(rec.Engines) != 0 {
			t.Errorf("a refused batch names engines %v: %v", rec.Engines, err)
		}
	})
}

func TestLostBeforeTheEngineHadThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.admit("x", prompts("p", 4)...)
		r.ready(4)
		keys := r.held()
		r.drop(keys)
		r.send(engine.Capacity{})
		r.send(engine.Lost{Keys: keys})
		r.ready(4)
		r.answer(r.held()...)
		if completed, _ := r.records(id); completed != 4 {
			t.Errorf("%d completed, want 4", completed)
		}
		if n := r.feed.Snapshot().Totals.Redone; n != 0 {
			t.Errorf("%d requests count as redone", n)
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.admit("x", prompts("p", 10)...)
		r.ready(4)
		r.feed.Drain(time.Hour)
		synctest.Wait()
		keys := r.held()
		r.answer(keys[0])
		if n := len(r.held()); n != 3 {
			t.Errorf("%d requests in flight, want 3: nothing new while draining", n)
		}
		r.drop(keys[1:])
		r.engine.events <- engine.Answers{good(keys[1]), good(keys[2]), good(keys[3])}
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
		r.ended <- nil
		if s := r.feed.Snapshot(); len(s.Running) != 0 {
			t.Errorf("snapshot after the end: %+v", s)
		}
		r.restart()
		if n := r.feed.Snapshot().Running[0].Completed; n != 4 {
			t.Errorf("%d completed, want 4", n)
		}
	})
}

// Draining ends the opening of a batch, however long its journal is, and no other is opened. Nothing of them is touched.
func TestDrainWhileBatchesOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ids := []string{r.admit("x", prompts("x", 4)...), r.admit("y", prompts("y", 4)...)}
		r.ready(8)
		r.answer(r.held()[0])
		r.die(8)                                                 // the journal of a batch with suspects is read from its start
		release, opened := make(chan struct{}), map[string]int{} // reads of each journal
		r.disk.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.Read && filepath.Base(path) == "journal" {
				opened[filepath.Base(filepath.Dir(path))]++
				<-release
			}
			return nil
		})
		r.restart()
		r.feed.Drain(time.Hour)
		close(release)
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
		r.ended <- nil
		if diff := cmp.Diff(map[string]int{ids[0]: 1}, opened); diff != "" {
			t.Errorf("reads of journals (-want +got):\n%s", diff)
		}
		if s := r.feed.Snapshot(); len(s.Unreadable) > 0 {
			t.Errorf("unreadable are %+v", s.Unreadable)
		}
		r.disk.Set(nil)
		r.restart()
		r.ready(8)
		r.answer(r.held()...)
		r.tick()
		for _, id := range ids {
			if completed, _ := r.records(id); completed != 4 {
				t.Errorf("%d of %s completed, want 4", completed, id)
			}
		}
	})
}

func TestDrainEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.admit("x", prompts("p", 10)...)
		r.ready(4)
		begin := time.Now()
		r.feed.Drain(time.Minute)
		err := <-r.ended
		r.ended <- err
		if d := time.Since(begin); d != time.Minute {
			t.Errorf("draining took %s, want 1m", d)
		}
	})
}

func TestModelChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		old := r.admit("old", prompts("old", 4)...)
		r.ready(2)
		r.answer(r.held()...)
		r.tick()
		r.restart()
		fresh := r.admit("new", prompts("new", 2)...)
		r.send(engine.Capacity{InFlight: 10, Model: "other", Version: "1"})
		if n := len(r.holding("old-")); n != 0 {
			t.Errorf("%d requests go to another model", n)
		}
		r.answer(r.held()...)
		r.tick()
		if s := r.feed.Snapshot(); !r.isFinished(fresh) || len(s.Running) != 1 || s.Running[0].Reason != "model_changed" {
			t.Errorf("running %+v", s.Running)
		}
		if rec, err := r.store.Get(old); err != nil || len(rec.Engines) != 1 {
			t.Errorf("engines are %v: %v", rec.Engines, err)
		}
		r.ready(10) // the model it began with
		r.answer(r.held()...)
		if completed, _ := r.records(old); completed != 4 {
			t.Errorf("%d completed, want 4", completed)
		}
	})
}

// A batch whose folder is damaged costs itself, not the daemon.
func TestUnreadableBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		bad := r.admit("bad", prompts("bad", 2)...)
		r.stop()
		meta := filepath.Join(r.store.Dir(), "batches", bad, "meta.json")
		text, err := os.ReadFile(meta)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(meta, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.restart()
		good := r.admit("good", prompts("good", 2)...)
		r.ready(2)
		r.answer(r.held()...)
		if completed, _ := r.records(good); completed != 2 {
			t.Errorf("%d completed, want 2", completed)
		}
		if s := r.feed.Snapshot(); len(s.Unreadable) != 1 || s.Unreadable[0].ID != bad {
			t.Errorf("unreadable are %+v", s.Unreadable)
		}
		if err := os.WriteFile(meta, text, 0o600); err != nil {
			t.Fatal(err)
		}
	})
}

// A line that cannot be read costs its batch, not the daemon: what the engine holds of it is recorded, and the others
// go on. Once the file is whole again, so does this one.
func TestUnreadableLine(t *testing.T) {
	const rowSize = 32
	for name, line := range map[string]string{"a request": `{"prompt":"bad"}`, "a line of a refused file": "no JSON"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.stop() // so that nothing runs yet
				bad := r.admit("bad", line, line+" ", line+"  ")
				index := filepath.Join(r.store.Dir(), "batches", bad, "input.idx")
				whole, err := os.ReadFile(index)
				if err != nil {
					t.Fatal(err)
				}
				damaged := slices.Concat(whole[:rowSize], make([]byte, rowSize), whole[2*rowSize:])
				if err := os.WriteFile(index, damaged, 0o600); err != nil {
					t.Fatal(err)
				}
				r.restart()
				good := r.admit("good", prompts("good", 5)...)
				r.ready(2)
				for len(r.held()) > 0 {
					r.answer(r.held()...)
				}
				r.tick()
				if completed, _ := r.records(good); completed != 5 {
					t.Errorf("%d completed, want 5", completed)
				}
				s := r.feed.Snapshot()
				if len(s.Unreadable) != 1 || s.Unreadable[0].ID != bad || len(s.Running) != 1 || s.Running[0].Reason != "damaged" {
					t.Errorf("status is %+v", s)
				}
				if err := os.WriteFile(index, whole, 0o600); err != nil {
					t.Fatal(err)
				}
				r.restart()
				r.ready(2)
				for len(r.held()) > 0 {
					r.answer(r.held()...)
				}
				r.tick()
				if completed, failed := r.records(bad); completed+failed != 3 {
					t.Errorf("%d requests have a record, want 3", completed+failed)
				}
			})
		})
	}
}

// Whatever the engine does, every request has exactly one record in the end.
func TestEveryRequestOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		files := rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(-1, 9), 1, 40), 1, 4).Draw(rt, "lines") // by their limits; -1: not JSON
		capacity := rapid.IntRange(1, 50).Draw(rt, "capacity")
		seed := rapid.SliceOfN(rapid.IntRange(0, 9), 10, 60).Draw(rt, "steps")
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			var ids []string
			for i, lines := range files {
				ids = append(ids, r.admit("f"+string(rune('a'+i)), bounded(lines...)...))
			}
			r.ready(capacity)
			for i := 0; len(r.held()) > 0; i++ {
				r.step(seed, i, capacity)
			}
			r.tick()
			for i, id := range ids {
				if completed, failed := r.records(id); completed+failed != uint32(len(files[i])) {
					t.Errorf("%d completed, %d failed of %d", completed, failed, len(files[i]))
				}
			}
			if t.Failed() {
				rt.FailNow()
			}
		})
	})
}

// step does one of the things that engines and machines do. Behind the last step all goes well.
func (r *rig) step(steps []int, i, capacity int) {
	keys := r.held()
	if i >= len(steps) {
		r.answer(keys...)
		return
	}
	some := keys[i%len(keys):]
	switch steps[i] {
	case 0:
		r.die(capacity)
	case 1:
		r.tick()
	case 2:
		r.restart()
		r.ready(capacity)
	case 3: // doubled
		r.drop(some)
		var all engine.Answers
		for _, k := range some {
			all = append(all, good(k), good(k))
		}
		r.send(all)
	case 4:
		r.drop(some)
		r.send(engine.Lost{Keys: some})
	default:
		slices.Reverse(some)
		r.answer(some...)
	}
}
