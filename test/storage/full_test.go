package storage

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"stoker/test/rig"
)

// config is rig's, for shares that are polled often.
const config = `
[inbox]
settle = "100ms"
rescan = "1s"
poll = "200ms"
tail_grace = "500ms"
[log]
level = "debug"
[engine]
kind = "echo"
in_flight = 16
[engine.args]
delay = "50ms"
`

// secondsVar names the environment variable that says for how long a disk stays full.
const secondsVar = "STOKER_FULL_SECONDS"

// notesEvery is after how long NAME.status.txt must tell.
const notesEvery = 35 * time.Second

// fullFor is how long a disk stays full.
func fullFor() time.Duration {
	if n, err := strconv.Atoi(os.Getenv(secondsVar)); err == nil {
		return time.Duration(n) * time.Second
	}
	return 3 * time.Second
}

// storageOf is what status says of a folder; its zero value if all is well.
func storageOf(h *rig.Home, name string) rig.Storage {
	s, _ := rig.Report[rig.Status](h, "status")
	for _, f := range s.Storage {
		if f.Name == name {
			return f
		}
	}
	return rig.Storage{}
}

// awaitStorage waits until status says that something is wrong with a folder, "" for nothing.
func awaitStorage(t testing.TB, h *rig.Home, name, kind string) (f rig.Storage) {
	t.Helper()
	err := h.Await(fmt.Sprintf("status to say that the %s is %q", name, kind), func() bool {
		f = storageOf(h, name)
		return f.Kind == kind
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// done is how many requests of a batch that runs have their result.
func done(h *rig.Home, name string) int {
	s, _ := rig.Report[struct {
		Dispatch struct {
			Running []struct {
				Name              string
				Completed, Failed int
			}
		}
	}](h, "status")
	for _, r := range s.Dispatch.Running {
		if r.Name == name {
			return r.Completed + r.Failed
		}
	}
	return 0
}

func awaitDone(t testing.TB, h *rig.Home, name string, n int) {
	t.Helper()
	if err := h.Await(fmt.Sprintf("%d results", n), func() bool { return done(h, name) >= n }); err != nil {
		t.Fatal(err)
	}
}

// end waits until all has ended, and judges and counts it. Nothing may have run twice.
func (c *counter) end(t testing.TB, h *rig.Home, inputs ...rig.Input) {
	t.Helper()
	c.endAfter(t, h, 0, inputs...)
}

// endAfter is end where so many lines may have run again.
func (c *counter) endAfter(t testing.TB, h *rig.Home, most int64, inputs ...rig.Input) {
	t.Helper()
	if err := h.AwaitIdle(); err != nil {
		t.Fatal(err)
	}
	s, _ := rig.Report[rig.Status](h, "status")
	if len(s.Storage) > 0 {
		t.Errorf("all is well, but status says: %+v", s.Storage)
	}
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	v, err := h.Verify()
	if err != nil {
		t.Error(err)
	}
	if err := h.Judge(inputs...); err != nil {
		t.Error(err)
	}
	if v.Redone > most {
		t.Errorf("%d lines ran again, want at most %d", v.Redone, most)
	}
	c.count(t, h, v.Redone, inputs...)
}

// A state folder that becomes full in mid-batch: nothing more is submitted, what is in flight is kept, the worker stays,
// and all goes on by itself once there is room.
func stateFillsUp(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, config)
	disk := newVolume(t, h.Path(".state"), 64)
	large, small := rig.Input{Name: "large.jsonl", Lines: rig.Good("large", 3000)}, rig.Input{Name: "small.jsonl", Lines: rig.Good("small", 10)}
	h.Drop(large.Name, large.Content())
	h.Start()
	awaitDone(t, h, "large", 100)
	worker := h.Worker()
	disk.fill()
	full := awaitStorage(t, h, "state", "full")
	if full.Path != h.Path(".state") || full.Needed <= 0 || full.Free >= full.Needed || !strings.Contains(full.Reason, "is full") || len(full.Waits) == 0 {
		t.Errorf("status says %+v", full)
	}
	h.Drop(small.Name, small.Content())
	if why := h.AwaitState("waiting", 1); !strings.Contains(why, h.Path(".state")+" is full") {
		t.Errorf("the file that is not taken waits because %q", why)
	}
	if err := h.Await("what is in flight to land", func() bool { return inFlight(h) == 0 }); err != nil {
		t.Fatal(err)
	}
	at := done(h, "large")
	time.Sleep(fullFor())
	if n := done(h, "large"); n != at {
		t.Errorf("%d requests ran on a full disk", n-at)
	}
	if note, err := os.ReadFile(h.Path("outbox/large.status.txt")); fullFor() > notesEvery && (err != nil || !strings.Contains(string(note), "reason: "+h.Path(".state")+" is full")) {
		t.Errorf("the note beside the results says, %v:\n%s", err, note)
	}
	if text, _ := h.Stoker("status"); !strings.Contains(text, "storage  state: "+h.Path(".state")+" is full: about ") {
		t.Errorf("status does not say it:\n%s", text)
	}
	disk.free()
	if err := h.Await("the batch to go on", func() bool { return done(h, "large") > at }); err != nil {
		t.Fatal(err)
	}
	if h.Worker() != worker {
		t.Error("the worker was not kept")
	}
	c.end(t, h, large, small)
}

func inFlight(h *rig.Home) int {
	s, code := rig.Report[rig.Status](h, "status")
	if code != 0 {
		return -1
	}
	return s.Engine.InFlight
}

// A file that the state has no room for stays where its owner put it, until there is.
func noRoomForAFile(t *testing.T, c *counter) {
	h := rig.NewHome(t, rig.Released, strings.Replace(config, "50ms", "0s", 1))
	disk := newVolume(t, h.Path(".state"), 64)
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 20_000)}
	h.Start()
	if err := h.AwaitAnswer(); err != nil {
		t.Fatal(err)
	}
	disk.fill()
	h.Drop(in.Name, in.Content())
	why := h.AwaitState("waiting", 1)
	for !strings.Contains(why, "is full") {
		why = h.AwaitState("waiting", 1)
	}
	if _, err := os.Stat(h.Path("inbox", in.Name)); err != nil {
		t.Errorf("it was taken: %v", err)
	}
	if left := rig.Glob(t, h.Path(".state/batches/*")); len(left) > 0 {
		t.Errorf("half a snapshot was left: %q", left)
	}
	disk.free()
	c.end(t, h, in)
}

// An outbox that is full when results are to be published.
func outboxFillsUp(t *testing.T, c *counter) {
	fillsUp(t, c, "outbox", func(h *rig.Home) {
		time.Sleep(fullFor())
		if left := rig.Glob(t, h.Path("outbox/.stoker*")); len(left) > 0 {
			t.Errorf("half of the results use up what room there is: %q", left)
		}
		v, _ := rig.Report[struct{ State, Reason string }](h, "show", "x")
		if v.State != "finalizing" || !strings.Contains(v.Reason, "is full") {
			t.Errorf("the batch is %+v", v)
		}
	})
}

// An archive, on another filesystem than the inbox, that is full when an input is to be moved there.
func archiveFillsUp(t *testing.T, c *counter) { fillsUp(t, c, "archive", func(*rig.Home) {}) }

// fillsUp runs a batch while a folder has no room for what is to be put there.
func fillsUp(t *testing.T, c *counter, folder string, whileFull func(*rig.Home)) {
	h := rig.NewHome(t, rig.Released, config)
	disk := newVolume(t, h.Path(folder), 16)
	os.Remove(h.Path(folder, "lost+found"))
	x := input("x", 300)
	disk.fill()
	h.Start()
	h.Drop(x.Name, x.Content())
	full := awaitStorage(t, h, folder, "full")
	if full.Path != h.Path(folder) || full.Needed <= 0 || full.Free >= full.Needed || len(full.Waits) != 1 {
		t.Errorf("status says %+v", full)
	}
	whileFull(h)
	disk.free()
	c.end(t, h, x)
}
