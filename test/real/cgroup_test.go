//go:build real

package real

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// memoryGroup is a control group with little memory: what a container gives to those who run in it.
type memoryGroup struct {
	t     testing.TB
	root  string // where groups of this hierarchy lie
	dir   string
	limit string // the file that holds the limit
}

// newMemoryGroup makes a group, of version 2 of control groups or of version 1, for which it needs root.
func newMemoryGroup(t testing.TB, limit int64) *memoryGroup {
	t.Helper()
	g := &memoryGroup{t: t, root: "/sys/fs/cgroup/memory", limit: "memory.limit_in_bytes"}
	if _, err := os.Stat(g.root); errors.Is(err, fs.ErrNotExist) {
		g.root, g.limit = "/sys/fs/cgroup", "memory.max"
		g.write(filepath.Join(g.root, "cgroup.subtree_control"), "+memory")
	}
	g.dir = filepath.Join(g.root, fmt.Sprintf("stoker-test-%d", os.Getpid()))
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A group whose processes have just gone is busy for a moment.
		for end := time.Now().Add(10 * time.Second); os.Remove(g.dir) != nil; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("cannot remove %s", g.dir)
				return
			}
		}
	})
	g.write(filepath.Join(g.dir, g.limit), fmt.Sprint(limit))
	return g
}

func (g *memoryGroup) write(file, text string) {
	g.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// enclose makes a command run in the group, which it sees, as in a container, as the only one.
func (g *memoryGroup) enclose(cmd *exec.Cmd) *exec.Cmd {
	script := `echo $$ > "$1/cgroup.procs" && mount --bind "$1" "$2" && shift 2 && exec "$@"`
	args := append([]string{"--mount", "sh", "-c", script, "sh", g.dir, g.root}, cmd.Args...)
	in := exec.Command("unshare", args...)
	in.Env, in.SysProcAttr = cmd.Env, cmd.SysProcAttr
	return in
}

// hog takes memory of the group, and is the last whom the kernel kills for it. It ends when it is told to.
func (g *memoryGroup) hog(bytes int64) (free func()) {
	g.t.Helper()
	script := fmt.Sprintf(`import time
open("/proc/self/oom_score_adj", "w").write("-1000")
b = b"x" * %d
time.sleep(3600)`, bytes)
	cmd := exec.Command("python3", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd = g.enclose(cmd)
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	freed := false
	free = func() {
		if !freed {
			freed = true
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	g.t.Cleanup(free)
	return free
}
