package e2e

import (
	"errors"
	"math"
	"testing"
)

// end stops an idle stoker and judges all it did.
func (h *home) end(inputs ...input) error {
	if err := h.awaitIdle(); err != nil {
		return err
	}
	if err := h.stop(); err != nil {
		return err
	}
	_, err := h.verify()
	return errors.Join(err, h.judge(inputs...))
}

// TestPoison proves that a request which kills the engine costs itself alone, after few restarts.
func TestPoison(t *testing.T) {
	t.Parallel()
	h := newHome(t, released, config+"crash_on = \"poison\"\n")
	poison := line{raw: `{"custom_id":"p","prompt":"drink this poison"}`, id: "p", code: "engine_crashed"}
	inputs := []input{
		{name: "before.jsonl", lines: good("before", 100)},
		{name: "poisoned.jsonl", lines: concat(good("x", 350), []line{poison}, good("y", 150))},
	}
	for _, in := range inputs {
		h.drop(in.name, in.content())
	}
	h.start()
	if err := h.awaitIdle(); err != nil {
		t.Fatal(err)
	}
	s, _ := report[status](h, "status")
	if limit := math.Ceil(math.Log2(float64(s.Engine.Capacity))) + 3; float64(s.Engine.Restarts) > limit || s.Engine.Restarts == 0 {
		t.Errorf("%d restarts, want at least one and at most %.0f", s.Engine.Restarts, limit)
	}
	if err := h.end(inputs...); err != nil {
		t.Error(err)
	}
}

// TestHang proves that an engine which falls silent is replaced, and what silenced it is given up.
func TestHang(t *testing.T) {
	t.Parallel()
	h := newHome(t, released, "[engine]\nkind = \"echo\"\nhang = \"500ms\"\n[engine.args]\nhang_on = \"silence\"\n[inbox]\nsettle = \"100ms\"\n")
	in := input{name: "x.jsonl", lines: concat([]line{{raw: `{"custom_id":"h","prompt":"the silence of"}`, id: "h", code: "engine_crashed"}}, good("x", 1))}
	h.drop(in.name, in.content())
	h.start()
	if err := h.end(in); err != nil {
		t.Error(err)
	}
}

// TestDrainEnds proves that SIGTERM does not wait longer than run.drain.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	h := newHome(t, released, "[run]\ndrain = \"200ms\"\n"+config+"delay = \"10m\"\n")
	in := input{name: "x.jsonl", lines: good("x", 5)}
	h.drop(in.name, in.content())
	h.start()
	err := h.await("requests in flight", func() bool {
		s, _ := report[status](h, "status")
		return s.Engine.InFlight == 5
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h.write("config.toml", config)
	h.start()
	if err := h.end(in); err != nil {
		t.Error(err)
	}
}
