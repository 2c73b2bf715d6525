package storage

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stoker/test/rig"
)

// The disk of the state answers with I/O errors: stoker says so and ends, never syncing again what was lost, and goes on
// from what the disk holds once it works.
func stateFails(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, config)
	below := newMemory(t, filepath.Join(t.TempDir(), "disk"), 64)
	image := filepath.Join(below.dir, "image")
	makeImage(t, image, 64)
	v := &volume{t, h.Path(".state")}
	v.mount(image)
	x := input("x", 3000)
	h.Drop(x.Name, x.Content())
	h.Start()
	awaitDone(t, h, "x", 200)
	below.fill() // so that the disk finds no place for blocks that it never wrote
	await(t, h, "the daemon's end", h.Dead)
	if code := h.Daemon.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if log := h.Log(); !strings.Contains(log, "stoker: error: the state cannot be relied on: ") || !strings.Contains(log, "stoker: hint: see dmesg") {
		t.Errorf("it says:\n%s", log)
	}
	below.free()
	if err := unix.Unmount(v.dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	check(t, image)
	v.mount(image)
	h.Start()
	c.endAfter(t, h, 16+2*320, x) // in flight, and not synced for up to a second, or two if a commit was under way
}

// A state folder that is read-only when stoker starts: it says what is wrong and what can be done.
func stateIsReadOnly(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, config)
	v := newVolume(t, h.Path(".state"), 64)
	x := input("x", 3000)
	h.Drop(x.Name, x.Content())
	h.Start()
	awaitDone(t, h, "x", 50)
	h.Kill()
	v.remount(unix.MS_RDONLY)
	h.Start()
	await(t, h, "the daemon's end", h.Dead)
	log := h.Log()
	if code := h.Daemon.ProcessState.ExitCode(); code != 75 {
		t.Errorf("exit code %d, want 75", code)
	}
	for _, want := range []string{"stoker: error: open state " + v.dir + ": the filesystem is read-only\n", "stoker: hint: "} {
		if !strings.Contains(log, want) {
			t.Errorf("it does not say %q:\n%s", want, log)
		}
	}
	v.remount(0)
	h.Start()
	c.endAfter(t, h, 16, x)
}

// A state folder that is full when stoker starts: what is in it goes on as far as it can, and the rest once there is room.
func stateIsFullAtStart(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, config)
	v := newVolume(t, h.Path(".state"), 64)
	x := input("x", 3000)
	h.Drop(x.Name, x.Content())
	h.Start()
	awaitDone(t, h, "x", 50)
	h.Kill()
	v.fill()
	h.Start()
	awaitStorage(t, h, "state", "full")
	v.free()
	c.endAfter(t, h, 16, x)
}

// A state folder that is moved away under a daemon: it ends and says so, rather than to write what nobody finds, and goes on
// where it was once the folder is back.
func stateGoesAway(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, config)
	x := input("x", 1000)
	h.Drop(x.Name, x.Content())
	h.Start()
	awaitDone(t, h, "x", 100)
	if err := os.Rename(h.Path(".state"), h.Path("away")); err != nil {
		t.Fatal(err)
	}
	await(t, h, "the daemon's end", h.Dead)
	if code := h.Daemon.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if log := h.Log(); !strings.Contains(log, h.Path(".state")+" was removed, or something else is in its place\n") || !strings.Contains(log, "stoker: hint: put the state folder back") {
		t.Errorf("it says:\n%s", log)
	}
	if _, err := os.Lstat(h.Path(".state")); err == nil {
		t.Error("it made another one")
	}
	if err := os.Rename(h.Path("away"), h.Path(".state")); err != nil {
		t.Fatal(err)
	}
	h.Start()
	c.endAfter(t, h, 16+2*320, x)
}

// check mends a filesystem that lost writes, as a machine does when it boots.
func check(t testing.TB, image string) {
	t.Helper()
	out, err := exec.Command("fsck.ext4", "-f", "-y", image).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 1) { // 1: errors were corrected
		t.Fatalf("fsck: %v\n%s", err, out)
	}
}
