package engine

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func drained(t *testing.T, output string) *tail {
	log, err := openLog(filepath.Join(t.TempDir(), "worker.log"), logLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	tail := &tail{log: log}
	tail.drain(io.NopCloser(strings.NewReader(output)))
	if written, err := os.ReadFile(log.path); err != nil || string(written) != output {
		t.Errorf("the log holds %.80q, want %.80q: %v", written, output, err)
	}
	return tail
}

func TestCauseOfDeath(t *testing.T) {
	for name, c := range map[string]struct {
		output string
		want   []string
	}{
		"errors only":  {"INFO fine\nTraceback (most recent call last):\nRuntimeError: CUDA out of memory\nINFO bye\n", []string{"Traceback (most recent call last):", "RuntimeError: CUDA out of memory"}},
		"else all":     {"one\n\ntwo", []string{"one", "two"}},
		"progress bar": {" 1%\r50%\r\x1b[1m100%\x1b[0m\r\n", []string{"1%", "50%", "[1m100%[0m"}},
		"no UTF-8":     {"b\xffd\n", []string{"b\uFFFDd"}},
		"nothing":      {"", nil},
	} {
		if diff := cmp.Diff(c.want, drained(t, c.output).cause()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestCauseIsBounded(t *testing.T) {
	got := drained(t, strings.Repeat("error: "+strings.Repeat("é", 10000)+"\n", 50)).cause()
	if len(got) != tailErrors {
		t.Errorf("%d lines, want %d", len(got), tailErrors)
	}
	for _, line := range got {
		if len(line) > tailLineSize+utf8.UTFMax || !utf8.ValidString(line) {
			t.Errorf("a line of %d bytes, UTF-8 %t", len(line), utf8.ValidString(line))
		}
	}
}

func TestLogIsRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "worker.log")
	for _, b := range []string{"aaaa", "bbbb", "cccc", "a write that is larger than the limit", "dddd"} {
		log, err := openLog(path, 10) // as each start does
		if err != nil {
			t.Fatal(err)
		}
		log.Write([]byte(b))
		log.Close()
	}
	for name, want := range map[string]string{path: "dddd", path + ".1": "a write that is larger than the limit"} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s holds %q, want %q: %v", name, got, want, err)
		}
	}
}
