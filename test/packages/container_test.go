//go:build packages

package packages

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	deadline = 2 * time.Minute // for what may take long on a busy machine
	look     = 200 * time.Millisecond
)

// cgroup2 is for systemd-nspawn: the containers' control groups are what they are on machines of today, whatever they are here.
const cgroup2 = "UNIFIED_CGROUP_HIERARCHY=1"

// container is a Debian in a folder of its own: what it writes is gone after the test.
type container struct {
	t    *testing.T
	root string
	cmd  *exec.Cmd // systemd-nspawn, once it is booted
	log  string
}

// newContainer lays an empty layer over the root that all of them share.
func newContainer(t *testing.T) *container {
	t.Helper()
	dir := t.TempDir()
	c := &container{t: t, root: filepath.Join(dir, "root"), log: filepath.Join(dir, "console")}
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{c.root, upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	base, err := filepath.Abs(env(t, "STOKER_TEST_ROOT"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("overlay", c.root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", base, upper, work)); err != nil {
		t.Fatalf("mount a layer over %s: %v", base, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(c.root, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return c
}

func env(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("$%s is not set: run `make test-packages`", name)
	}
	return value
}

// boot starts systemd in the container, and waits until it has started everything.
func (c *container) boot() {
	c.t.Helper()
	console, err := os.Create(c.log)
	if err != nil {
		c.t.Fatal(err)
	}
	defer console.Close()
	c.cmd = exec.Command("systemd-nspawn", "--quiet", "--directory="+c.root, "--register=no", "--keep-unit", "--console=pipe", "--boot")
	c.cmd.Env = append(os.Environ(), cgroup2)
	c.cmd.Stdout, c.cmd.Stderr = console, console
	c.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: c.makeCgroup()}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(c.kill)
	c.await("the system to be up", func() bool {
		out, _ := c.try("systemctl is-system-running")
		return strings.Contains(out, "running")
	})
}

// reboot lets the container shut down in good order, and boots it again.
func (c *container) reboot() {
	c.t.Helper()
	c.run("systemctl --no-block reboot")
	c.cmd.Wait() // with the status by which it asks for that
	c.boot()
}

// makeCgroup makes a control group for the container, so that two at a time do not share theirs, and returns it opened.
func (c *container) makeCgroup() int {
	c.t.Helper()
	mount, err := exec.Command("findmnt", "--noheadings", "--first-only", "--types", "cgroup2", "--output", "TARGET").Output()
	if err != nil {
		c.t.Fatalf("find cgroup2: %v", err)
	}
	dir, err := os.MkdirTemp(strings.TrimSpace(string(mount)), "stoker-test-")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { removeCgroup(c.t, dir) })
	f, err := os.Open(dir)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

// removeCgroup removes a control group with those below it, once their processes are gone.
func removeCgroup(t *testing.T, dir string) {
	var dirs []string
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, d := range slices.Backward(dirs) {
		if err := syscall.Rmdir(d); err != nil {
			t.Errorf("remove %s: %v", d, err)
		}
	}
}

// kill ends the container with all that runs in it: its first process takes the others along.
func (c *container) kill() {
	if c.t.Failed() {
		out, _ := c.try("systemctl status --no-pager --full stoker; journalctl --no-pager -n 40")
		c.t.Logf("journal:\n%s", out)
	}
	if pid := c.leader(); pid != 0 {
		syscall.Kill(pid, syscall.SIGKILL)
	} else {
		c.cmd.Process.Kill()
	}
	c.cmd.Wait()
}

// leader is the container's first process; 0 while there is none.
func (c *container) leader() int {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", c.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(children)), " ")
	pid, _ := strconv.Atoi(first)
	return pid
}

// try runs a shell's script in the container, also in one that is not booted.
func (c *container) try(script string) (string, error) {
	args := []string{"systemd-nspawn", "--quiet", "--directory=" + c.root, "--register=no", "--keep-unit", "--console=pipe", "--as-pid2"}
	if c.cmd != nil {
		leader := c.leader()
		if leader == 0 {
			return "", fmt.Errorf("the container is down")
		}
		args = []string{"nsenter", "--target", strconv.Itoa(leader), "--all", "--"}
	}
	args = append(args, "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive", "sh", "-c", script)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), cgroup2)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is try for what must succeed.
func (c *container) run(script string) string {
	c.t.Helper()
	out, err := c.try(script)
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(out)
}

// fails runs what must end with a code, and returns what it said.
func (c *container) fails(code int, script string) string {
	c.t.Helper()
	out, err := c.try(script)
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != code {
		c.t.Errorf("%s: %v, want exit status %d\n%s", script, err, code, out)
	}
	return out
}

// says runs what must succeed and say all of these.
func (c *container) says(script string, want ...string) {
	c.t.Helper()
	out := c.run(script)
	for _, w := range want {
		if !strings.Contains(out, w) {
			c.t.Errorf("%s: does not say %q:\n%s", script, w, out)
		}
	}
}

func (c *container) await(what string, so func() bool) {
	c.t.Helper()
	for end := time.Now().Add(deadline); !so(); time.Sleep(look) {
		if time.Now().After(end) {
			console, _ := os.ReadFile(c.log)
			c.t.Fatalf("waited %s for %s\n%s", deadline, what, console)
		}
	}
}

// awaitFile waits for a file in the container.
func (c *container) awaitFile(path string) {
	c.t.Helper()
	c.await(path, func() bool {
		_, err := os.Stat(filepath.Join(c.root, path))
		return err == nil
	})
}

func (c *container) exists(paths ...string) {
	c.t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(filepath.Join(c.root, path)); err != nil {
			c.t.Errorf("%v, but it must be there", err)
		}
	}
}

func (c *container) gone(paths ...string) {
	c.t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(filepath.Join(c.root, path)); err == nil {
			c.t.Errorf("%s must be gone", path)
		}
	}
}

// read returns a file of the container.
func (c *container) read(path string) string {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.root, path))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// copyIn puts a file of the machine into the container.
func (c *container) copyIn(from, to string, perm os.FileMode) {
	c.t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(to, string(b), perm)
}

// write replaces a file, also one that a program runs from.
func (c *container) write(path, text string, perm os.FileMode) {
	c.t.Helper()
	path = filepath.Join(c.root, path)
	if err := os.WriteFile(path+".new", []byte(text), perm); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		c.t.Fatal(err)
	}
}
