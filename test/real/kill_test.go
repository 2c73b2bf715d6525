//go:build real

package real

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// killInFlight is how many requests the engine holds in TestKills: what one kill may make run again.
const killInFlight = 16

// storm is one batch, and what is done to the processes that work on it.
type storm struct {
	*service
	rand   *rand.Rand
	faults int
	most   int // lines that one fault made run again
}

// TestKills kills what answers one batch, again and again at random moments: the daemon while the engine loads and while
// it works, the worker, vLLM's EngineCore; and it stops EngineCore, while it works and while it loads. Every line is
// answered once, no process is left behind, and no fault makes more run again than was in flight.
func TestKills(t *testing.T) {
	t.Parallel()
	began := time.Now()
	s := &storm{rand: rig.Random(t), service: newService(t,
		fmt.Sprintf("STOKER_ENGINE__IN_FLIGHT=%d", killInFlight), "STOKER_ENGINE__HANG=30s", "STOKER_ENGINE__LOAD_STALL=45s")}
	lines, ids := requests("kill", 240)
	s.drop("kill.jsonl", lines)

	for range 3 {
		s.start()
		s.watch(s.moment(25 * time.Second))
		s.killDaemon()
		s.faults++
	}
	s.start()
	s.atWork("kill the daemon", func(status) {
		s.killDaemon()
		s.start()
	})
	s.atWork("kill the worker", func(st status) { s.killUnderDaemon(st.Engine.PID) })
	s.atWork("kill EngineCore", func(status) { s.killUnderDaemon(s.workingCore()) })
	s.atWork("stop EngineCore", func(status) {
		core := s.workingCore()
		syscall.Kill(core, syscall.SIGSTOP)
		s.awaitReason("engine.hang")
		s.expectGone(core)
	})
	s.whileLoading(func(pid int) { s.killUnderDaemon(pid) })
	s.whileLoading(func(pid int) {
		syscall.Kill(pid, syscall.SIGSTOP)
		s.awaitReason("engine.load_stall")
		s.expectGone(pid)
	})

	s.awaitEnded("kill")
	lost, doubled := s.outcome("kill", ids)
	s.expectOnce("kill", ids)
	s.verify()
	s.stop()
	figures.Report(t, figures.Figures{
		Suite: "kills and stops on vLLM", Count: s.faults, Lost: lost, Doubled: doubled, Redone: s.most,
		Seconds: int(time.Since(began).Seconds()),
		Note:    fmt.Sprintf("of daemon, worker and EngineCore, while loading and at work; processes left behind: %d", len(s.processes())),
	})
}

func (s *storm) moment(most time.Duration) time.Duration {
	return time.Duration(s.rand.Int64N(int64(most)))
}

// watch waits, and meanwhile learns which workers there are.
func (s *storm) watch(d time.Duration) {
	s.t.Helper()
	s.await("the daemon to answer", func() bool { _, ok := s.status(); return ok })
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		s.status()
	}
}

// atWork does something at a random moment of the engine's work, and counts what that made run again.
func (s *storm) atWork(what string, fault func(status)) {
	s.t.Helper()
	s.awaitReady()
	s.watch(s.moment(3 * time.Second))
	before := s.redone()
	st, _ := s.status()
	fault(st)
	s.await("the batch to be counted", func() bool { st, ok := s.status(); return ok && len(st.Dispatch.Running) > 0 })
	again := s.redone() - before
	s.t.Logf("%s: %d in flight, %d run again", what, st.Engine.InFlight, again)
	if again > killInFlight {
		s.t.Errorf("%s: %d lines run again, at most %d were in flight", what, again, killInFlight)
	}
	s.most = max(s.most, again)
	s.faults++
	s.verify()
}

// whileLoading does something to EngineCore, or the worker if it has none yet, at a random moment of a load.
func (s *storm) whileLoading(fault func(pid int)) {
	s.t.Helper()
	s.await("a load", func() bool { st, ok := s.status(); return ok && st.Engine.State == "loading" })
	s.watch(s.moment(18 * time.Second))
	st, _ := s.status()
	if st.Engine.State != "loading" {
		s.t.Fatalf("the engine is %s, and not loading any more", st.Engine.State)
	}
	pid := st.Engine.PID
	if core := s.engineCore(); core != 0 {
		pid = core
	}
	s.t.Logf("while loading (%s), to process %d", st.Engine.Phase, pid)
	fault(pid)
	s.faults++
}

// killDaemon is kill -9 of the daemon, which its engine follows.
func (s *storm) killDaemon() {
	s.t.Helper()
	s.kill()
	s.await("the orphaned worker to follow the daemon", func() bool { return len(s.processes()) == 0 })
}

// killUnderDaemon is kill -9 of a process of the engine, which the daemon must notice.
func (s *storm) killUnderDaemon(pid int) {
	s.t.Helper()
	before, _ := s.status()
	syscall.Kill(pid, syscall.SIGKILL)
	var st status
	s.await("the death to be noticed", func() (ok bool) {
		st, ok = s.status()
		return ok && st.Engine.Restarts > before.Engine.Restarts
	})
	if !strings.Contains(st.Engine.Reason, "SIGKILL") {
		s.t.Errorf("the reason is %q", st.Engine.Reason)
	}
	s.expectGone(pid)
}

// workingCore is EngineCore, which must be there.
func (s *storm) workingCore() int {
	s.t.Helper()
	core := s.engineCore()
	if core == 0 {
		s.t.Fatalf("no EngineCore among %v", s.processes())
	}
	return core
}

func (s *storm) expectGone(pid int) {
	s.t.Helper()
	if command, alive := s.processes()[pid]; alive {
		s.t.Errorf("process %d (%s) is still alive", pid, command)
	}
}

// engineCore finds vLLM's engine process by the title that it gives itself, or as what it is before that. It is 0 while
// there is none.
func (s *service) engineCore() int {
	for pid, command := range s.processes() {
		if strings.Contains(command, "EngineCore") || strings.Contains(command, "spawn_main") {
			return pid
		}
	}
	return 0
}
