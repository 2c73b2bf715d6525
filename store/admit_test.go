package store

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"stoker/store/batchfile"
	"stoker/store/durable"
)

const (
	lineA = `{"custom_id":"a","prompt":"1"}`
	lineB = `{"custom_id":"b","prompt":"2","model":"m1"}`
	lineC = `{"custom_id":"c","url":"/v1/embeddings","body":{"input":"3","model":"m2"}}`
)

func gzipped(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(text))
	must(t, errors.Join(err, z.Close()))
	return b.String()
}

func zstded(t testing.TB, text string) string {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	must(t, err)
	return string(z.EncodeAll([]byte(text), nil))
}

func utf16le(text string) string {
	b := []byte("\xff\xfe")
	for _, u := range utf16.Encode([]rune(text)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

// errorsOf returns the codes of the requests that cannot run, by line.
func (w *world) errorsOf(id string) map[int64]string {
	w.Helper()
	b := w.open(id)
	defer b.Close()
	codes := map[int64]string{}
	for seq := range b.Meta.Requests {
		_, err := b.Request(seq)
		if bad, ok := errors.AsType[*batchfile.LineError](err); ok {
			codes[bad.Line] = bad.Code
		} else {
			must(w, err)
		}
	}
	return codes
}

func TestAdmittedFiles(t *testing.T) {
	long := `{"custom_id":"long","prompt":"` + strings.Repeat("x", 300) + `"}`
	for _, test := range []struct {
		name     string
		file     string // x.jsonl if empty
		content  string
		complete bool
		strict   bool
		requests uint32
		refused  string
		errors   map[int64]string
	}{
		{name: "plain", content: lineA + "\n" + lineB + "\n", requests: 2},
		{name: "blank lines", content: "\n" + lineA + "\n \t\r\n\n" + lineB + "\n", requests: 2},
		{name: "byte order mark and CRLF", content: "\xEF\xBB\xBF" + lineA + "\r\n" + lineB + "\r\n", requests: 2},
		{name: "last line without end", content: lineA + "\n" + lineB, complete: true, requests: 2},
		{name: "bad lines", content: lineA + "\n{\n" + lineB + "\n[]\n", requests: 4, errors: map[int64]string{2: "invalid_json", 4: "invalid_json"}},
		{name: "bad encoding", content: lineA + "\n{\"custom_id\":\"\xff\",\"prompt\":\"x\"}\n", requests: 2, errors: map[int64]string{2: "invalid_encoding"}},
		{name: "too long", content: long + "\n" + lineA + "\n", requests: 2, errors: map[int64]string{1: "line_too_long"}},
		{name: "duplicates", content: lineA + "\n\n" + lineB + "\n" + lineA + "\n" + lineB + "\n" + lineA + "\n", requests: 5,
			errors: map[int64]string{4: "duplicate_custom_id", 5: "duplicate_custom_id", 6: "duplicate_custom_id"}},
		{name: "only bad lines", content: "{\n}\n", requests: 2, refused: "invalid_request", errors: map[int64]string{1: "invalid_json", 2: "invalid_json"}},
		{name: "strict", strict: true, content: lineA + "\n{\n", requests: 2, refused: "invalid_request", errors: map[int64]string{2: "invalid_json"}},
		{name: "strict and good", strict: true, content: lineA + "\n", requests: 1},
		{name: "only blank lines", content: "\n \n", refused: "empty_file"},
		{name: "UTF-16", content: utf16le(lineA + "\n"), refused: "invalid_encoding"},
		{name: "gzip", file: "x.jsonl.gz", content: gzipped(t, lineA+"\n"+lineB+"\n"), requests: 2},
		{name: "gzip in two members", file: "X.JSONL.GZ", content: gzipped(t, lineA+"\n") + gzipped(t, lineB+"\n"), requests: 2},
		{name: "zstd", file: "x.jsonl.zst", content: zstded(t, lineA+"\n"+lineB+"\n"), requests: 2},
		{name: "no gzip", file: "x.jsonl.gz", content: lineA + "\n", refused: "invalid_encoding"},
		{name: "no zstd", file: "x.jsonl.zst", content: lineA + "\n", refused: "invalid_encoding"},
		{name: "gzip of UTF-16", file: "x.jsonl.gz", content: gzipped(t, utf16le(lineA+"\n")), refused: "invalid_encoding"},
		{name: "gzip cut off for good", file: "x.jsonl.gz", complete: true, content: cutOff(gzipped(t, lineA+"\n"+lineB+"\n")), requests: 2, refused: "invalid_encoding"},
		{name: "zstd cut off for good", file: "x.jsonl.zst", complete: true, content: cutOff(zstded(t, lineA+"\n")), refused: "invalid_encoding"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := openWorld(t)
			if test.file == "" {
				test.file = "x.jsonl"
			}
			a := w.drop(test.file, test.content)
			a.Complete, a.Strict, a.MaxLine = test.complete, test.strict, 200
			r := w.admit(a)
			m, err := w.Meta(r.ID)
			must(t, err)
			if r.State != Validating || r.Name != "x" && r.Name != "X" {
				t.Errorf("record %+v", r)
			}
			if m.Requests != test.requests || m.Input.Bytes != int64(len(test.content)) || m.Input.SHA256 != durable.SumBytes([]byte(test.content)) {
				t.Errorf("meta %+v", m)
			}
			refused := ""
			if m.Refused != nil {
				refused = m.Refused.Code
			}
			if refused != test.refused {
				t.Errorf("refused with %q (%+v), want %q", refused, m.Refused, test.refused)
			}
			if test.errors == nil {
				test.errors = map[int64]string{}
			}
			if diff := cmp.Diff(test.errors, w.errorsOf(r.ID)); diff != "" {
				t.Errorf("errors by line (-want +got):\n%s", diff)
			}
			if m.Invalid != uint32(len(test.errors)) {
				t.Errorf("%d invalid, want %d", m.Invalid, len(test.errors))
			}
			w.checkClean()
		})
	}
}

// cutOff takes away what makes a compressed stream complete, not what it says.
func cutOff(s string) string { return s[:len(s)-3] }

func TestIndexOfLines(t *testing.T) {
	w := openWorld(t)
	r := w.admit(w.drop("x.jsonl", "\xEF\xBB\xBF"+lineA+"\r\n\n"+lineB+"\n"+lineA+"\n"+lineC+"\n"))
	b := w.open(r.ID)
	defer b.Close()
	if b.Meta.Endpoint != batchfile.ChatCompletions || !cmp.Equal(b.Meta.Models, []string{"m1", "m2"}) {
		t.Errorf("endpoint %q, models %v", b.Meta.Endpoint, b.Meta.Models)
	}
	for seq, want := range []struct {
		line int64
		id   string
	}{{1, "a"}, {3, "b"}, {4, "a"}, {5, "c"}} {
		req, err := b.Request(uint32(seq))
		ref := req.Ref
		if bad, ok := errors.AsType[*batchfile.LineError](err); ok {
			ref = bad.Ref
		}
		if ref.Line != want.line || ref.CustomID != want.id {
			t.Errorf("request %d is %+v, want line %d, %q", seq, ref, want.line, want.id)
		}
	}
	_, err := b.Request(2)
	if err == nil || !strings.Contains(err.Error(), `custom_id "a" is already that of line 1`) {
		t.Errorf("the duplicate's error: %v", err)
	}
	if _, err := b.Request(4); err == nil {
		t.Error("read a request that there is not")
	}
}

func TestIncompleteFilesWait(t *testing.T) {
	for _, test := range []struct {
		name, file, content string
		want                error
	}{
		{"no newline", "x.jsonl", lineA, ErrNoNewline},
		{"empty", "x.jsonl", "", ErrNoNewline},
		{"gzip", "x.jsonl.gz", cutOff(gzipped(t, lineA+"\n")), ErrTruncated},
		{"empty gzip", "x.jsonl.gz", "", ErrTruncated},
		{"gzip without newline", "x.jsonl.gz", gzipped(t, lineA), ErrNoNewline},
		{"zstd", "x.jsonl.zst", cutOff(zstded(t, strings.Repeat(lineA+"\n", 1000))), ErrTruncated},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := openWorld(t)
			a := w.drop(test.file, test.content)
			if _, err := w.Admit(context.Background(), a); !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			w.checkNothingLeft()
			a.Complete = true
			w.admit(a)
		})
	}
}

// checkNothingLeft checks that a failed admission left nothing in the state folder.
func (w *world) checkNothingLeft() {
	w.Helper()
	left, err := os.ReadDir(filepath.Join(w.Dir(), "batches"))
	if err != nil || len(left) > 0 {
		w.Errorf("left in the state: %v, %v", left, err)
	}
	if len(w.reserved) > 0 {
		w.Errorf("names still held: %v", w.reserved)
	}
}

func TestChangedWhileCopied(t *testing.T) {
	w := openWorld(t)
	a := w.drop("x.jsonl", lineA+"\n")
	for name, change := range map[string]func(path string) error{
		"appended": func(path string) error { return os.WriteFile(path, []byte(lineA+"\n"+lineB+"\n"), 0o644) },
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+"2", []byte(lineB+"\n"), 0o644), os.Rename(path+"2", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			before, err := os.Stat(a.Path)
			must(t, err)
			must(t, change(a.Path))
			if err := unchanged(durable.Local{}, a.Path, before); !errors.Is(err, ErrChanged) {
				t.Errorf("got %v, want ErrChanged", err)
			}
		})
	}
}

func TestAdmissionStops(t *testing.T) {
	w := openWorld(t)
	a := w.drop("x.jsonl", lineA+"\n")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.Admit(ctx, a); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	w.checkNothingLeft()
}

func TestAdmissionIsIdempotent(t *testing.T) {
	w := openWorld(t)
	a := w.drop("x.jsonl", lines(3))
	r := w.admit(a)
	b := w.open(r.ID)
	w.record(b, 0, "kept")
	must(t, b.Close())
	again := w.admit(a)
	if diff := cmp.Diff(r, again); diff != "" {
		t.Errorf("record (-first +second):\n%s", diff)
	}
	if b = w.open(r.ID); !b.Progress().Has(0) {
		t.Error("the second admission lost a record")
	}
	must(t, b.Close())
}

// A commit that fails may have reached the disk: its batch's folder stays, so that a new start finds it whole.
func TestFailedCommitKeepsTheFolder(t *testing.T) {
	w := openWorld(t)
	a := w.drop("x.jsonl", lines(3))
	a.NameTaken = func(string, FileName) (bool, error) { return false, w.Close() }
	if _, err := w.Admit(context.Background(), a); !errors.Is(err, errCommit) {
		t.Fatalf("admitted without a database: %v", err)
	}
	if _, err := readMeta(w.fs, w.batchDir(a.ID)); err != nil {
		t.Error(err)
	}
	s, err := Open(w.Dir())
	must(t, err)
	w.Store = s
	a.NameTaken = w.nameTaken
	if r := w.admit(a); r.Name != "x" {
		t.Errorf("admitted as %q", r.Name)
	}
	w.finish(a.ID, life{})
}

func TestDuplicateFiles(t *testing.T) {
	w := openWorld(t)
	first := w.admit(w.drop("x.jsonl", lines(2)))
	admit := func(change func(*Admission)) (*Record, error) {
		a := w.drop("x.jsonl", lines(2))
		if change != nil {
			change(&a)
		}
		return w.Admit(context.Background(), a)
	}
	check := func(err error, of string) {
		t.Helper()
		duplicate, ok := errors.AsType[*Duplicate](err)
		if !ok || duplicate.Of != of {
			t.Errorf("got %v, want a duplicate of %s", err, of)
		}
	}
	_, err := admit(nil)
	check(err, first.ID)
	if _, err := admit(func(a *Admission) { a.Queue = "other" }); err != nil {
		t.Errorf("in another queue: %v", err)
	}
	w.finish(first.ID, life{})
	_, err = admit(func(a *Admission) { a.SkipEnded = true })
	check(err, first.ID)
	second, err := admit(nil)
	must(t, err)
	if second.Name != "x~2" {
		t.Errorf("runs again as %q", second.Name)
	}
	_, err = admit(nil)
	check(err, second.ID)
}

// Several admissions at a time neither share a name nor run the same file twice.
func TestConcurrentAdmissions(t *testing.T) {
	w := openWorld(t)
	var group sync.WaitGroup
	names := make(chan FileName, 16)
	for i := range 16 {
		a := w.drop("x.jsonl", lines(i/2+1)) // each content twice
		group.Go(func() {
			r, err := w.Admit(context.Background(), a)
			if err == nil {
				names <- r.Name
			} else if _, ok := errors.AsType[*Duplicate](err); !ok {
				t.Error(err)
			}
		})
	}
	group.Wait()
	close(names)
	seen := map[FileName]bool{}
	for name := range names {
		if seen[name] {
			t.Errorf("%q was given twice", name)
		}
		seen[name] = true
	}
	if len(seen) != 8 {
		t.Errorf("%d batches of 8 different files", len(seen))
	}
}

func TestTooManyLines(t *testing.T) {
	w := openWorld(t)
	s := snapshot{meta: &Meta{}, admission: w.drop("x.jsonl", lineA+"\n")}
	if s.tooMany(batchfile.Line{Number: maxLines}) || s.meta.Refused != nil {
		t.Error("refused the last line that has a number")
	}
	if !s.tooMany(batchfile.Line{Number: maxLines + 1}) || s.meta.Refused == nil {
		t.Error("took a line that has no number")
	}
}

func TestDefaultsKeepTheirDigits(t *testing.T) {
	w := openWorld(t)
	a := w.drop("x.jsonl", lineA+"\n")
	a.Defaults = map[string]any{"seed": int64(9007199254740993), "stop": []string{"x"}}
	m, err := w.Meta(w.admit(a).ID)
	must(t, err)
	if want := `{"seed":9007199254740993,"stop":["x"]}`; string(m.Defaults) != want {
		t.Errorf("defaults are %s, want %s", m.Defaults, want)
	}
}

func TestSweepAtOpen(t *testing.T) {
	w := openWorld(t)
	kept := w.admitLines(1)
	unfinished, whole := NewID(), NewID()
	must(t, os.Mkdir(w.batchDir(unfinished), 0o700))
	must(t, os.WriteFile(w.path(unfinished, inputFile), []byte("{}\n"), 0o600))
	must(t, os.Mkdir(w.batchDir(whole), 0o700))
	must(t, os.WriteFile(w.path(whole, metaFile), []byte("{}"), 0o600))
	must(t, os.WriteFile(filepath.Join(w.Dir(), dbName+".77.tmp"), nil, 0o600))
	must(t, w.Close())
	s, err := Open(w.Dir())
	must(t, err)
	w.Store = s
	for path, want := range map[string]bool{
		w.batchDir(kept): true, w.batchDir(whole): true, w.batchDir(unfinished): false, filepath.Join(w.Dir(), dbName+".77.tmp"): false,
	} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestOpenState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if _, err := OpenReadOnly(dir); !errors.Is(err, ErrNoState) {
		t.Errorf("read-only without state: %v", err)
	}
	s, err := Open(dir)
	must(t, err)
	instance := s.Instance()
	if _, err := Open(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("second open: %v", err)
	}
	must(t, s.Close())
	s, err = OpenReadOnly(dir)
	must(t, err)
	defer s.Close()
	if s.Instance() != instance {
		t.Errorf("instance %s became %s", instance, s.Instance())
	}
}

// A database that is older than its batches, put back from a copy, has none of their results removed: it is to be rebuilt.
func TestOlderDatabase(t *testing.T) {
	w := openWorld(t)
	db := filepath.Join(w.Dir(), dbName)
	older, err := os.ReadFile(db)
	must(t, err)
	a := w.drop("x.jsonl", lines(3))
	b := w.open(w.admit(a).ID)
	w.record(b, 0, "kept")
	must(t, errors.Join(b.Close(), w.Close(), os.WriteFile(db, older, 0o600)))
	s, err := Open(w.Dir())
	must(t, err)
	w.Store = s
	if _, err := w.Admit(context.Background(), a); !errors.Is(err, ErrDamagedDB) {
		t.Errorf("admitted again: %v", err)
	}
	report, err := w.Verify(context.Background(), "", w.folders())
	must(t, err)
	if !report.Broken() {
		t.Error("verify sees nothing wrong")
	}
	must(t, w.Close())
	if _, err := Rebuild(context.Background(), w.Dir(), w.folders(), false); err != nil {
		t.Fatal(err)
	}
	s, err = Open(w.Dir())
	must(t, err)
	w.Store = s
	if b := w.open(a.ID); !b.Progress().Has(0) {
		t.Error("the result is gone")
	} else {
		must(t, b.Close())
	}
	w.finish(a.ID, life{})
}
