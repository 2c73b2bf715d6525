package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newCgroup makes a control group of version 2, for which it needs root, that the end of the test removes. It has a name
// as systemd gives it to units with a dash in their instance.
func newCgroup(t *testing.T) *Cgroup {
	t.Helper()
	mount := t.TempDir()
	if err := unix.Mount("cgroup2", mount, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	c := &Cgroup{filepath.Join(mount, fmt.Sprintf(`stoker\x2dtest-%d-%s`, os.Getpid(), t.Name())), instance(t)}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.sweep(); err != nil {
			t.Error(err)
		}
		for end := time.Now().Add(limit); os.Remove(c.dir) != nil; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("cannot remove %s, where there are %q", c.dir, c.leaves())
				break
			}
		}
		unix.Unmount(mount, unix.MNT_DETACH)
	})
	return c
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
	child, leaf := readPID(t, pidFile), filepath.Join(o.Cgroup.dir, "worker-"+instance(t)+"-1")
	if members := membersOf(leaf); len(members) < 2 {
		t.Errorf("in the worker's group are %v, want it and its child %d", members, child)
	}
	if left, err := s.Leftovers(); err != nil || len(left) > 0 {
		t.Errorf("of former workers are left %v, %v", left, err)
	}
	unix.Kill(s.Status().PID, unix.SIGKILL)
	nextOf[Capacity](t, s)
	ready(t, s)
	if _, alive := readStat(fmt.Sprintf("/proc/%d", child)); alive {
		t.Errorf("child %d of the dead worker is alive", child)
	}
	s.Stop()
	if left := o.Cgroup.leaves(); len(left) > 0 && len(membersOf(left[0])) > 0 {
		t.Errorf("groups %q are left with %v", left, membersOf(left[0]))
	}
}

// What a former life left in its worker's group is found, and killed before another worker is started.
func TestCgroupIsSwept(t *testing.T) {
	c := newCgroup(t)
	l, err := c.newLeaf()
	if err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	former := script(t, strings.ReplaceAll(hidden, "PIDFILE", pidFile)+`sleep 1000`)
	former.leaf = l
	log, err := openLog(filepath.Join(t.TempDir(), "worker.log"), logLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p, err := startProcess(former, newToken(instance(t)), log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.end(0, nil) }()
	child := readPID(t, pidFile)

	o := options(t, echo(nil))
	o.Instance, o.Cgroup = instance(t)+"-next", c
	left, err := c.leftovers(Tree{})
	if err != nil || !slices.ContainsFunc(left, func(p Process) bool { return p.PID == child }) {
		t.Errorf("left are %v, %v, want %d among them", left, err, child)
	}
	ready(t, supervise(t, o))
	if _, alive := readStat(fmt.Sprintf("/proc/%d", child)); alive {
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

	other := options(t, echo(nil))
	other.Instance = instance(t) + "-1" // nor is a name that begins with another taken for it
	other.Cgroup = &Cgroup{one.Cgroup.dir, other.Instance}
	next := supervise(t, other)
	ready(t, next)
	next.Stop()
	for _, pid := range []int{pid, child} {
		if _, alive := readStat(fmt.Sprintf("/proc/%d", pid)); !alive {
			t.Errorf("another stoker killed process %d", pid)
		}
	}
	if left, err := next.o.Cgroup.leftovers(Tree{}); err != nil || len(left) > 0 {
		t.Errorf("it takes %v for its own, %v", left, err)
	}
}

// The control groups of former versions' workers, which do not tell whose they are, are removed if nothing is in them.
func TestCgroupOfFormerVersion(t *testing.T) {
	c := newCgroup(t)
	empty, used := filepath.Join(c.dir, "worker-1"), filepath.Join(c.dir, "worker-2")
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
	if err := moveTo(used, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	o := options(t, echo(nil))
	o.Cgroup = c
	ready(t, supervise(t, o))
	if _, err := os.Stat(empty); err == nil {
		t.Errorf("%s is still there", empty)
	}
	if members := membersOf(used); !slices.Equal(members, []int{cmd.Process.Pid}) {
		t.Errorf("in %s are %v, want %d", used, members, cmd.Process.Pid)
	}
}

// A worker that cannot have a group of its own runs without one.
func TestCgroupThatIsGone(t *testing.T) {
	o := options(t, echo(nil))
	o.Cgroup = &Cgroup{filepath.Join(t.TempDir(), "gone"), instance(t)}
	ready(t, supervise(t, o))
	o = options(t, echo(nil))
	o.Cgroup = &Cgroup{t.TempDir(), instance(t)} // a folder that is no control group: the kernel refuses to start anything in it
	ready(t, supervise(t, o))
}

func TestCgroupDir(t *testing.T) {
	const hybrid = "30 25 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n31 25 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n"
	for _, c := range []struct{ path, mounts, want string }{
		{"/system.slice/stoker.service", "29 23 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", "/sys/fs/cgroup/system.slice/stoker.service"},
		{"/a", hybrid, "/sys/fs/cgroup/unified/a"},
		{"/docker/x/leaf", "29 23 0:25 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "/sys/fs/cgroup/leaf"},
		{"/", "29 23 0:25 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "/sys/fs/cgroup"},
		{"/../other", "29 23 0:25 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n", ""}, // outside what this namespace shows
		{"/other", "29 23 0:25 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup rw\n", ""},
		{"/a", "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\nnonsense\n - cgroup2 x\n", ""},
	} {
		if got := cgroupDir(c.path, c.mounts); got != c.want {
			t.Errorf("%s among %q is %q, want %q", c.path, c.mounts, got, c.want)
		}
	}
}
