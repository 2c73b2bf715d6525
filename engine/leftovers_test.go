package engine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"stoker/engine/processes"
)

// Whatever a worker starts goes with it: a daemon of its own session, deaf to signals, that holds the pipes open.
func TestNothingSurvivesTheWorker(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	s := supervise(t, options(t, script(t, fmt.Sprintf(`trap '' TERM HUP INT
setsid sh -c 'trap "" TERM HUP INT; echo $$ > %[1]s.tmp; mv %[1]s.tmp %[1]s; while :; do sleep 60; done' &
while [ ! -s %[1]s ]; do sleep 0.01; done
echo "$hello" >&4; echo "$ready" >&4
read line <&3; read line <&3; exit 5`, pidFile))))
	ready(t, s)
	pid := readPID(t, pidFile)
	s.Submit([]Request{chat(1, "x")})
	nextOf[Capacity](t, s)
	if lost := nextOf[Lost](t, s); !strings.Contains(lost.Reason, "exit status 5") {
		t.Errorf("reason is %q", lost.Reason)
	}
	if lives(pid) {
		t.Errorf("process %d is alive", pid)
	}
}

// A process that wipes its environment to set its title is still found by its group.
func TestGroupIsKilledWithoutToken(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	s := supervise(t, options(t, script(t, fmt.Sprintf(`env -i sleep 1000 & echo $! > %s; echo "$hello" >&4; echo "$ready" >&4; serve`, pidFile))))
	ready(t, s)
	pid := readPID(t, pidFile)
	s.Stop()
	if lives(pid) {
		t.Errorf("process %d is alive", pid)
	}
}

// launch starts a worker that no supervisor knows, and returns the pid that it writes, of something that it started.
func launch(t *testing.T, marks processes.Marks, body string) (p *process, child int) {
	t.Helper()
	log, err := openLog(filepath.Join(t.TempDir(), "worker.log"), logLimit)
	if err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	p, err = startProcess(script(t, strings.ReplaceAll(body, "PIDFILE", pidFile)), marks, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(0, nil); log.Close() })
	return p, readPID(t, pidFile)
}

func readPID(t *testing.T, file string) int {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		b, _ := os.ReadFile(file)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return pid
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody wrote a pid into %s", file)
		}
	}
}

// namelessChild has what vLLM's EngineCore is: no token in its environment.
const namelessChild = `env -i /bin/sh -c 'echo $$ > PIDFILE.tmp; mv PIDFILE.tmp PIDFILE; while :; do sleep 0.1; done' & wait`

// A wrapper around the interpreter, as version managers have, is gone when the worker says hello.
func TestWrappedInterpreterIsRecorded(t *testing.T) {
	inner := script(t, `echo "$hello" >&4; echo "$ready" >&4; serve`)
	wrapper := filepath.Join(t.TempDir(), "python")
	if err := os.WriteFile(wrapper, []byte("#!/bin/bash\nsleep 0.1\nexec "+strings.Join(inner.Argv, " ")+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	o := options(t, Launch{Argv: []string{wrapper}, Env: os.Environ()})
	s := supervise(t, o)
	ready(t, s)
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.Status().PID))
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s %d %s\n", bytes.TrimSpace(boot), s.Status().PID, exe)
	if got, err := os.ReadFile(filepath.Join(o.LogDir, "worker.group")); string(got) != want || err != nil {
		t.Errorf("recorded %q, %v, want %q", got, err, want)
	}
}

// The supervisor starts no worker before the former one is gone.
func TestSupervisorSweepsFirst(t *testing.T) {
	o := options(t, rehearsal(nil))
	former, orphan := launch(t, o.marks(), namelessChild)
	if err := o.marks().RecordGroup(former.child.PID()); err != nil {
		t.Fatal(err)
	}
	s := supervise(t, o)
	ready(t, s)
	if lives(orphan) {
		t.Errorf("process %d of the former worker is alive beside the new one", orphan)
	}
	if left, err := s.Leftovers(); err != nil || len(left) > 0 {
		t.Errorf("left over are %v: %v", left, err)
	}
}
