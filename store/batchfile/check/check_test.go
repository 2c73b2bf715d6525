package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"stoker/store/batchfile"
)

const (
	mixed = `{"custom_id":"a","prompt":"x"}
{"custom_id":"b","url":"/v1/completions","body":{"prompt":"x"}}

{"custom_id":"a","body":{"messages":[{}]}}
{"custom_id":"c","prompt":
{"custom_id":"a","prompt":"y"}
{"custom_id":"d","prompt":"x","stream":true}
`
	good = `{"custom_id":"a","prompt":"x"}
{"custom_id":"b","prompt":"x"}
`
)

func check(t *testing.T, in string) (Report, []string) {
	t.Helper()
	var problems []string
	opts := Options{MaxLine: 100, TempDir: t.TempDir(), Problem: func(e *batchfile.LineError) error {
		problems = append(problems, fmt.Sprintf("%d:%d %s", e.Line, e.Column, e.Code))
		return nil
	}}
	report, err := Reader(t.Context(), strings.NewReader(in), opts)
	if err != nil {
		t.Fatal(err)
	}
	return report, problems
}

func TestReader(t *testing.T) {
	report, problems := check(t, mixed)
	want := Report{
		Bytes: int64(len(mixed)), Lines: 7, Requests: 6,
		ByForm: map[batchfile.Form]int64{batchfile.Simple: 1, batchfile.OpenAI: 1},
		ByURL:  map[string]int64{batchfile.ChatCompletions: 1, batchfile.Completions: 1},
		ByCode: map[string]int64{batchfile.CodeInvalidJSON: 1, batchfile.CodeInvalidRequest: 1, batchfile.CodeDuplicateCustomID: 2},
	}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	wantProblems := []string{"5:27 invalid_json", "7:40 invalid_request", "4:0 duplicate_custom_id", "6:0 duplicate_custom_id"}
	if diff := cmp.Diff(wantProblems, problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestFileAsAWhole(t *testing.T) {
	for _, test := range []struct {
		name, in, refused string
		ok, noNewline     bool
	}{
		{"good", good, "", true, false},
		{"no newline", strings.TrimSuffix(good, "\n"), "", true, true},
		{"byte order mark, CRLF", "\xEF\xBB\xBF" + strings.ReplaceAll(good, "\n", "\r\n"), "", true, false},
		{"empty", "", "the file is empty", false, false},
		{"blank", "\n \n", "the file holds only blank lines", false, false},
		{"UTF-16", "\xFF\xFE{\x00}\x00", "the text is UTF-16, not UTF-8: save it as UTF-8", false, false},
		{"nothing valid", "{}\n[]\n", "no line is valid", false, false},
		{"too long", good + strings.Repeat("x", 101) + "\n", "", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, _ := check(t, test.in)
			if r.Refused != test.refused || r.OK() != test.ok || r.MissingNewline != test.noNewline {
				t.Errorf("refused %q, OK %v, MissingNewline %v; want %q, %v, %v",
					r.Refused, r.OK(), r.MissingNewline, test.refused, test.ok, test.noNewline)
			}
		})
	}
}

// The ids do not fit into what a spool holds in memory, and the repeated ones are far apart.
func TestManyIDs(t *testing.T) {
	const requests = 100_000
	dir := t.TempDir()
	in, out := io.Pipe()
	go func() {
		for i := range requests {
			fmt.Fprintf(out, `{"custom_id":"a rather long name for request %d","prompt":""}`+"\n", i%(requests-3))
		}
		out.Close()
	}()
	var got []string
	report, err := Reader(t.Context(), in, Options{MaxLine: 1000, TempDir: dir, Problem: func(e *batchfile.LineError) error {
		got = append(got, e.Error())
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`duplicate_custom_id: custom_id "a rather long name for request 0" is already that of line 1`,
		`duplicate_custom_id: custom_id "a rather long name for request 1" is already that of line 2`,
		`duplicate_custom_id: custom_id "a rather long name for request 2" is already that of line 3`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if report.Requests != requests || report.ByURL[batchfile.ChatCompletions] != requests-3 {
		t.Errorf("report %+v", report)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Reader(ctx, strings.NewReader(good), Options{MaxLine: 100})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestProblemEndsTheCheck(t *testing.T) {
	full := errors.New("disk full")
	_, err := Reader(t.Context(), strings.NewReader(mixed), Options{MaxLine: 100, Problem: func(*batchfile.LineError) error { return full }})
	if !errors.Is(err, full) {
		t.Errorf("got %v, want the callback's error", err)
	}
}

func TestCompressed(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	zipped, zstded := gzipped(t, good), zstandard(t, good)
	for _, path := range []string{
		write("x.jsonl.gz", zipped),
		write("two.jsonl.GZ", append(gzipped(t, good[:40]), gzipped(t, good[40:])...)),
		write("x.jsonl.zst", zstded),
	} {
		r, err := File(t.Context(), path, Options{MaxLine: 100})
		if err != nil || !r.OK() || r.Requests != 2 || r.Bytes != int64(len(good)) {
			t.Errorf("%s: %+v, %v", path, r, err)
		}
	}
	for _, path := range []string{
		write("cut.jsonl.gz", zipped[:len(zipped)-3]),
		write("cut.jsonl.zst", zstded[:len(zstded)-3]),
		write("plain.jsonl.gz", []byte(good)),
		write("plain.jsonl.zst", []byte(good)),
		filepath.Join(dir, "missing.jsonl"),
	} {
		_, err := File(t.Context(), path, Options{MaxLine: 100})
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one that names the file", path, err)
		}
		if _, corrupt := errors.AsType[*batchfile.StreamError](err); corrupt == strings.Contains(path, "missing") {
			t.Errorf("%s: error %v, want the one that admission gives", path, err)
		}
	}
}

func gzipped(t *testing.T, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, s)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstandard(t *testing.T, s string) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll([]byte(s), nil)
}
