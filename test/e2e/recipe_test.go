package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"stoker/test/rig"
)

// TestRecipe runs the recipe for one GPU as it is shipped, on the rehearsal engine, with a batch of the usual size.
func TestRecipe(t *testing.T) {
	t.Parallel()
	recipe, err := filepath.Abs("../../examples/gemma-3-4b.toml")
	if err != nil {
		t.Fatal(err)
	}
	h := rig.NewHome(t, rig.Released, "")
	h.Flags = append(h.Flags, "--config", recipe)
	h.Env = []string{"STOKER_ENGINE__KIND=echo"}
	in := rig.Input{Name: "questions.jsonl", Lines: rig.Good("question", 5000)}
	h.Write(in.Name, in.Content())
	h.Start()
	if err := h.AwaitAnswer(); err != nil {
		t.Fatal(err)
	}
	if out, code := h.Stoker("submit", "--wait", h.Path(in.Name)); code != 0 || !strings.Contains(out, "5000 completed, 0 failed") {
		t.Fatalf("submit --wait: exit code %d, %s", code, out)
	}
	if err := h.AwaitIdle(); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := h.Verify(); err != nil {
		t.Error(err)
	}
	if err := h.Judge(in); err != nil {
		t.Error(err)
	}
}
