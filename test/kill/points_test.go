package kill

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// point is a moment: just before a thread of stoker makes a call for the Nth time.
type point struct {
	workload *workload
	call     string
	nth      int
}

func (p point) String() string { return fmt.Sprintf("%s/%s/%d", p.workload.name, p.call, p.nth) }

// pointVar names the environment variable with one point, which is then tried alone, again and again.
const pointVar = "STOKER_KILL_AT"

const (
	enough      = 500 // points that are reached
	enoughShort = 60
	retries     = 20 // of a single point
)

// TestKillPoints kills stoker at its system calls, drawn from all of them. Whatever it was doing, the next start makes
// good.
func TestKillPoints(t *testing.T) {
	began := time.Now()
	l := &ledger{enough: enough}
	if testing.Short() {
		l.enough = enoughShort
	}
	kinds := l.draw(t)
	t.Run("lanes", func(t *testing.T) {
		for i := range 4 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for p, ok := l.next(); ok; p, ok = l.next() {
					t.Run(p.String(), func(t *testing.T) { l.try(t, p) })
				}
			})
		}
	})
	l.report(t, kinds, time.Since(began))
}

// ledger hands points out and counts what became of them.
type ledger struct {
	mu      sync.Mutex
	points  []point
	enough  int
	reached map[string]int // by call
	phases  map[string]int
	missed  int
	redone  int64
	tally   rig.Tally
}

// draw fills the ledger with all points that a life has, in an order that the seed makes; each kind of call comes early.
// It returns the kinds.
func (l *ledger) draw(t *testing.T) (kinds []string) {
	l.reached, l.phases = map[string]int{}, map[string]int{}
	all := workloads()
	seen := map[string]bool{}
	for i := range all {
		most, err := census(t, &all[i])
		if err != nil {
			t.Fatal(err)
		}
		for call, n := range most {
			seen[call] = true
			for nth := 1; nth <= n; nth++ {
				l.points = append(l.points, point{&all[i], call, nth})
			}
		}
	}
	for call := range seen {
		kinds = append(kinds, call)
	}
	slices.Sort(kinds)
	slices.SortFunc(l.points, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.workload.name, b.workload.name), cmp.Compare(a.call, b.call), cmp.Compare(a.nth, b.nth))
	})
	shuffle(rig.Random(t), l.points)
	t.Logf("%d points in %d workloads, calls: %s", len(l.points), len(all), strings.Join(kinds, " "))
	if at := os.Getenv(pointVar); at != "" {
		l.points = slices.DeleteFunc(l.points, func(p point) bool { return p.String() != at })
		if len(l.points) == 0 {
			t.Fatalf("%s=%s: no such point in this run", pointVar, at)
		}
		l.points = slices.Repeat(l.points[:1], retries)
		kinds = []string{l.points[0].call}
	}
	return kinds
}

// shuffle puts the points into a drawn order, in which one of each call of each workload comes first, then another one: the
// rare calls have few chances to be reached.
func shuffle(r *rand.Rand, points []point) {
	r.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	const first = 3
	drawn, turn := map[[2]string]int{}, map[point]int{}
	for _, p := range points {
		key := [2]string{p.workload.name, p.call}
		turn[p] = min(drawn[key], first)
		drawn[key]++
	}
	slices.SortStableFunc(points, func(a, b point) int { return cmp.Compare(turn[a], turn[b]) })
}

// census counts how often threads make each call in one life without faults: as often as the second busiest, for what
// only one thread came to in one life is seldom reached in another.
func census(t *testing.T, w *workload) (map[string]int, error) {
	s, err := newSite(t, w)
	if err != nil {
		return nil, err
	}
	seen := s.home.Path("strace")
	s.home.Under = strace(seen, calls, "")
	s.launch()
	if err := s.live(); err != nil {
		return nil, err
	}
	if _, err := s.end(); err != nil {
		return nil, err
	}
	all, err := readTrace(seen)
	if err != nil {
		return nil, err
	}
	byThread := map[string]map[string]int{}
	for _, c := range all {
		if byThread[c.name] == nil {
			byThread[c.name] = map[string]int{}
		}
		byThread[c.name][c.thread]++
	}
	most := map[string]int{}
	for name, threads := range byThread {
		counts := slices.Sorted(maps.Values(threads))
		most[name] = counts[max(0, len(counts)-2)]
	}
	return most, nil
}

// end stops a stoker that lives on with nothing left to do. Its last steps are work, too.
func (s *site) end() (*os.ProcessState, error) {
	if s.home.Dead() {
		return s.home.Wait()
	}
	return s.home.Terminate()
}

func (l *ledger) next() (p point, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, k := range l.reached {
		n += k
	}
	if len(l.points) == 0 || n >= l.enough {
		return p, false
	}
	p, l.points = l.points[0], l.points[1:]
	return p, true
}

// try kills one stoker at a point. If it ends before, that proves nothing.
func (l *ledger) try(t *testing.T, p point) {
	s, err := newSite(t, p.workload)
	if err != nil {
		t.Fatal(err)
	}
	s.home.Under = strace("/dev/null", []string{p.call}, fmt.Sprintf("%s:signal=KILL:when=%d", p.call, p.nth))
	s.launch()
	if err := s.live(); err != nil {
		t.Fatal(err)
	}
	end, err := s.end()
	if err != nil {
		t.Fatal(err)
	}
	if !killed(end) {
		l.miss()
		return
	}
	phase := s.phase()
	v, tally, err := s.makeGood()
	l.count(p, phase, v.Redone, tally)
	if err != nil {
		t.Errorf("after the kill at %s (%s): %v\nreplay: %s=%s", p, phase, err, pointVar, p)
	}
}

func killed(end *os.ProcessState) bool {
	status, ok := end.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// phase says how far stoker was when it died.
func (s *site) phase() string {
	published, archived := s.home.Count("outbox", ".batch.json"), s.home.Count("archive", ".jsonl")
	switch {
	case archived >= len(s.inputs):
		return "at the end"
	case published > 0 || archived > 0:
		return "some published"
	case s.home.Count(".state/batches", "meta.json") > 0:
		return "admitted"
	case s.home.Count("inbox/.processing", ".jsonl") > 0:
		return "claimed"
	}
	return "starting"
}

func (l *ledger) miss() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.missed++
}

func (l *ledger) count(p point, phase string, redone int64, tally rig.Tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reached[p.call]++
	l.phases[phase]++
	l.tally.Add(tally)
	if p.workload.crash == "" { // else two crashes made them run again
		l.redone = max(l.redone, redone)
	}
}

func (l *ledger) report(t *testing.T, kinds []string, took time.Duration) {
	reached := 0
	for _, n := range l.reached {
		reached += n
	}
	t.Logf("%d kills, %d points not reached; by call %v; by phase %v", reached, l.missed, l.reached, l.phases)
	figures.Report(t, figures.Figures{
		Suite: "kill points", Count: reached, Lost: l.tally.Lost, Doubled: l.tally.Doubled, Redone: int(l.redone),
		Note: fmt.Sprintf("strace, %d kinds of system calls", len(l.reached)), Seconds: int(took.Seconds()),
	})
	if os.Getenv(pointVar) != "" {
		return
	}
	if reached < l.enough {
		t.Errorf("only %d points were reached, want %d: make the workloads longer", reached, l.enough)
	}
	for _, call := range kinds {
		if l.reached[call] == 0 {
			t.Errorf("no kill came before %s", call)
		}
	}
	for _, phase := range []string{"starting", "claimed", "admitted", "some published", "at the end"} {
		if l.phases[phase] == 0 {
			t.Errorf("no kill came while stoker was %q", phase)
		}
	}
}
