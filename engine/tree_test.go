package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
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
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	s.Submit([]Request{chat(1, "x")})
	nextOf[Capacity](t, s)
	if lost := nextOf[Lost](t, s); !strings.Contains(lost.Reason, "exit status 5") {
		t.Errorf("reason is %q", lost.Reason)
	}
	if _, alive := readStat("/proc/" + strings.TrimSpace(string(pid))); alive {
		t.Errorf("process %s is alive", pid)
	}
}

// A process that wipes its environment to set its title is still found by its group.
func TestGroupIsKilledWithoutToken(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	s := supervise(t, options(t, script(t, fmt.Sprintf(`env -i sleep 1000 & echo $! > %s; echo "$hello" >&4; echo "$ready" >&4; serve`, pidFile))))
	ready(t, s)
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if _, alive := readStat("/proc/" + strings.TrimSpace(string(pid))); alive {
		t.Errorf("process %s is alive", pid)
	}
}

func TestSweep(t *testing.T) {
	name := instance(t)
	dir := t.TempDir()
	// A former life: its worker was re-parented and no supervisor knows it.
	log, err := openLog(filepath.Join(dir, "worker.log"), logLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p, err := startProcess(script(t, `sleep 1000`), name+":1", log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.end(0, nil) }()
	for deadline := time.Now().Add(limit); len(leftovers(t, name, dir, Tree{})) == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n, err := Sweep(name, dir); err != nil || n == 0 {
		t.Errorf("swept %d processes: %v", n, err)
	}
	if left := leftovers(t, name, dir, Tree{}); len(left) > 0 {
		t.Errorf("processes %v are alive", left)
	}
	if n, err := Sweep(name, dir); err != nil || n != 0 {
		t.Errorf("swept %d processes of none: %v", n, err)
	}
}

// launch starts a worker that no supervisor knows, and returns the pid that it writes, of something that it started.
func launch(t *testing.T, instance, body string) (p *process, child int) {
	t.Helper()
	log, err := openLog(filepath.Join(t.TempDir(), "worker.log"), logLimit)
	if err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	p, err = startProcess(script(t, strings.ReplaceAll(body, "PIDFILE", pidFile)), newToken(instance), log)
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

// A former worker's processes are told from the current one's, also those that only their group gives away, and also
// after the current group was recorded.
func TestLeftovers(t *testing.T) {
	name, dir := instance(t), t.TempDir()
	former, orphan := launch(t, name, namelessChild)
	if err := recordGroup(dir, former.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(former.cmd.Process.Pid, syscall.SIGKILL)
	<-former.exited
	current, child := launch(t, name, namelessChild)
	if err := recordGroup(dir, current.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	has := func(list []Process, pid int) bool {
		return slices.ContainsFunc(list, func(p Process) bool { return p.PID == pid && strings.Contains(p.Command, "/bin/sh") })
	}
	left := leftovers(t, name, dir, current.tree())
	if !has(left, orphan) || has(left, child) || has(left, current.cmd.Process.Pid) {
		t.Errorf("left over are %v; want %d of the former worker, and neither %d nor %d of this one", left, orphan, current.cmd.Process.Pid, child)
	}
	if err := killTree(former.tree()); err != nil {
		t.Error(err)
	}
	if left := leftovers(t, name, dir, current.tree()); len(left) > 0 {
		t.Errorf("left over are %v, want none", left)
	}
	if left := leftovers(t, name, dir, Tree{}); !has(left, child) {
		t.Errorf("without a current worker %v are left over, want %d among them", left, child)
	}
}

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
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.Status().PID))
	if err != nil {
		t.Fatal(err)
	}
	if got := recordedGroups(o.LogDir); len(got) != 1 || got[0].id != s.Status().PID || got[0].exe != want {
		t.Errorf("recorded %+v, want the group %d of %s", got, s.Status().PID, want)
	}
}

// The supervisor starts no worker before the former one is gone.
func TestSupervisorSweepsFirst(t *testing.T) {
	o := options(t, echo(nil))
	former, orphan := launch(t, o.Instance, namelessChild)
	if err := recordGroup(o.LogDir, former.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	s := supervise(t, o)
	ready(t, s)
	if _, alive := readStat(fmt.Sprintf("/proc/%d", orphan)); alive {
		t.Errorf("process %d of the former worker is alive beside the new one", orphan)
	}
	if left, err := s.Leftovers(); err != nil || len(left) > 0 {
		t.Errorf("left over are %v: %v", left, err)
	}
}
