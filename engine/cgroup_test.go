package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/engine/processes"
)

// newCgroup makes a control group of version 2, for which it needs root, that the end of the test removes. It has a name
// as systemd gives it to units with a dash in their instance.
func newCgroup(t *testing.T) processes.Cgroup {
	t.Helper()
	mount := t.TempDir()
	if err := unix.Mount("cgroup2", mount, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	c := filepath.Join(mount, fmt.Sprintf(`stoker\x2dtest-%d-%s`, os.Getpid(), t.Name()))
	if err := os.Mkdir(c, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := (processes.Marks{Instance: instance(t), Cgroup: processes.Cgroup(c)}).Sweep(); err != nil {
			t.Error(err)
		}
		for end := time.Now().Add(limit); os.Remove(c) != nil; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("cannot remove %s, where there are %q", c, leaves(processes.Cgroup(c)))
				break
			}
		}
		unix.Unmount(mount, unix.MNT_DETACH)
	})
	return processes.Cgroup(c)
}

// leaves are the control groups in another one.
func leaves(c processes.Cgroup) (dirs []string) {
	entries, _ := os.ReadDir(string(c))
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(string(c), e.Name()))
		}
	}
	return dirs
}

// membersOf are the processes of a control group.
func membersOf(dir string) []string {
	list, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	return strings.Fields(string(list))
}

// hidden is a worker with a child that no other mark than its control group leads to: it has a session and an environment
// of its own, and is deaf to signals.
const hidden = `setsid env -i sh -c 'trap "" TERM; echo $$ > PIDFILE.tmp; mv PIDFILE.tmp PIDFILE; while :; do sleep 1; done' >/dev/null 2>&1 3>&- 4>&- &
while [ ! -s PIDFILE ]; do sleep 0.01; done
`

func TestCgroupIsKilledWithTheWorker(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	o := options(t, script(t, strings.ReplaceAll(hidden, "PIDFILE", pidFile)+`echo "$hello" >&4; echo "$ready" >&4; serve`))
	o.Cgroup = newCgroup(t)
	s := supervise(t, o)
	ready(t, s)
	child, leaf := readPID(t, pidFile), filepath.Join(string(o.Cgroup), "worker-"+instance(t)+"-1")
	if members := membersOf(leaf); len(members) < 2 {
		t.Errorf("in the worker's group are %v, want it and its child %d", members, child)
	}
	if left, err := s.Leftovers(); err != nil || len(left) > 0 {
		t.Errorf("of former workers are left %v, %v", left, err)
	}
	unix.Kill(s.Status().PID, unix.SIGKILL)
	nextOf[Capacity](t, s)
	ready(t, s)
	if lives(child) {
		t.Errorf("child %d of the dead worker is alive", child)
	}
	s.Stop()
	for _, left := range leaves(o.Cgroup) {
		if members := membersOf(left); len(members) > 0 {
			t.Errorf("group %s is left with %v", left, members)
		}
	}
}

// What a former life left in its worker's group is found, and killed before another worker is started.
func TestCgroupIsSwept(t *testing.T) {
	o := options(t, rehearsal(nil))
	o.Cgroup = newCgroup(t)
	_, child := launch(t, o.marks(), hidden+`sleep 1000`)
	left := leftovers(t, o.marks())
	if !slices.ContainsFunc(left, func(p processes.Process) bool { return p.PID == child }) {
		t.Errorf("left are %v, want %d among them", left, child)
	}
	ready(t, supervise(t, o))
	if lives(child) {
		t.Errorf("child %d of a former worker is alive", child)
	}
}

// Two stokers in one control group leave each other's workers alone.
func TestCgroupIsShared(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	one := options(t, script(t, strings.ReplaceAll(hidden, "PIDFILE", pidFile)+`echo "$hello" >&4; echo "$ready" >&4; serve`))
	one.Cgroup = newCgroup(t)
	s := supervise(t, one)
	ready(t, s)
	pid, child := s.Status().PID, readPID(t, pidFile)

	other := options(t, rehearsal(nil))
	other.Instance = instance(t) + "-1" // nor is a name that begins with another taken for it
	other.Cgroup = one.Cgroup
	next := supervise(t, other)
	ready(t, next)
	next.Stop()
	for _, pid := range []int{pid, child} {
		if !lives(pid) {
			t.Errorf("another stoker killed process %d", pid)
		}
	}
	if left := leftovers(t, other.marks()); len(left) > 0 {
		t.Errorf("it takes %v for its own", left)
	}
}

// The control groups of former versions' workers, which do not tell whose they are, are removed if nothing is in them.
func TestCgroupOfFormerVersion(t *testing.T) {
	c := newCgroup(t)
	empty, used := filepath.Join(string(c), "worker-1"), filepath.Join(string(c), "worker-2")
	for _, dir := range []string{empty, used} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.Remove(used)
	})
	if err := os.WriteFile(filepath.Join(used, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	o := options(t, rehearsal(nil))
	o.Cgroup = c
	ready(t, supervise(t, o))
	if _, err := os.Stat(empty); err == nil {
		t.Errorf("%s is still there", empty)
	}
	if members := membersOf(used); !slices.Equal(members, []string{strconv.Itoa(cmd.Process.Pid)}) {
		t.Errorf("in %s are %v, want %d", used, members, cmd.Process.Pid)
	}
}

// A worker that cannot have a group of its own runs without one.
func TestCgroupThatIsGone(t *testing.T) {
	o := options(t, rehearsal(nil))
	o.Cgroup = processes.Cgroup(filepath.Join(t.TempDir(), "gone"))
	s := supervise(t, o)
	ready(t, s)
	s.Stop() // else the next one takes its worker for one that was left over
	o = options(t, rehearsal(nil))
	o.Cgroup = processes.Cgroup(t.TempDir()) // a folder that is no control group: the kernel refuses to start anything in it
	ready(t, supervise(t, o))
}
