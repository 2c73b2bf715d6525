package storage

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/test/rig"
)

// answersAtOnce is how long status may take while a share hangs: far less than what any part of stoker waits for one.
const answersAtOnce = 3 * time.Second

// hangs lets a share hang until status says so. Status must go on answering.
func hangs(t testing.TB, h *rig.Home, s *share, name string) {
	t.Helper()
	s.hang()
	began := time.Now()
	f := awaitStorage(t, h, name, "silent")
	if f.Path != s.dir || !strings.Contains(f.Reason, "has not answered since "+began.Format("2006-01-02 15:04")[:13]) {
		t.Errorf("status says %+v", f)
	}
	for range 5 {
		began := time.Now()
		if out, code := h.Stoker("status"); code != 0 || time.Since(began) > answersAtOnce {
			t.Errorf("status took %s and left with %d:\n%s", time.Since(began), code, out)
		}
	}
}

// few is how many operations may hang at a time: those that came before the first one was late.
const few = 4

// resumes ends the hanging, and checks that callers did not pile up.
func resumes(t testing.TB, s *share) {
	t.Helper()
	if hang := s.hanging(); len(hang) > few {
		t.Errorf("%d operations hang: %q", len(hang), hang)
	}
	s.resume()
}

// arrived reports whether a file has become results.
func arrived(h *rig.Home, name string) bool {
	_, err := os.Stat(h.Path("outbox", strings.TrimSuffix(name, ".jsonl")+".batch.json"))
	return err == nil
}

func await(t testing.TB, h *rig.Home, what string, so func() bool) {
	t.Helper()
	if err := h.Await(what, so); err != nil {
		t.Fatal(err)
	}
}

func input(name string, lines int) rig.Input {
	return rig.Input{Name: name + ".jsonl", Lines: rig.Good(name, lines)}
}

// An inbox that hangs: the batches that are in the state go on and are published.
func inboxHangs(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, config)
	s := newShare(t, h.Path("inbox"))
	x, y := input("x", 3000), input("y", 10)
	h.Drop(x.Name, x.Content())
	h.Start()
	awaitDone(t, h, "x", 50)
	hangs(t, h, s, "inbox")
	await(t, h, "results of the batch that runs", func() bool { return arrived(h, x.Name) })
	time.Sleep(fullFor())
	resumes(t, s)
	h.Drop(y.Name, y.Content())
	c.end(t, h, x, y)
}

// An outbox that hangs: files are taken and batches run, and wait to be published.
func outboxHangs(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, config)
	s := newShare(t, h.Path("outbox"))
	x, y, z := input("x", 3000), input("y", 20), input("z", 20)
	h.Drop(x.Name, x.Content())
	h.Start()
	awaitDone(t, h, "x", 50)
	s.hang()
	h.Drop(y.Name, y.Content())
	f := awaitStorage(t, h, "outbox", "silent")
	h.Drop(z.Name, z.Content())
	await(t, h, "all batches to be done, to be published", func() bool {
		v, _ := rig.Report[struct{ Outbox struct{ Queue int } }](h, "status")
		f = storageOf(h, "outbox")
		return v.Outbox.Queue == 3
	})
	if !slices.Contains(f.Waits, "3 batches to be published") {
		t.Errorf("status says %+v", f)
	}
	resumes(t, s)
	c.end(t, h, x, y, z)
}

// An archive that hangs: files are taken, batches run and are published.
func archiveHangs(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, config)
	s := newShare(t, h.Path("archive"))
	x, y := input("x", 20), input("y", 20)
	h.Start()
	s.hang()
	h.Drop(x.Name, x.Content())
	f := awaitStorage(t, h, "archive", "silent")
	if !slices.Contains(f.Waits, "1 input to be archived") {
		t.Errorf("status says %+v", f)
	}
	h.Drop(y.Name, y.Content())
	await(t, h, "results", func() bool { return arrived(h, x.Name) && arrived(h, y.Name) })
	resumes(t, s)
	c.end(t, h, x, y)
}

// Shares that hang when stoker starts and when it stops: it does both all the same.
func startsAndStopsWhileSharesHang(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, config)
	in, out := newShare(t, h.Path("inbox")), newShare(t, h.Path("outbox"))
	x := input("x", 3000)
	h.Drop(x.Name, x.Content())
	h.Start()
	awaitDone(t, h, "x", 50)
	h.Kill()
	in.hang()
	out.hang()
	h.Start()
	await(t, h, "the batch to go on", func() bool { return done(h, "x") > 50 })
	h.Daemon.Process.Signal(syscall.SIGTERM)
	await(t, h, "the daemon to have stopped", func() bool { return strings.Contains(h.Log(), "stopped") })
	resumes(t, in) // the kernel lets a process go only once FUSE has answered
	resumes(t, out)
	await(t, h, "the daemon's end", h.Dead)
	h.Start()
	c.endAfter(t, h, 2*16, x)
}

// A share that is unmounted under stoker, and comes back, where inbox.require_mount is set: nothing is taken from, and
// nothing written to, the folder below.
func sharesAreUnmounted(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, strings.Replace(config, "[inbox]", "[inbox]\nrequire_mount = true", 1))
	in, out := newShare(t, h.Path("inbox")), newShare(t, h.Path("outbox"))
	x, y := input("x", 3000), input("y", 20)
	h.Drop(x.Name, x.Content())
	h.Start()
	awaitDone(t, h, "x", 50)
	in.unmount()
	out.unmount()
	h.Drop(y.Name, y.Content()) // below the mount point
	f := awaitStorage(t, h, "inbox", "unmounted")
	if !strings.Contains(f.Reason, "is not mounted") {
		t.Errorf("status says %+v", f)
	}
	awaitStorage(t, h, "outbox", "unmounted") // seen when a note is to be written, too
	await(t, h, "the batch to wait for the outbox", func() bool { return slices.Contains(storageOf(h, "outbox").Waits, "1 batch to be published") })
	time.Sleep(fullFor())
	if below := append(rig.Glob(t, h.Path("outbox/*")), rig.Glob(t, h.Path("inbox/.*"))...); len(below) > 0 {
		t.Errorf("below the mount points lie %q", below)
	}
	if _, err := os.Stat(h.Path("inbox", y.Name)); err != nil {
		t.Errorf("a file below the mount point was taken: %v", err)
	}
	if err := os.Remove(h.Path("inbox", y.Name)); err != nil {
		t.Error(err)
	}
	in.mount()
	out.mount()
	h.Drop(y.Name, y.Content())
	c.end(t, h, x, y)
}

// An inbox that is mounted only after stoker has started: its mount point is not made, and not used.
func inboxIsMountedLate(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, strings.Replace(config, "[inbox]", "[inbox]\nrequire_mount = true", 1))
	x := input("x", 20)
	if err := os.Remove(h.Path("inbox")); err != nil {
		t.Fatal(err)
	}
	h.Start()
	awaitStorage(t, h, "inbox", "unmounted")
	if _, err := os.Stat(h.Path("inbox")); err == nil {
		t.Error("the inbox was made where nothing is mounted")
	}
	newShare(t, h.Path("inbox"))
	h.Drop(x.Name, x.Content())
	c.end(t, h, x)
}

// Without require_mount an inbox that goes away is waited for all the same, with what is claimed in it.
func inboxGoesAway(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, config)
	s := newShare(t, h.Path("inbox"))
	x, y := input("x", 3000), input("y", 20)
	h.Drop(x.Name, x.Content())
	h.Start()
	awaitDone(t, h, "x", 50)
	s.unmount()
	await(t, h, "results of the batch that runs", func() bool { return arrived(h, x.Name) })
	s.mount()
	h.Drop(y.Name, y.Content())
	c.end(t, h, x, y)
}

// An outbox that becomes read-only, and writable again.
func outboxIsReadOnly(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, config)
	disk := newVolume(t, h.Path("outbox"), 16)
	os.Remove(h.Path("outbox/lost+found"))
	x := input("x", 20)
	h.Start()
	disk.remount(unix.MS_RDONLY)
	h.Drop(x.Name, x.Content())
	f := awaitStorage(t, h, "outbox", "failing")
	if !strings.Contains(f.Reason, unix.EROFS.Error()) {
		t.Errorf("status says %+v", f)
	}
	time.Sleep(fullFor())
	disk.remount(0)
	c.end(t, h, x)
}

// A share whose operations fail, each with what shares answer: it is tried again with new files until it works.
func shareFails(folder string, errno syscall.Errno, ops ...op) func(*testing.T, *counter) {
	return func(t *testing.T, c *counter) {
		h := rig.NewHome(t, rig.Released, config)
		s := newShare(t, h.Path(folder))
		x, y := input("x", 20), input("y", 20)
		h.Start()
		if err := h.AwaitAnswer(); err != nil {
			t.Fatal(err)
		}
		if folder == "inbox" {
			h.Drop(x.Name, x.Content()) // through the share, which is not to refuse it
		}
		s.fail(failing(errno, ops...))
		if folder != "inbox" {
			h.Drop(x.Name, x.Content())
		}
		f := awaitStorage(t, h, folder, "failing")
		if !strings.Contains(f.Reason, errno.Error()) {
			t.Errorf("status says %+v", f)
		}
		s.fail(nil)
		h.Drop(y.Name, y.Content())
		c.end(t, h, x, y)
	}
}
