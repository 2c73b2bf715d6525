package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"stoker/test/rig"
)

// TestNames proves that a file may have any name that its filesystem allows, and have it twice.
func TestNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 121) + "xy.jsonl" // 250 bytes
	for title, name := range map[string]string{
		"space":       "with space .jsonl",
		"newline":     "two\nlines.jsonl",
		"not UTF-8":   "caf\xe9.jsonl",
		"escape":      "\x1b[31mred.jsonl",
		"pattern":     "a[b]*?.jsonl",
		"dash":        "-rf.jsonl",
		"long":        long,
		"longest":     "xxxxx" + long,
		"all ASCII":   strings.Repeat("x", 249) + ".jsonl",
		"control":     "\a\x7f\u009b31m\u202e\r.jsonl",
		"upper case":  "SHOUT.JSONL",
		"tilde":       "x~2.jsonl",
		"result-like": "x.output.jsonl",
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			h := rig.NewHome(t, rig.Released, rig.Config)
			in := rig.Input{Name: name, Lines: rig.Good("n", 3)}
			h.Start()
			for range 2 {
				h.Drop(in.Name, in.Content())
				if err := h.AwaitIdle(); err != nil {
					t.Fatal(err)
				}
			}
			list, code := rig.Report[struct{ Batches []struct{ ID string } }](h, "list")
			if code != 0 || len(list.Batches) != 2 {
				t.Fatalf("list: exit code %d, %+v", code, list)
			}
			for _, args := range [][]string{{"list"}, {"status"}, {"show", list.Batches[0].ID}, {"verify", list.Batches[1].ID}} {
				if out, code := h.Stoker(args...); code != 0 || strings.ContainsRune(out, '\x1b') || strings.Contains(out, "\nlines") {
					t.Errorf("stoker %q: exit code %d, %q", args, code, out)
				}
			}
			if err := h.Stop(); err != nil {
				t.Error(err)
			}
			if _, err := h.Verify(); err != nil {
				t.Error(err)
			}
			if err := judgeNamed(h, &in); err != nil {
				t.Error(err)
			}
		})
	}
}

// judgeNamed judges the two runs of an input whose name may have been cut.
func judgeNamed(h *rig.Home, in *rig.Input) error {
	stem := in.Name[:len(in.Name)-len(".jsonl")]
	for len(stem) > 235 { // what leaves room for "~9999.duplicate.json" in 255 bytes
		stem = strings.TrimRight(stem[:len(stem)-1], "\xc3") // ü is two bytes
	}
	known := map[string]bool{}
	for n := range 2 {
		if err := h.JudgeBatch(in, h.Path("outbox", rig.Numbered(stem, n+1)), known); err != nil {
			return err
		}
	}
	suffix := in.Name[len(in.Name)-len(".jsonl"):]
	stem = in.Name[:len(in.Name)-len(suffix)]
	second := rig.Numbered(stem, 2) + suffix
	if len(stem) > 233 { // what leaves room for "~2" and, if need be, for "~9999.duplicate.json"
		second = strings.TrimRight(stem[:233], "\xc3") + "~2" + suffix
	}
	for _, name := range []string{in.Name, second} {
		if got, err := os.ReadFile(h.Path("archive/done", name)); err != nil || string(got) != in.Content() {
			return fmt.Errorf("archived %q: %w", name, err)
		}
	}
	return h.JudgeLeftovers()
}
