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

// TestReplicasOfOneGPU kills replicas that share a GPU, and stoker, while one of them loads and another waits for it: never do
// two load at a time, whoever waits gets its turn, and a stop waits for nobody.
func TestReplicasOfOneGPU(t *testing.T) {
	t.Parallel()
	began := time.Now()
	h := rig.NewHome(t, rig.Released, "[inbox]\nsettle = \"100ms\"\n[engine]\nkind = \"echo\"\nreplicas = 3\nin_flight = 16\n"+
		"[engine.args]\ndelay = \"20ms\"\nload_delay = \"3s\"\n[engine.env]\nCUDA_VISIBLE_DEVICES = \"0\"\n")
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 20000)}
	h.Start()
	h.Drop(in.Name, in.Content())
	_, loading := awaitTurns(t, h, turns{ready: 1, loading: 1, waiting: 1})
	if text, _ := h.Stoker("status"); !strings.Contains(text, "waiting for replica ") {
		t.Errorf("status says %s", text)
	}
	if err := h.Await("a replica at work", func() bool { return atWork(h) > 0 }); err != nil {
		t.Error(err)
	}
	syscall.Kill(loading, syscall.SIGKILL)
	s, _ := awaitTurns(t, h, turns{ready: 3})
	for _, r := range s.Engine.Replicas[:2] {
		syscall.Kill(r.PID, syscall.SIGKILL)
	}
	awaitTurns(t, h, turns{ready: 1, loading: 1, waiting: 1})
	if err := killAlone(h); err != nil {
		t.Error(err)
	}
	h.Start()
	awaitTurns(t, h, turns{loading: 1, waiting: 2})
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	h.Start()
	err := h.End(in)
	tally, err2 := h.Tally(in)
	if err := errors.Join(err, err2); err != nil {
		t.Error(err)
	}
	v, _ := h.Verify()
	figures.Report(t, figures.Figures{
		Suite: "kills of replicas that share a GPU, and of stoker, while they load in turn", Count: 4, Lost: tally.Lost, Doubled: tally.Doubled,
		Redone: int(v.Redone), Seconds: int(time.Since(began).Seconds()),
	})
}

// turns is how many replicas of one GPU are ready, load, and wait for the one that does.
type turns struct{ ready, loading, waiting int }

// awaitTurns waits until the replicas are so far, and watches that no two load at a time. It returns the process of the one that loads.
func awaitTurns(t *testing.T, h *rig.Home, want turns) (s rig.Status, loading int) {
	t.Helper()
	err := h.Await(fmt.Sprintf("replicas %+v", want), func() bool {
		var now turns
		s, _ = rig.Report[rig.Status](h, "status")
		for _, r := range s.Engine.Replicas {
			switch {
			case r.State == "ready":
				now.ready++
			case r.State == "loading":
				now.loading++
				loading = r.PID
			case r.Phase == "waiting":
				now.waiting++
			}
		}
		if now.loading > 1 {
			t.Fatalf("%d replicas of one GPU load at a time: %+v", now.loading, s.Engine.Replicas)
		}
		return now == want
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, loading
}
