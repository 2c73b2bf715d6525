//go:build packages

package packages

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	deadline = 2 * time.Minute // for what may take long on a busy machine
	look     = 200 * time.Millisecond
)

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
	c.cmd.Env = append(os.Environ(), "UNIFIED_CGROUP_HIERARCHY=1") // the container's kernel interface, whatever the host's is
	c.cmd.Stdout, c.cmd.Stderr = console, console
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if c.t.Failed() {
			out, _ := c.try("systemctl status --no-pager --full stoker; journalctl --no-pager -n 40")
			c.t.Logf("journal:\n%s", out)
		}
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	c.await("the system to be up", func() bool {
		out, _ := c.try("systemctl is-system-running")
		return strings.Contains(out, "running")
	})
}

// leader is the container's first process; 0 while there is none.
func (c *container) leader() string {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", c.cmd.Process.Pid))
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(children)), " ")
	return first
}

// try runs a shell's script in the container.
func (c *container) try(script string) (string, error) {
	args := []string{"chroot", c.root}
	if c.cmd != nil {
		leader := c.leader()
		if leader == "" {
			return "", fmt.Errorf("the container is down")
		}
		args = []string{"nsenter", "--target", leader, "--all", "--"}
	}
	args = append(args, "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive", "sh", "-c", script)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
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
