package sim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"stoker/test/figures"
	"stoker/test/rig"
)

// seedsVar names the environment variable that says how many worlds are run, from the seed of rig.SeedVar on.
const seedsVar = "STOKER_SEEDS"

// defaultSeeds is for the race detector, under which a world takes ten times as long.
const defaultSeeds = 200

func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// memory is a folder for the real files of worlds, on a filesystem whose syncs cost nothing if there is one.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "stoker-sim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// simulate runs the world of one seed.
func simulate(t *testing.T, seed uint64, dir string, log zerolog.Logger) (w *World, err error) {
	t.Helper()
	dir = filepath.Join(dir, strconv.FormatUint(seed, 10))
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	synctest.Test(t, func(*testing.T) {
		w = NewWorld(seed, dir, log)
		err = w.Run()
	})
	return w, err
}

// total is what all worlds came to.
type total struct {
	worlds, steps, kills, cuts, restarts, deaths, faults int
	redone                                               int64
}

func (s *total) add(w *World) {
	s.worlds++
	s.steps += w.Steps
	s.kills += w.Kills
	s.cuts += w.Cuts
	s.restarts += w.Restarts
	s.deaths += w.Deaths
	s.faults += w.Faults
	s.redone = max(s.redone, w.Redone)
}

// TestSimulation runs one world after another. A seed that fails is told with the command that runs it again.
func TestSimulation(t *testing.T) {
	first := number(t, rig.SeedVar, uint64(time.Now().UnixNano())/1000)
	count := number(t, seedsVar, defaultSeeds)
	t.Logf("%d worlds, drawn with %s=%d", count, rig.SeedVar, first)
	began := time.Now()
	var mu sync.Mutex
	var sum total
	var next atomic.Uint64
	t.Run("worlds", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				dir := memory(t)
				for n := next.Add(1) - 1; n < count && !t.Failed(); n = next.Add(1) - 1 {
					w, err := simulate(t, first+n, dir, logger(t))
					if err != nil {
						fail(t, first+n, w, err)
					}
					mu.Lock()
					sum.add(w)
					mu.Unlock()
				}
			})
		}
	})
	lost := 0
	if t.Failed() {
		lost = 1 // at least: the message tells
	}
	figures.Report(t, figures.Figures{
		Suite: "simulated worlds", Count: sum.worlds, Lost: lost, Redone: int(sum.redone), Seconds: int(time.Since(began).Seconds()),
		Note: fmt.Sprintf("%d steps, %d kills, %d of them power cuts, %d engine deaths, %d faults of filesystems, %d restarts", sum.steps, sum.kills, sum.cuts, sum.deaths, sum.faults, sum.restarts),
	})
}

// logVar makes the rooms' log part of the test's.
const logVar = "STOKER_SIM_LOG"

func logger(t *testing.T) zerolog.Logger {
	if os.Getenv(logVar) == "" {
		return zerolog.Nop()
	}
	return zerolog.New(zerolog.NewTestWriter(t))
}

func fail(t *testing.T, seed uint64, w *World, err error) {
	t.Helper()
	trace := w.sched.trace
	t.Errorf("seed %d: %v\nthe last steps:\n  %s\nagain: %s=%d %s=1 go test -count 3 -v -run TestSimulation ./test/sim (%s=1 for the log)",
		seed, err, strings.Join(trace[max(0, len(trace)-60):], "\n  "), rig.SeedVar, seed, seedsVar, logVar)
}

// TestSameSeedSameWorld keeps the simulation one that a seed can replay. A few worlds in a hundred come out differently: where
// two things happen at the same instant of the fake clock, Go's select takes either.
func TestSameSeedSameWorld(t *testing.T) {
	const seeds, odd = 50, 15
	dir := memory(t)
	var differ []uint64
	for seed := range uint64(seeds) {
		a, errA := simulate(t, seed, dir, zerolog.Nop())
		b, errB := simulate(t, seed, dir, zerolog.Nop())
		if err := errors.Join(errA, errB); err != nil {
			t.Error(err)
		}
		if a.sched.hash != b.sched.hash {
			differ = append(differ, seed)
		}
	}
	t.Logf("%d of %d seeds made two different worlds: %v", len(differ), seeds, differ)
	if len(differ) > odd {
		t.Error("a seed that fails could not be run again")
	}
}
