package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
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
		"upper case":  "SHOUT.JSONL",
		"tilde":       "x~2.jsonl",
		"result-like": "x.output.jsonl",
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			h := newHome(t, released, config)
			in := input{name: name, lines: good("n", 3)}
			h.start()
			for range 2 {
				h.drop(in.name, in.content())
				if err := h.awaitIdle(); err != nil {
					t.Fatal(err)
				}
			}
			list, code := report[struct{ Batches []struct{ ID string } }](h, "list")
			if code != 0 || len(list.Batches) != 2 {
				t.Fatalf("list: exit code %d, %+v", code, list)
			}
			for _, args := range [][]string{{"list"}, {"status"}, {"show", list.Batches[0].ID}, {"verify", list.Batches[1].ID}} {
				if out, code := h.stoker(args...); code != 0 || strings.ContainsRune(out, '\x1b') || strings.Contains(out, "\nlines") {
					t.Errorf("stoker %q: exit code %d, %q", args, code, out)
				}
			}
			if err := h.stop(); err != nil {
				t.Error(err)
			}
			if _, err := h.verify(); err != nil {
				t.Error(err)
			}
			if err := h.judgeNamed(&in); err != nil {
				t.Error(err)
			}
		})
	}
}

// judgeNamed judges the two runs of an input whose name may have been cut.
func (h *home) judgeNamed(in *input) error {
	stem := in.name[:len(in.name)-len(".jsonl")]
	for len(stem) > 235 { // what leaves room for "~9999.duplicate.json" in 255 bytes
		stem = strings.TrimRight(stem[:len(stem)-1], "\xc3") // ü is two bytes
	}
	known := map[string]bool{}
	for n := range 2 {
		if err := h.judgeBatch(in, h.path("outbox", numbered(stem, n+1)), known); err != nil {
			return err
		}
	}
	suffix := in.name[len(in.name)-len(".jsonl"):]
	stem = in.name[:len(in.name)-len(suffix)]
	second := numbered(stem, 2) + suffix
	if len(second) > 255 {
		second = stem[:247] + "~2" + suffix
	}
	for _, name := range []string{in.name, second} {
		if got, err := os.ReadFile(h.path("archive/done", name)); err != nil || string(got) != in.content() {
			return fmt.Errorf("archived %q: %w", name, err)
		}
	}
	return h.judgeLeftovers()
}
