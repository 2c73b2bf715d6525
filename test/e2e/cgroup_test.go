package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stoker/test/rig"
)

// delegated makes a control group and has the home's daemon started in it. Mark is what systemd sets on those that it
// delegates.
func delegated(t *testing.T, h *rig.Home, mark string) (path string) {
	t.Helper()
	mount := t.TempDir()
	if err := unix.Mount("cgroup2", mount, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	path = fmt.Sprintf("/stoker-test-%d-%s", os.Getpid(), filepath.Base(h.Dir))
	dir := mount + path
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Kill()
		os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
		if err := h.Await("the control group to be empty", func() bool {
			leaves, _ := filepath.Glob(filepath.Join(dir, "*/cgroup.procs"))
			for _, leaf := range leaves {
				os.Remove(filepath.Dir(leaf))
			}
			return os.Remove(dir) == nil
		}); err != nil {
			t.Error(err)
		}
		unix.Unmount(mount, unix.MNT_DETACH)
	})
	if mark != "" {
		if err := unix.Setxattr(dir, mark, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	h.Under = []string{"sh", "-c", `echo $$ > "$0" && exec "$@"`, filepath.Join(dir, "cgroup.procs")}
	return path
}

// groupOf is the control group of a process.
func groupOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path
		}
	}
	t.Fatalf("process %d is in no group: %s", pid, b)
	return ""
}

// In a control group of its own stoker and its workers have a leaf each, and nothing that a worker starts outlives it.
func TestDelegatedControlGroup(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mark  string
		under []string
	}{
		"systemd 252": {mark: "user.delegate"}, "older": {mark: "trusted.delegate"},
		"filtered": {"user.delegate", []string{os.Args[0], withoutClone3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newBreeder(t, rig.Released)
			script, err := os.ReadFile(h.Path("python"))
			if err != nil {
				t.Fatal(err)
			}
			child := h.Path("child.pid")
			h.Write("python", strings.Replace(string(script), "setsid sleep 1000", "setsid env -i sh -c 'echo $$ > "+child+"; exec sleep 1000'", 1))
			path := delegated(t, h, c.mark)
			h.Under = append(c.under, h.Under...)
			h.Start()
			in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 5)}
			h.Drop(in.Name, in.Content())
			if err := awaitWorker(h, 0); err != nil {
				t.Fatal(err)
			}
			first := enginePID(h)
			if got := groupOf(t, h.Daemon.Process.Pid); got != path+"/daemon" {
				t.Errorf("the daemon is in %s, want it in a leaf of %s", got, path)
			}
			leaf := path + "/worker-" + instanceOf(h) + "-1"
			if got := groupOf(t, first); got != leaf {
				t.Errorf("the worker is in %s, want it in %s", got, leaf)
			}
			hidden := readPID(t, h, child, 0)
			if got := groupOf(t, hidden); got != leaf {
				t.Errorf("the worker's child is in %s", got)
			}
			syscall.Kill(first, syscall.SIGKILL)
			if err := awaitWorker(h, first); err != nil {
				t.Fatal(err)
			}
			if alive(hidden) {
				t.Errorf("child %d outlives the worker", hidden)
			}
			second := readPID(t, h, child, hidden)
			if err := killAlone(h); err != nil {
				t.Fatal(err)
			}
			h.Start()
			if err := awaitWorker(h, 0); err != nil {
				t.Fatal(err)
			}
			if alive(second) {
				t.Errorf("child %d of a former life is alive", second)
			}
			if err := h.End(in); err != nil {
				t.Error(err)
			}
		})
	}
}

// instanceOf is a daemon's instance.
func instanceOf(h *rig.Home) string {
	s, _ := rig.Report[rig.Status](h, "status")
	return s.Instance
}

// Two stokers in one control group run side by side: the start and the end of one leave the other's worker alone.
func TestTwoInOneControlGroup(t *testing.T) {
	t.Parallel()
	a, b := newBreeder(t, rig.Released), rig.NewHome(t, rig.Released, rig.Config)
	path := delegated(t, a, "user.delegate")
	b.Under = a.Under
	a.Start()
	if err := awaitWorker(a, 0); err != nil {
		t.Fatal(err)
	}
	first := enginePID(a)
	b.Start()
	if err := awaitWorker(b, 0); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*rig.Home{a, b} {
		if got, want := groupOf(t, enginePID(h)), path+"/worker-"+instanceOf(h)+"-1"; got != want {
			t.Errorf("a worker is in %s, want it in %s", got, want)
		}
	}
	if err := b.End(); err != nil {
		t.Error(err)
	}
	if err := oneEngine(a); err != nil || enginePID(a) != first {
		t.Errorf("after the other's life: worker %d, want %d; %v", enginePID(a), first, err)
	}
	if err := a.End(); err != nil {
		t.Error(err)
	}
}

// In a control group that is not its own stoker changes nothing.
func TestForeignControlGroup(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, rig.Config)
	path := delegated(t, h, "")
	h.Start()
	if err := awaitWorker(h, 0); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{h.Daemon.Process.Pid, enginePID(h)} {
		if got := groupOf(t, pid); got != path {
			t.Errorf("process %d is in %s, want it in %s", pid, got, path)
		}
	}
	if err := h.End(); err != nil {
		t.Error(err)
	}
}

// readPID waits for a pid in a file that is not the former one.
func readPID(t *testing.T, h *rig.Home, file string, former int) (pid int) {
	t.Helper()
	if err := h.Await("a pid", func() bool {
		b, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid > 0 && pid != former
	}); err != nil {
		t.Fatal(err)
	}
	return pid
}

func alive(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
