package config

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each file in testdata/invalid has one mistake, or a few, and says in its first comments what Load must tell:
// "# want: LINE:COLUMN: KEY: MESSAGE", each followed by "# hint: …" if there is one.
func TestInvalidFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".toml"), func(t *testing.T) {
			t.Parallel()
			_, err := Load(Options{Path: file})
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("Load: %v, want an invalid configuration", err)
			}
			if diff := cmp.Diff(expected(t, file), told(err)); diff != "" {
				t.Errorf("errors differ (-want +got):\n%s", diff)
			}
		})
	}
}

// expected reads what a test file says of itself.
func expected(t *testing.T, file string) []string {
	t.Helper()
	document, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for s := bufio.NewScanner(bytes.NewReader(document)); s.Scan(); {
		if message, ok := strings.CutPrefix(s.Text(), "# want: "); ok {
			lines = append(lines, path+":"+message)
		} else if hint, ok := strings.CutPrefix(s.Text(), "# hint: "); ok {
			lines = append(lines, "hint: "+hint)
		}
	}
	return lines
}

// told lists the messages and hints of an error.
func told(err error) []string {
	var lines []string
	for _, e := range All(err) {
		lines = append(lines, e.Error())
		if e.Hint != "" {
			lines = append(lines, "hint: "+e.Hint)
		}
	}
	return lines
}
