package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestRecipe runs the recipe for one GPU as it is shipped, on the rehearsal engine, with a batch of the usual size.
func TestRecipe(t *testing.T) {
	t.Parallel()
	recipe, err := filepath.Abs("../../examples/gemma-3-4b.toml")
	if err != nil {
		t.Fatal(err)
	}
	h := newHome(t, released, "")
	h.flags = append(h.flags, "--config", recipe)
	h.env = []string{"STOKER_ENGINE__KIND=echo"}
	in := input{name: "questions.jsonl", lines: good("question", 5000)}
	h.write(in.name, in.content())
	h.start()
	if err := h.awaitAnswer(); err != nil {
		t.Fatal(err)
	}
	if out, code := h.stoker("submit", "--wait", h.path(in.name)); code != 0 || !strings.Contains(out, "5000 completed, 0 failed") {
		t.Fatalf("submit --wait: exit code %d, %s", code, out)
	}
	if err := h.awaitIdle(); err != nil {
		t.Fatal(err)
	}
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	if _, err := h.verify(); err != nil {
		t.Error(err)
	}
	if err := h.judge(in); err != nil {
		t.Error(err)
	}
}
