package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	defer func() { p.end(0) }()
	for deadline := time.Now().Add(limit); len(Leftovers(name, dir)) == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n, err := Sweep(name, dir); err != nil || n == 0 {
		t.Errorf("swept %d processes: %v", n, err)
	}
	if left := Leftovers(name, dir); len(left) > 0 {
		t.Errorf("processes %v are alive", left)
	}
	if n, err := Sweep(name, dir); err != nil || n != 0 {
		t.Errorf("swept %d processes of none: %v", n, err)
	}
}
