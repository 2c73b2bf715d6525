package dispatch

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"stoker/engine"
	"stoker/store"
	"stoker/test/faultfs"
)

// bounded are lines whose answers have these most tokens; 0 sets none, -1 stands for a line that cannot run.
func bounded(tokens ...int) []string {
	lines := make([]string, len(tokens))
	for i, n := range tokens {
		lines[i] = fmt.Sprintf(`{"prompt":"p","max_tokens":%d}`, n)
		switch n {
		case 0:
			lines[i] = `{"prompt":"p"}`
		case -1:
			lines[i] = `{"prompt":`
		}
	}
	return lines
}

// tokensOf is what bounded put into a request.
func tokensOf(q engine.Request) int {
	_, limit, _ := strings.Cut(string(q.Body), `"max_tokens":`)
	n, _ := strconv.Atoi(strings.TrimSuffix(limit, "}"))
	return n
}

// runAll answers requests, the oldest first, and returns the limits of all in the order in which they were submitted.
func (r *rig) runAll() (order []int) {
	seen := engine.Key(0)
	for keys := r.held(); len(keys) > 0; keys = r.held() {
		for _, k := range keys {
			if k > seen {
				order, seen = append(order, tokensOf(r.engine.held[k])), k
			}
		}
		r.answer(keys[0])
	}
	return order
}

func TestLongestFirstAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		tokens := make([]int, 40)
		for i := range tokens {
			tokens[i] = 1 + i*7%10
		}
		tokens[35] = 0
		id := r.admit("x", bounded(tokens...)...)
		r.ready(2)
		order := r.runAll()
		first := len(tokens) - lastRounds*2
		want := slices.Clone(tokens)
		slices.SortStableFunc(want[first:], func(a, b int) int { return cmp.Compare(cmp.Or(b, 1000), cmp.Or(a, 1000)) })
		if !slices.Equal(order, want) {
			t.Errorf("submitted %v,\nwant      %v", order, want)
		}
		r.tick()
		if completed, _ := r.records(id); completed != 40 {
			t.Errorf("%d completed", completed)
		}
	})
}

// What the engine takes at once is not read beforehand, and stays in input order.
func TestInputOrderIfAllFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.admit("x", bounded(1, 2, 3)...)
		r.ready(3)
		if order := r.runAll(); !slices.Equal(order, []int{1, 2, 3}) {
			t.Errorf("submitted %v", order)
		}
	})
}

// Lines that leave it out have the limit of the defaults.
func TestLongestFirstWithDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.defaults = map[string]any{"max_tokens": 5}
		r.admit("x", bounded(4, 0, 6, 3)...)
		r.ready(1)
		if order := r.runAll(); !slices.Equal(order, []int{6, 0, 4, 3}) {
			t.Errorf("submitted %v", order)
		}
	})
}

// All batches together bound what is read beforehand.
func TestLongLinesStayInInputOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const batches, lines, size = 3, 30, 1 << 20
		for i := range batches {
			r.admit(fmt.Sprintf("f%d", i), slices.Repeat([]string{`{"prompt":"` + strings.Repeat("x", size-100) + `"}`}, lines)...)
		}
		var reads atomic.Int64
		r.disk.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.Read && filepath.Base(path) == "input.jsonl" {
				reads.Add(1)
			}
			return nil
		})
		const capacity = 12
		r.ready(capacity)
		r.disk.Set(nil)
		if n := reads.Load(); n > 2*capacity {
			t.Errorf("%d of %d lines were read to submit %d", n, batches*lines, capacity)
		}
	})
}

// A line that cannot be read costs none of those that can.
func TestUnreadableLineComesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.stop()
		id := r.admit("bad", bounded(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)...)
		index := filepath.Join(r.store.Dir(), "batches", id, "input.idx")
		whole, err := os.ReadFile(index)
		if err != nil {
			t.Fatal(err)
		}
		row := len(whole) / 10
		if err := os.WriteFile(index, slices.Concat(whole[:9*row], make([]byte, row)), 0o600); err != nil {
			t.Fatal(err)
		}
		r.restart()
		r.ready(2)
		r.runAll()
		r.tick()
		if n := r.feed.Snapshot().Running[0].Completed; n != 9 {
			t.Errorf("%d requests were answered, want the 9 that can be read", n)
		}
		if err := os.WriteFile(index, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	})
}

// Each run beyond the first counts, also in a life that records nothing.
func TestRedoneOfALifeWithoutAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.admit("x", prompts("p", 3)...)
		r.ready(3)
		for range 2 {
			r.restart()
			r.tick()
			r.ready(3)
		}
		if n := r.feed.Snapshot().Running[0].Redone; n != 6 {
			t.Errorf("%d count as run again, want 6", n)
		}
	})
}

// As long as other batches wait, the engine has enough to do in any order.
func TestInputOrderWhileOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.feed.calls <- func() { r.feed.openLimit = 1 }
		r.admit("x", bounded(1, 2, 3, 4, 5)...)
		r.admit("y", bounded(1)...)
		r.ready(2)
		if order := r.runAll(); !slices.Equal(order[:5], []int{1, 2, 3, 4, 5}) {
			t.Errorf("submitted %v", order)
		}
	})
}

// What a restart runs again is what was in flight, also where the order was another one.
func TestRestartInTheLastRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.admit("x", bounded(5, 1, 9, 2, 8, 3, 7, 4, 6, 10)...)
		r.ready(3)
		r.answer(r.held()[:2]...)
		if n := len(r.engine.submitted); n != 5 {
			t.Fatalf("%d were submitted", n)
		}
		r.restart()
		r.ready(3)
		if n := r.feed.Snapshot().Totals.Redone; n != 3 {
			t.Errorf("%d count as run again, want the 3 in flight", n)
		}
		if order := r.runAll(); !slices.Equal(order, []int{8, 7, 6, 5, 4, 3, 2, 1}) {
			t.Errorf("submitted %v", order)
		}
		r.tick()
		if completed, _ := r.records(id); completed != 10 {
			t.Errorf("%d completed", completed)
		}
	})
}

// makespan is how long an engine takes that runs so many requests at a time, each as long as its answer is, in this order.
func makespan(order []int, running int) int {
	free := make([]int, running)
	for _, n := range order {
		i := slices.Index(free, slices.Min(free))
		free[i] += n
	}
	return slices.Max(free)
}

// A file of 3,000 requests whose answers have skewed lengths ends within a hundredth of the time that the work takes at least.
func TestNoStraggler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		random := rand.New(rand.NewPCG(1, 2))
		tokens := make([]int, 3000)
		sum := 0
		for i := range tokens {
			tokens[i] = 1 + min(1199, int(random.ExpFloat64()*300))
			sum += tokens[i]
		}
		r.admit("x", bounded(tokens...)...)
		const running = 256
		r.ready(running * 5 / 4)
		order := r.runAll()
		least := max(sum/running, slices.Max(tokens))
		before, now := makespan(tokens, running), makespan(order, running)
		t.Logf("%d steps in input order, %d now, at least %d", before, now, least)
		if now > least*101/100 || now >= before {
			t.Errorf("takes %d steps, at least %d; in input order %d", now, least, before)
		}
	})
}

// A batch whose requests were sorted has not begun before one is handed out.
func TestSortedBatchHasNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.admit("a", bounded(1, 2)...)
		b := r.admit("b", bounded(1, 2)...)
		r.ready(1)
		r.tick()
		if rec, err := r.store.Get(b); err != nil || rec.State != store.Validating {
			t.Errorf("the second batch is %s though nothing of it was handed out: %v", rec.State, err)
		}
	})
}
