package check

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// inFolder makes a folder with these files the working directory, so that reports name them in short.
func inFolder(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, content := range files {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestText(t *testing.T) {
	inFolder(t, map[string]string{"mixed.jsonl": mixed, "100%\n.jsonl": strings.TrimSuffix(good, "\n"), "empty.jsonl": ""})
	var out bytes.Buffer
	ok, err := Files(t.Context(), []string{"mixed.jsonl", "100%\n.jsonl", "empty.jsonl"}, nil, Options{MaxLine: 100}, NewText(&out, 3))
	if ok || err != nil {
		t.Errorf("Files = %v, %v; want false, no error", ok, err)
	}
	want := `mixed.jsonl:5:27: invalid_json: unexpected end: the line is cut off, or the object goes on in the next one
mixed.jsonl:7:40: invalid_request: a batch does not stream: leave stream out
mixed.jsonl:4:1: duplicate_custom_id: custom_id "a" is already that of line 1
mixed.jsonl: 3 of 4 bad lines shown: --all shows all
mixed.jsonl: 6 requests, 2 valid, 4 bad
mixed.jsonl: form openai: 1
mixed.jsonl: form simple: 1
mixed.jsonl: url /v1/chat/completions: 1
mixed.jsonl: url /v1/completions: 1
mixed.jsonl: bad duplicate_custom_id: 2
mixed.jsonl: bad invalid_json: 1
mixed.jsonl: bad invalid_request: 1
"100%\n.jsonl": 2 requests, 2 valid, 0 bad
"100%\n.jsonl": form simple: 2
"100%\n.jsonl": url /v1/chat/completions: 2
"100%\n.jsonl": note: no newline after the last line: the inbox waits inbox.tail_grace for more before it takes the file
empty.jsonl: 0 requests, 0 valid, 0 bad
empty.jsonl: refused: the file is empty
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestAllProblems(t *testing.T) {
	inFolder(t, map[string]string{"x.jsonl": strings.Repeat("{}\n", 500)})
	var out bytes.Buffer
	if _, err := Files(t.Context(), []string{"x.jsonl"}, nil, Options{MaxLine: 100}, NewText(&out, 0)); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), ": invalid_request: "); n != 500 {
		t.Errorf("%d problems shown, want 500", n)
	}
}

func TestJSON(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	inFolder(t, map[string]string{"mixed.jsonl": mixed})
	var out bytes.Buffer
	paths := []string{"mixed.jsonl", "-", "missing.jsonl"}
	ok, err := Files(t.Context(), paths, strings.NewReader(good), Options{MaxLine: 100}, NewJSON(&out, 1))
	if ok || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Files = %v, %v; want false and the missing file", ok, err)
	}
	got := jsontext.Value(out.Bytes())
	if err := got.Indent(jsontext.WithIndent("  ")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(string(want)), string(got)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestJSONOfNothing(t *testing.T) {
	var out bytes.Buffer
	if err := NewJSON(&out, 0).Close(); err != nil {
		t.Fatal(err)
	}
	if want := `{"schema_version":1,"files":[],"ok":true}` + "\n"; out.String() != want {
		t.Errorf("got %s, want %s", out.String(), want)
	}
}

func TestPrintable(t *testing.T) {
	for name, want := range map[string]string{"a ä.jsonl": "a ä.jsonl", "a\n": `"a\n"`, "\x1b[2J": `"\x1b[2J"`, "\xff.jsonl": `"\xff.jsonl"`} {
		if got := Printable(name); got != want {
			t.Errorf("%q is printed as %s, want %s", name, got, want)
		}
	}
}
