package storage

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stoker/test/rig"
)

// watchdog is what systemd allows between two signs of life, for tests; away is how long storage does not answer.
const (
	watchdog = 2 * time.Second
	away     = 10 * watchdog
)

// fed checks that a service is taken for alive all the while that its storage is away.
func fed(t testing.TB, h *rig.Home, m *rig.Manager) {
	t.Helper()
	m.Forget()
	m.Await(h, "WATCHDOG=1", int(4*away/watchdog)) // which takes that long
	if n := m.Count("STATUS=hangs"); n > 0 {
		t.Errorf("it is told to hang: %q", m.Told())
	}
}

// watchdogWaitsForShares: inbox, outbox and archive do not answer, for as long as ten watchdogs have patience.
func watchdogWaitsForShares(t *testing.T, c *counter) {
	h, m := rig.NewHome(t, rig.Released, config), rig.NewManager(t)
	shares := []*share{newShare(t, h.Path("inbox")), newShare(t, h.Path("outbox")), newShare(t, h.Path("archive"))}
	x, y := input("x", 3000), input("y", 10)
	h.Drop(x.Name, x.Content())
	h.Start(m.Environ(watchdog)...)
	m.Await(h, "READY=1", 1)
	awaitDone(t, h, "x", 50)
	for _, s := range shares {
		s.hang()
	}
	await(t, h, "the silence to be noticed", func() bool { return storageOf(h, "inbox").Kind == "silent" })
	fed(t, h, m)
	if told := m.Told(); !strings.Contains(strings.Join(told, "\n"), "has not answered since") {
		t.Errorf("told %q", told)
	}
	for _, s := range shares {
		s.resume()
	}
	h.Drop(y.Name, y.Content())
	c.end(t, h, x, y)
}

// readyWhileTheInboxHangs: a service whose inbox does not answer is up, and does what can be done.
func readyWhileTheInboxHangs(t *testing.T, c *counter) {
	h, m := rig.NewHome(t, rig.Released, config), rig.NewManager(t)
	s := newShare(t, h.Path("inbox"))
	x := input("x", 20)
	h.Drop(x.Name, x.Content())
	s.hang()
	h.Start(m.Environ(watchdog)...)
	m.Await(h, "READY=1", 1)
	fed(t, h, m)
	s.resume()
	c.end(t, h, x)
}

// watchdogWaitsForTheState: a sync of the state takes as long as ten watchdogs have patience.
func watchdogWaitsForTheState(t *testing.T, c *counter) {
	h, m := rig.NewHome(t, rig.Released, config), rig.NewManager(t)
	s := newShare(t, filepath.Join(t.TempDir(), "disk"))
	image := s.path("image")
	makeImage(t, image, 64)
	(&volume{t, h.Path(".state")}).mount(image)
	x, y := input("x", 3000), input("y", 10)
	h.Drop(x.Name, x.Content())
	h.Start(m.Environ(watchdog)...)
	m.Await(h, "READY=1", 1)
	awaitDone(t, h, "x", 50)
	s.hang()
	fed(t, h, m)
	s.resume()
	h.Drop(y.Name, y.Content())
	c.end(t, h, x, y)
}
