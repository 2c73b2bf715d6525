package processes

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

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// marks are a test's own, so that tests do not kill each other's processes.
func marks(t *testing.T) Marks {
	return Marks{Instance: fmt.Sprintf("test-%d-%s", os.Getpid(), t.Name()), Dir: t.TempDir()}
}

// launch starts a worker, and returns the pid that it writes, of itself or of something that it started.
func (m Marks) launch(t *testing.T, body string) (worker *Child, child int) {
	t.Helper()
	pidFile := filepath.Join(t.TempDir(), "pid")
	worker, err := m.Start(exec.Command("/bin/sh", "-c", strings.ReplaceAll(body, "PIDFILE", pidFile)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := worker.Tree().Kill(); err != nil {
			t.Error(err)
		}
		worker.Bury()
		worker.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		b, _ := os.ReadFile(pidFile)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return worker, pid
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody wrote a pid into %s", pidFile)
		}
	}
}

func leftovers(t *testing.T, m Marks, current Tree) []Process {
	t.Helper()
	left, err := m.Leftovers(current)
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// namelessChild has what vLLM's EngineCore is: no token in its environment.
const namelessChild = `env -i /bin/sh -c 'trap "" TERM; echo $$ > PIDFILE.tmp; mv PIDFILE.tmp PIDFILE; while :; do sleep 0.1; done' & wait`

// crash is the death of a worker alone, as if it crashed together with the daemon.
func crash(worker *Child) {
	unix.Kill(worker.PID(), unix.SIGKILL)
	<-worker.Exited()
}

// What a former life left behind is swept, whether its token or only its group gives it away.
func TestSweep(t *testing.T) {
	for name, body := range map[string]string{"token": `echo $$ > PIDFILE; sleep 1000`, "group": namelessChild} {
		t.Run(name, func(t *testing.T) {
			m := marks(t)
			worker, child := m.launch(t, body)
			if name == "group" {
				if err := m.RecordGroup(worker.PID()); err != nil {
					t.Fatal(err)
				}
				crash(worker)
			}
			if n, err := m.Sweep(); err != nil || n == 0 {
				t.Errorf("swept %d processes: %v", n, err)
			}
			if left, err := living(func(p Stat) bool { return p.PID == child }); len(left) > 0 || err != nil {
				t.Errorf("process %d is alive: %v", child, err)
			}
			if left := leftovers(t, m, Tree{}); len(left) > 0 {
				t.Errorf("processes %v are alive", left)
			}
			if n, err := m.Sweep(); err != nil || n != 0 {
				t.Errorf("swept %d processes of none: %v", n, err)
			}
		})
	}
}

// A former worker's processes are told from the current one's, also those that only their group gives away, and also
// after the current group was recorded.
func TestLeftovers(t *testing.T) {
	m := marks(t)
	former, orphan := m.launch(t, namelessChild)
	if err := m.RecordGroup(former.PID()); err != nil {
		t.Fatal(err)
	}
	crash(former)
	current, child := m.launch(t, namelessChild)
	if err := m.RecordGroup(current.PID()); err != nil {
		t.Fatal(err)
	}
	has := func(list []Process, pid int) bool {
		return slices.ContainsFunc(list, func(p Process) bool { return p.PID == pid && strings.Contains(p.Command, "/bin/sh") })
	}
	left := leftovers(t, m, current.Tree())
	if !has(left, orphan) || has(left, child) || has(left, current.PID()) {
		t.Errorf("left over are %v; want %d of the former worker, and neither %d nor %d of this one", left, orphan, current.PID(), child)
	}
	if err := former.Tree().Kill(); err != nil {
		t.Error(err)
	}
	if left := leftovers(t, m, current.Tree()); len(left) > 0 {
		t.Errorf("left over are %v, want none", left)
	}
	if left := leftovers(t, m, Tree{}); !has(left, child) {
		t.Errorf("without a current worker %v are left over, want %d among them", left, child)
	}
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

func TestParseStat(t *testing.T) {
	stat := "4711 (a) b (c) S 1 4700 4700 0 -1 4194304 100 0 0 0 250 50 7 9 20 0 1 0 100 1000 10"
	want := Stat{PID: 4711, Group: 4700, CPU: 3 * time.Second, state: 'S'}
	if got, ok := parseStat(4711, []byte(stat)); got != want || !ok {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
	for _, bad := range []string{"", "1 (x)", "1 (x) S 1 a 1 1 1 1 1 1 1 1 1 1 1", "1 (x) S 1 2 3"} {
		if _, ok := parseStat(1, []byte(bad)); ok {
			t.Errorf("%q was read", bad)
		}
	}
}
