package kill

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// fault is an error that a kind of call reports.
type fault struct{ call, errno string }

func (f fault) String() string { return f.call + " " + f.errno }

func faults() []fault {
	return []fault{
		{"fdatasync", "EIO"}, {"fsync", "EIO"}, {"write", "ENOSPC"}, {"pwrite64", "ENOSPC"}, {"renameat2", "EIO"}, {"renameat", "EIO"},
		{"renameat2", "EROFS"}, {"renameat", "EROFS"}, {"mkdirat", "EROFS"}, {"mkdirat", "ENOSPC"}, {"unlinkat", "EIO"},
	}
}

// eachFault is how often each fault is told.
const eachFault = 6

// patient is how long stoker gets to wait faults out. Pauses double, and each new thread that comes so far meets a fault of
// its own; what is still not done then is the next start's.
const patient = 20 * time.Second

// TestInjectedErrors tells stoker of faults of its disk, once for each thread that comes so far. It may wait them out or
// leave, saying why, as the place asks for; in the end nothing is lost or doubled.
func TestInjectedErrors(t *testing.T) {
	began := time.Now()
	w := &workloads()[0]
	most, err := census(t, w)
	if err != nil {
		t.Fatal(err)
	}
	l := &faultLedger{counts: map[fault]int{}, endings: map[string]int{}}
	each := eachFault
	if testing.Short() {
		each = 1
	}
	r := rig.Random(t)
	t.Run("faults", func(t *testing.T) {
		for _, f := range faults() {
			for _, nth := range draw(r, most[f.call], each) {
				t.Run(fmt.Sprintf("%s/%d", f, nth), func(t *testing.T) {
					t.Parallel()
					l.try(t, w, f, nth)
				})
			}
		}
	})
	l.report(t, time.Since(began))
}

// draw draws some of the numbers from 1 to n, no two the same.
func draw(r *rand.Rand, n, some int) []int {
	numbers := r.Perm(n)
	for i := range numbers {
		numbers[i]++
	}
	return numbers[:min(some, n)]
}

type faultLedger struct {
	mu      sync.Mutex
	counts  map[fault]int
	endings map[string]int
	tally   rig.Tally
	redone  int64
}

func (l *faultLedger) try(t *testing.T, w *workload, f fault, nth int) {
	s, err := newSite(t, w)
	if err != nil {
		t.Fatal(err)
	}
	seen := s.home.Path("strace")
	s.home.Under = strace(seen, []string{"fsync", "fdatasync", f.call}, fmt.Sprintf("%s:error=%s:when=%d", f.call, f.errno, nth))
	s.launch()
	if err := s.feed(); err != nil {
		t.Fatalf("%v\n%s", err, told(seen))
	}
	for start := time.Now(); !s.done() && time.Since(start) < patient; {
		time.Sleep(50 * time.Millisecond)
	}
	left, waiting := s.home.Dead(), !s.done()
	end, err := s.end()
	if err != nil {
		t.Fatal(err)
	}
	all, err := readTrace(seen)
	if err != nil {
		t.Fatal(err)
	}
	log := s.home.Log()
	v, tally, err := s.makeGood()
	if err != nil {
		t.Errorf("in the end: %v\n%s", err, told(seen))
	}
	ending := "it went on"
	if left {
		ending = "it left"
	}
	if waiting {
		ending = "it was still waiting"
	}
	if err := s.answered(all, left, end.ExitCode(), log); err != nil {
		t.Errorf("%s: %v\n%s", ending, err, told(seen))
	}
	l.count(f, ending, s.hits(all), tally, v.Redone)
}

// told is what stoker was told of faults.
func told(seen string) string {
	all, err := readTrace(seen)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, c := range all {
		if c.injected {
			fmt.Fprintln(&b, c.thread, c.name, c.args)
		}
	}
	return b.String()
}

// hits counts the faults that came to stoker's folders, and not to a pipe or its log.
func (s *site) hits(all []call) (n int) {
	for _, c := range all {
		if c.injected && (s.inState(c) || s.onShare(c)) {
			n++
		}
	}
	return n
}

func (s *site) inState(c call) bool { return strings.Contains(c.args, s.home.Path(".state")) }

func (s *site) onShare(c call) bool {
	return slices.ContainsFunc([]string{"inbox", "outbox", "archive"}, func(dir string) bool { return strings.Contains(c.args, s.home.Path(dir)) })
}

// finalSync returns the first failed sync that promised what the store builds on, -1 if there was none.
func (s *site) finalSync(all []call) int {
	ofNote := false // the file written last that gets a name in STATE itself, whose folder is synced next
	for i, c := range all {
		if c.name != "fsync" && c.name != "fdatasync" || !s.inState(c) {
			continue
		}
		if strings.Contains(c.args, s.home.Path(".state")+"/.") {
			ofNote = isNote(c)
		}
		if c.injected && !isNote(c) && !(ofNote && strings.Contains(c.args, s.home.Path(".state")+">")) {
			return i
		}
	}
	return -1
}

// isNote reports whether a call is about what stoker only notes down in STATE: how to find the worker's processes and the
// socket, and how long starts took.
func isNote(c call) bool {
	return slices.ContainsFunc([]string{"worker.group", "starts.json", "listens-on"}, func(name string) bool { return strings.Contains(c.args, name) })
}

// answered judges what stoker did about the faults: one of the state's syncs is final, one of a share is waited out.
func (s *site) answered(all []call, left bool, code int, log string) error {
	failed := s.finalSync(all)
	switch {
	case left && code <= 0:
		return fmt.Errorf("it must say why and leave with an exit code above 0, not %d\n%s", code, log)
	case failed >= 0 && !left:
		return errors.New("a failed sync of the state is final: what the disk holds is not known")
	case left && failed < 0 && strings.Contains(log, "stoker runs") && !slices.ContainsFunc(all, func(c call) bool { return c.injected && !s.onShare(c) }):
		return fmt.Errorf("a fault of a share is waited out\n%s", log)
	}
	if failed < 0 {
		return nil
	}
	if again := slices.IndexFunc(all[failed+1:], func(c call) bool { return c.name == all[failed].name && c.args == all[failed].args && !c.injected }); again >= 0 {
		return fmt.Errorf("what failed to sync was synced again: %s", all[failed].args)
	}
	return nil
}

func (l *faultLedger) count(f fault, ending string, hits int, tally rig.Tally, redone int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[f] += hits
	l.endings[ending]++
	l.tally.Add(tally)
	l.redone = max(l.redone, redone)
}

func (l *faultLedger) report(t *testing.T, took time.Duration) {
	total := 0
	var kinds []string
	for _, f := range faults() {
		if l.counts[f] == 0 {
			t.Errorf("no %s came to stoker's folders", f)
		}
		total += l.counts[f]
		kinds = append(kinds, fmt.Sprintf("%s %d", f, l.counts[f]))
	}
	t.Logf("%v", l.endings)
	figures.Report(t, figures.Figures{
		Suite: "injected errors", Count: total, Lost: l.tally.Lost, Doubled: l.tally.Doubled, Redone: int(l.redone),
		Note: strings.Join(kinds, ", "), Seconds: int(took.Seconds()),
	})
}

func TestFinalSync(t *testing.T) {
	s := &site{home: &rig.Home{}}
	for name, c := range map[string]struct {
		want  int
		calls []call
	}{
		"a journal's":                  {0, []call{{name: "fdatasync", args: "(9<.state/batches/b/journal>", injected: true}}},
		"one that did not fail":        {-1, []call{{name: "fdatasync", args: "(9<.state/batches/b/journal>"}}},
		"a share's":                    {-1, []call{{name: "fsync", args: "(9<outbox>", injected: true}}},
		"a note's":                     {-1, []call{{name: "fsync", args: "(9<.state/.worker.group.tmp>", injected: true}}},
		"of the folder, for a note":    {-1, []call{{name: "fsync", args: "(9<.state/.worker.group.tmp>"}, {name: "fsync", args: "(9<.state>", injected: true}}},
		"of the folder, for the id":    {1, []call{{name: "fsync", args: "(9<.state/.instance.tmp>"}, {name: "fsync", args: "(9<.state>", injected: true}}},
		"of the folder, after a note":  {2, []call{{name: "fsync", args: "(9<.state/.starts.json.tmp>"}, {name: "fsync", args: "(9<.state/.instance.tmp>"}, {name: "fsync", args: "(9<.state>", injected: true}}},
		"of the batches, after a note": {1, []call{{name: "fsync", args: "(9<.state/.worker.group.tmp>"}, {name: "fsync", args: "(9<.state/batches>", injected: true}}},
	} {
		if got := s.finalSync(c.calls); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
