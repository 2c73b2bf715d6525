package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// TestReplicas kills one replica after another in the middle of a batch, then the daemon, which starts again with fewer: each
// death costs what that replica held, and nothing of any outlives the next start.
func TestReplicas(t *testing.T) {
	t.Parallel()
	began := time.Now()
	const settings = "[inbox]\nsettle = \"100ms\"\n[engine]\nkind = \"echo\"\nreplicas = %d\nin_flight = 16\n[engine.args]\ndelay = \"20ms\"\n"
	h := rig.NewHome(t, rig.Released, fmt.Sprintf(settings, 3))
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 12000)}
	h.Start()
	h.Drop(in.Name, in.Content())
	for i := range 3 {
		if err := h.Await("all replicas at work", func() bool { return atWork(h) == 3 }); err != nil {
			t.Fatal(err)
		}
		s, _ := rig.Report[rig.Status](h, "status")
		syscall.Kill(s.Engine.Replicas[i].PID, syscall.SIGKILL)
		if err := h.Await("another worker", func() bool {
			now, _ := rig.Report[rig.Status](h, "status")
			return now.Engine.Replicas[i].Restarts > s.Engine.Replicas[i].Restarts
		}); err != nil {
			t.Fatal(err)
		}
	}
	if text, _ := h.Stoker("status"); !strings.Contains(text, "of 3 replicas ready") {
		t.Errorf("status says %s", text)
	}
	s, _ := rig.Report[rig.Status](h, "status")
	if redone := s.Dispatch.Totals.Redone; redone > 3*16 {
		t.Errorf("%d requests ran again after the deaths of three workers that held at most 16 each", redone)
	}
	if err := killAlone(h); err != nil {
		t.Error(err)
	}
	h.Write("config.toml", fmt.Sprintf(settings, 1))
	h.Start()
	err := h.End(in)
	tally, err2 := h.Tally(in)
	if err := errors.Join(err, err2); err != nil {
		t.Error(err)
	}
	figures.Report(t, figures.Figures{
		Suite: "kills of single replicas, and of stoker with three of them", Count: 4, Lost: tally.Lost, Doubled: tally.Doubled,
		Redone: s.Dispatch.Totals.Redone, Seconds: int(time.Since(began).Seconds()),
	})
}

// atWork is how many replicas hold requests.
func atWork(h *rig.Home) (n int) {
	s, _ := rig.Report[rig.Status](h, "status")
	for _, r := range s.Engine.Replicas {
		if r.State == "ready" && r.InFlight > 0 {
			n++
		}
	}
	return n
}
