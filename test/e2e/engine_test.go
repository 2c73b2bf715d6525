package e2e

import (
	"math"
	"slices"
	"testing"

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
	if err := h.AwaitIdle(); err != nil {
		t.Fatal(err)
	}
	s, _ := rig.Report[rig.Status](h, "status")
	if limit := math.Ceil(math.Log2(float64(s.Engine.Capacity))) + 3; float64(s.Engine.Restarts) > limit || s.Engine.Restarts == 0 {
		t.Errorf("%d restarts, want at least one and at most %.0f", s.Engine.Restarts, limit)
	}
	if err := h.End(inputs...); err != nil {
		t.Error(err)
	}
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
