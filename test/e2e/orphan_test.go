package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// breeder is an interpreter whose worker is the rehearsal engine with a child that leads a session of its own, which no
// signal to the worker's group and no death of its parent reaches.
const breeder = `#!/bin/sh
case "$2" in -c) echo '{"version":"3.12.0","prefix":"/","base":"/","vllm":"0.32.0","dist":"vllm"}'; exit;; esac
setsid sleep 1000 3>&- 4>&- &
exec %s echo-worker
`

// newBreeder makes a home whose engine is a breeder.
func newBreeder(t *testing.T, binary string) *rig.Home {
	h := rig.NewHome(t, binary, "[inbox]\nsettle = \"100ms\"\nrescan = \"1s\"\n[engine]\nkind = \"vllm\"\nmodel = \"echo\"\npython = \"python\"\n")
	path, err := exec.LookPath(binary)
	if err != nil {
		t.Fatal(err)
	}
	h.Write("python", fmt.Sprintf(breeder, path))
	if err := os.Chmod(h.Path("python"), 0o755); err != nil {
		t.Fatal(err)
	}
	return h
}

// escapedChild kills the worker, then the daemon. No child of theirs may outlive the next start.
func escapedChild(t *testing.T, plant string) error {
	h := newBreeder(t, rig.Faulty)
	t.Cleanup(func() { // what the planted bug leaves
		for _, pid := range h.Processes() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 5)}
	var errs []error
	h.Start("STOKER_PLANT=" + plant)
	errs = append(errs, awaitWorker(h, 0))
	first := enginePID(h)
	syscall.Kill(first, syscall.SIGKILL)
	errs = append(errs, awaitWorker(h, first), oneEngine(h))

	errs = append(errs, killAlone(h))
	h.Start("STOKER_PLANT=" + plant)
	h.Drop(in.Name, in.Content())
	errs = append(errs, awaitWorker(h, 0), oneEngine(h), h.End(in))
	return errors.Join(errs...)
}

// killAlone is kill -9 of the daemon, and does not wait for what it started.
func killAlone(h *rig.Home) error {
	h.Daemon.Process.Kill()
	return h.Await("the daemon's death", h.Dead)
}

// awaitWorker waits until a worker is ready that is not the one with this pid.
func awaitWorker(h *rig.Home, former int) error {
	return h.Await("a worker", func() bool {
		s, _ := rig.Report[rig.Status](h, "status")
		return s.Engine.State == "ready" && s.Engine.PID != former
	})
}

func enginePID(h *rig.Home) int {
	s, _ := rig.Report[rig.Status](h, "status")
	return s.Engine.PID
}

// oneEngine asks the daemon to prove that only its present worker's processes live, and counts them itself.
func oneEngine(h *rig.Home) error {
	_, err := h.Verify()
	if n := len(h.Processes()); n != 3 { // daemon, worker, the worker's child
		err = errors.Join(err, fmt.Errorf("%d processes live, want 3", n))
	}
	return err
}

// TestNoOrphans kills the daemon at random moments of an engine's start. The next one finds what is left of it, also what
// nothing binds to the daemon's life, and two workers never live at once.
func TestNoOrphans(t *testing.T) {
	t.Parallel()
	h, random, began := newBreeder(t, rig.Released), rig.Random(t), time.Now()
	n := 30
	if testing.Short() {
		n = 5
	}
	outlived, trees := 0, watchTrees(h)
	for range n {
		h.Start()
		time.Sleep(time.Duration(random.Int64N(int64(400 * time.Millisecond))))
		if err := killAlone(h); err != nil {
			t.Fatal(err)
		}
		if len(h.Processes()) > 0 {
			outlived++
		}
	}
	if outlived == 0 {
		t.Error("no kill left anything behind: this proves nothing")
	}
	h.Start()
	if err := errors.Join(awaitWorker(h, 0), oneEngine(h), h.Stop(), trees()); err != nil {
		t.Error(err)
	}
	figures.Report(t, figures.Figures{
		Suite: "kills of stoker while its engine starts", Count: n, Seconds: int(time.Since(began).Seconds()),
		Note: fmt.Sprintf("processes outlived %d of the kills; orphans after the next start: %d", outlived, len(h.Processes())),
	})
}

// watchTrees looks, until the returned function is called, for two workers' processes that live at the same time.
func watchTrees(h *rig.Home) (stop func() error) {
	done, result := make(chan struct{}), make(chan error)
	go func() {
		looks := 0
		for {
			select {
			case <-done:
				var err error
				if looks < 100 {
					err = fmt.Errorf("looked for two workers only %d times", looks)
				}
				result <- err
				return
			case <-time.After(time.Millisecond):
			}
			looks++
			if err := twoTrees(h.Processes()); err != nil {
				result <- err
				return
			}
		}
	}()
	return func() error {
		close(done)
		return <-result
	}
}

// twoTrees finds processes of two workers. The first must be alive still when the second has been seen.
func twoTrees(pids []int) error {
	first, token := 0, ""
	for _, pid := range pids {
		switch now := workerToken(pid); {
		case now == "" || now == token:
		case token == "":
			first, token = pid, now
		case workerToken(first) == token:
			return fmt.Errorf("I8: process %d of worker %s and process %d of worker %s live at the same time", first, token, pid, now)
		}
	}
	return nil
}

// workerToken is what marks a living process as a worker's; "" for any other.
func workerToken(pid int) string {
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for v := range strings.SplitSeq(string(env), "\x00") {
		if token, ok := strings.CutPrefix(v, "STOKER_WORKER="); ok {
			return token
		}
	}
	return ""
}
