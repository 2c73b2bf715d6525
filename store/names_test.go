package store

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"stoker/store/batchfile"
)

func TestSplitInputName(t *testing.T) {
	for _, test := range []struct {
		name, stem string
		c          batchfile.Compression
		ok         bool
	}{
		{"x.jsonl", "x", batchfile.Plain, true},
		{"x.y.JSONL", "x.y", batchfile.Plain, true},
		{"x.jsonl.gz", "x", batchfile.Gzip, true},
		{"x.Jsonl.Zst", "x", batchfile.Zstd, true},
		{".jsonl", "", batchfile.Plain, false},
		{"x.json", "", batchfile.Plain, false},
		{"x.jsonl.bz2", "", batchfile.Plain, false},
		{"jsonl", "", batchfile.Plain, false},
		{"\xff.jsonl", "\xff", batchfile.Plain, true},
	} {
		stem, c, ok := SplitInputName(test.name)
		if stem != test.stem || c != test.c || ok != test.ok {
			t.Errorf("%q: %q, %q, %v", test.name, stem, c, ok)
		}
	}
}

func TestLongNamesAreCutAtACharacter(t *testing.T) {
	const room = maxName - len("~9999.duplicate.json")
	for _, test := range []struct{ name, stem, want string }{
		{"fits", strings.Repeat("a", room), strings.Repeat("a", room)},
		{"ASCII", strings.Repeat("a", room+9), strings.Repeat("a", room)},
		{"three bytes each", strings.Repeat("日", 84), strings.Repeat("日", room/3)},
		{"not UTF-8", strings.Repeat("\x80", 249), strings.Repeat("\x80", room)},
	} {
		stem, _, ok := SplitInputName(test.stem + ".jsonl")
		if !ok || stem != test.want {
			t.Errorf("%s: %d bytes %q, want %d", test.name, len(stem), stem, len(test.want))
		}
	}
}

func TestFileNamesInJSON(t *testing.T) {
	for _, name := range []FileName{"x", "", "日本", `a"b\`, "\xff\xfe", "a\x80b", "line\nbreak", "base64"} {
		b, err := json.Marshal(struct{ Name FileName }{name})
		must(t, err)
		var back struct{ Name FileName }
		if err := json.Unmarshal(b, &back); err != nil || back.Name != name {
			t.Errorf("%q became %q through %s, %v", string(name), string(back.Name), b, err)
		}
	}
	for _, bad := range []string{`1`, `{"base64":"%"}`, `{"base64":1}`, `[]`} {
		if err := json.Unmarshal([]byte(bad), new(FileName)); err == nil {
			t.Errorf("took %s for a name", bad)
		}
	}
}

func TestNamesThroughTheStore(t *testing.T) {
	w := openWorld(t)
	for _, test := range []struct{ file, name, content string }{
		{"x.jsonl", "x", lines(1)},
		{"x.jsonl.gz", "x~2", gzipped(t, lines(2))}, // shares its NAME
		{"x.jsonl", "x~3", lines(3)},
		{"x~2.jsonl", "x~2~2", lines(1)},
		{"\xff.jsonl", "\xff", lines(1)},
		{strings.Repeat("ü", 120) + ".jsonl", strings.Repeat("ü", 117), lines(1)},
	} {
		r := w.admit(w.drop(test.file, test.content))
		got, err := w.Get(r.ID)
		must(t, err)
		m, err := w.Meta(r.ID)
		must(t, err)
		if string(got.Name) != test.name || m.Name != got.Name || string(m.Input.Name) != test.file {
			t.Errorf("%q got the name %q (%q), want %q", test.file, string(got.Name), string(m.Name), test.name)
		}
	}
}

func TestForeignFilesTakeNames(t *testing.T) {
	w := openWorld(t)
	w.install("x", SuffixBatch, nil)
	if r := w.admit(w.drop("x.jsonl", lines(1))); r.Name != "x~2" {
		t.Errorf("got the name %q", r.Name)
	}
}
