package e2e

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"stoker/test/rig"
)

// TestGrowing proves that a file is taken whole, however slowly and with whatever pauses inside a line it is written.
func TestGrowing(t *testing.T) {
	t.Parallel()
	if err := slowWriter(t, ""); err != nil {
		t.Error(err)
	}
}

func slowWriter(t *testing.T, plant string) error {
	h := rig.NewHome(t, rig.Faulty, strings.Replace(rig.Config, `tail_grace = "500ms"`, `tail_grace = "30s"`, 1))
	in := rig.Input{Name: "slow.jsonl", Lines: rig.Good("slow", 8)}
	h.Start("STOKER_PLANT=" + plant)
	f, err := os.Create(h.Path("inbox", in.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for part := range strings.SplitAfterSeq(in.Content(), " says") { // in the middle of a line
		if _, err := f.WriteString(part); err != nil {
			t.Fatal(err)
		}
		time.Sleep(250 * time.Millisecond) // the settle time is 100 ms
	}
	return h.End(in)
}

// TestReplacedAndVanished proves that only what lies in the inbox when a file has settled is taken.
func TestReplacedAndVanished(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, "[inbox]\nsettle = \"4s\"\nrescan = \"200ms\"\n[engine]\nkind = \"echo\"\n")
	h.Start()
	if err := h.AwaitAnswer(); err != nil {
		t.Fatal(err)
	}
	first, second := rig.Input{Name: "x.jsonl", Lines: rig.Good("first", 3)}, rig.Input{Name: "x.jsonl", Lines: rig.Good("second", 3)}
	gone := rig.Input{Name: "gone.jsonl", Lines: rig.Good("gone", 3)}
	h.Drop(first.Name, first.Content())
	h.Drop(gone.Name, gone.Content())
	h.AwaitState("settling", 2)
	h.Drop(second.Name, second.Content())
	if err := os.Remove(h.Path("inbox", gone.Name)); err != nil {
		t.Fatal(err)
	}
	if err := h.End(second); err != nil {
		t.Error(err)
	}
}

// TestUnreadable proves that a file which may not be read waits, in words, until it may.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, rig.Config)
	if os.Geteuid() == 0 {
		h.GiveTo(65534) // nobody: the superuser may read everything
	}
	in := rig.Input{Name: "secret.jsonl", Lines: rig.Good("secret", 3)}
	h.Drop(in.Name, in.Content())
	if err := os.Chmod(h.Path("inbox", in.Name), 0); err != nil {
		t.Fatal(err)
	}
	h.Start()
	if reason := h.AwaitState("waiting", 1); !strings.Contains(reason, "permission denied") {
		t.Errorf("it waits because %q", reason)
	}
	if err := os.Chmod(h.Path("inbox", in.Name), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := h.End(in); err != nil {
		t.Error(err)
	}
}

// TestChangedAfterClaim proves that a batch is what the file was when it was claimed, and says that it changed.
func TestChangedAfterClaim(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, rig.Config+"delay = \"4s\"\n")
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 3)}
	h.Start()
	if err := h.AwaitAnswer(); err != nil {
		t.Fatal(err)
	}
	h.Drop(in.Name, in.Content())
	if err := h.Await("requests in flight", func() bool { s, _ := rig.Report[rig.Status](h, "status"); return s.Engine.InFlight == 3 }); err != nil {
		t.Fatal(err)
	}
	claimed := rig.Glob(t, h.Path("inbox/.processing/*/*/x.jsonl"))
	f, err := os.OpenFile(claimed[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("{\"prompt\":\"late\"}\n"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := errors.Join(h.AwaitIdle(), h.Stop()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Verify(); err != nil {
		t.Error(err)
	}
	if err := h.JudgeBatch(&in, h.Path("outbox/x"), map[string]bool{}); err != nil {
		t.Error(err)
	}
	if object, err := os.ReadFile(h.Path("outbox/x.batch.json")); err != nil || !strings.Contains(string(object), `"changed_after_claim": true`) {
		t.Errorf("the batch object does not tell of the change: %v", err)
	}
}

// TestLongLine proves that a line over max_line costs itself, however long it is.
func TestLongLine(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, rig.Config)
	huge := rig.Line{Raw: `{"custom_id":"huge","prompt":"` + strings.Repeat("x", 20<<20) + `"}`, ID: "huge", Code: "line_too_long"}
	in := rig.Input{Name: "huge.jsonl", Lines: slices.Concat(rig.Good("a", 2), []rig.Line{huge}, rig.Good("b", 2))}
	h.Drop(in.Name, in.Content())
	h.Start()
	if err := h.End(in); err != nil {
		t.Error(err)
	}
}
