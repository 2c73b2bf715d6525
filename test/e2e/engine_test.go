package e2e

import (
	"fmt"
	"math"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// TestPoison proves that a request which kills the engine costs itself alone, after few restarts.
func TestPoison(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, rig.Config+"crash_on = \"poison\"\n")
	poison := rig.Line{Raw: `{"custom_id":"p","prompt":"drink this poison"}`, ID: "p", Code: "engine_crashed"}
	inputs := []rig.Input{
		{Name: "before.jsonl", Lines: rig.Good("before", 100)},
		{Name: "poisoned.jsonl", Lines: slices.Concat(rig.Good("x", 350), []rig.Line{poison}, rig.Good("y", 150))},
	}
	for _, in := range inputs {
		h.Drop(in.Name, in.Content())
	}
	h.Start()
	began := time.Now()
	if err := h.AwaitIdle(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(h.Output)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := rig.ReadIsolation(log)
	if err != nil {
		t.Error(err)
	}
	s, _ := rig.Report[rig.Status](h, "status")
	bound := int(math.Ceil(math.Log2(inFlight))) + 3
	if s.Engine.Restarts > bound || s.Engine.Restarts == 0 {
		t.Errorf("%d restarts, want at least one and at most %d", s.Engine.Restarts, bound)
	}
	if seen.Answered == 0 {
		t.Error("no other line was answered between the first death and the end of the poisonous one")
	}
	if err := h.End(inputs...); err != nil {
		t.Error(err)
	}
	tally, err := h.Tally(inputs...)
	if err != nil {
		t.Error(err)
	}
	v, _ := h.Verify()
	figures.Report(t, figures.Figures{
		Suite: "poison line", Count: 1, Lost: tally.Lost, Doubled: tally.Doubled, Redone: seen.Redone, Seconds: int(time.Since(began).Seconds()),
		Note: fmt.Sprintf("%d restarts with %d in flight, bound %d; %d other lines answered between the first death and the quarantine; %d redone in all",
			s.Engine.Restarts, inFlight, bound, seen.Answered, v.Redone),
	})
}

// TestHang proves that an engine which falls silent is replaced, and what silenced it is given up.
func TestHang(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, "[engine]\nkind = \"echo\"\nhang = \"500ms\"\n[engine.args]\nhang_on = \"silence\"\n[inbox]\nsettle = \"100ms\"\n")
	in := rig.Input{Name: "x.jsonl", Lines: slices.Concat([]rig.Line{{Raw: `{"custom_id":"h","prompt":"the silence of"}`, ID: "h", Code: "engine_crashed"}}, rig.Good("x", 1))}
	h.Drop(in.Name, in.Content())
	h.Start()
	if err := h.End(in); err != nil {
		t.Error(err)
	}
}

// TestStopOfTheDaemon proves that a healthy engine is not taken for a hung one by a daemon that did not run itself.
func TestStopOfTheDaemon(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, "[engine]\nkind = \"echo\"\nhang = \"2s\"\n[engine.args]\ndelay = \"1h\"\n[run]\ndrain = \"1ms\"\n[inbox]\nsettle = \"100ms\"\n")
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 5)}
	h.Drop(in.Name, in.Content())
	h.Start()
	inFlight := func() bool {
		s, _ := rig.Report[rig.Status](h, "status")
		return s.Engine.InFlight == 5
	}
	if err := h.Await("requests in flight", inFlight); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		h.Daemon.Process.Signal(syscall.SIGSTOP)
		time.Sleep(3 * time.Second)
		h.Daemon.Process.Signal(syscall.SIGCONT)
		if err := h.Await("requests in flight", inFlight); err != nil {
			t.Fatal(err)
		}
	}
	if s, _ := rig.Report[rig.Status](h, "status"); s.Engine.Restarts != 0 {
		t.Errorf("the engine was started again %d times: %s", s.Engine.Restarts, s.Engine.Reason)
	}
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
}

// TestDrainEnds proves that SIGTERM does not wait longer than run.drain.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, "[run]\ndrain = \"200ms\"\n"+rig.Config+"delay = \"10m\"\n")
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 5)}
	h.Drop(in.Name, in.Content())
	h.Start()
	err := h.Await("requests in flight", func() bool {
		s, _ := rig.Report[rig.Status](h, "status")
		return s.Engine.InFlight == 5
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	h.Write("config.toml", rig.Config)
	h.Start()
	if err := h.End(in); err != nil {
		t.Error(err)
	}
}
